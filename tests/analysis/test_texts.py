"""Transfer, Average and Last of runs of two towers, as frames and matrices."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fmlora_lab.analysis.texts import ahead, matrix, transfers, zero_shot
from fmlora_lab.config import BadInput


def a_run(number: float) -> SimpleNamespace:
    of = {"transfer": number, "average": 2.0, "last": None, "zero_shot": [10.0, 20.0]}
    head = {
        "within_task_matrix": [[60.0, 30.0], [50.0, 70.0]],
        "accuracy_matrix": [[40.0, 5.0], [35.0, 45.0]],
    }
    return SimpleNamespace(
        id="abc",
        result={
            "by_texts": {"given": of, "unknown": of | {"transfer": 1.0, "zero_shot": [3.0, 4.0]}},
            "heads": {"trained": head},
        },
        environment={"tasks": ["latin", "greek"]},
    )


def test_a_frame_has_each_measure_of_both_tasks():
    found = pd.DataFrame({"variant": ["a", "b"], "run": [a_run(5.0), a_run(6.0)]}, index=[3, 7])
    table = transfers(found)
    assert table.transfer_given.tolist() == [5.0, 6.0]
    assert table.transfer_unknown.tolist() == [1.0, 1.0]
    assert table.last_given.isna().all()
    assert table.columns[-1] == "run"
    assert table.run.tolist() == found.run.tolist()


def test_a_matrix_begins_with_zero_shot():
    run = a_run(5.0)
    assert zero_shot(run, "given") == {"latin": 10.0, "greek": 20.0}
    np.testing.assert_array_equal(matrix(run, "given"), [[10, 20], [60, 30], [50, 70]])
    np.testing.assert_array_equal(matrix(run, "unknown"), [[3, 4], [40, 5], [35, 45]])


def test_what_is_still_to_come_is_every_domain_then_fewer():
    assert ahead(matrix(a_run(5.0), "given")).tolist() == [15.0, 30.0]


def test_a_run_of_one_tower_is_named():
    run = SimpleNamespace(id="abc", result={"heads": {}}, environment={})
    with pytest.raises(BadInput, match="run abc has one tower"):
        transfers(pd.DataFrame({"run": [run]}))
