"""Tidy frames: a run's own numbers, means over its seeds, nothing lost or counted twice."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fmlora_lab.analysis.names import method_of
from fmlora_lab.analysis.tables import METRICS, summary_table
from fmlora_lab.analysis.tidy import frame, grid, pivot, summarize
from fmlora_lab.config import BadInput
from fmlora_lab.metrics import bootstrap_interval
from fmlora_lab.runs.store import RESULTS, runs


def a_run(acc=50.0, name="a", forgetting: float | None = 5.0, heads=None):
    """Stands for a stored run of two tasks."""
    head = {"acc": acc, "learning_accuracy": 80.0, "forgetting": forgetting}
    result = {
        **head,
        "aaa": 60.0,
        "heads": {"head": head, "prototype": head | {"acc": 55.5}} if heads is None else heads,
        "trainable_parameters": 1234,
        "kept_parameters": 56,
        "seconds": 12.0,
        "test_images": [400, 400],
        "inference_flops": 2_500_000,
    }
    return SimpleNamespace(id=name, result=result)


def cells(*rows) -> pd.DataFrame:
    """A frame from (method, tasks, acc) a run."""
    named = enumerate(rows)
    return frame([({"method": m, "tasks": n}, a_run(acc, f"{i}")) for i, (m, n, acc) in named])


@pytest.fixture(scope="module")
def shipped():
    found = runs(RESULTS / "glyphs-10")
    return found, frame([({"method": method_of(run), "tasks": 10}, run) for run in found])


def test_a_row_is_its_labels_then_its_runs_own_numbers():
    row = frame([({"method": "lora", "tasks": 2, "seed": 3}, a_run(70.0))]).iloc[0]
    assert row.to_dict() == {
        "method": "lora",
        "tasks": 2,
        "seed": 3,
        "acc": 70,
        "aaa": 60,
        "learning_accuracy": 80,
        "forgetting": 5,
        "acc_prototype": 55.5,
        "learning_accuracy_prototype": 80,
        "forgetting_prototype": 5,
        "acc_head": 70,
        "trainable_parameters": 1234,
        "kept_parameters": 56,
        "seconds": 12,
        "seconds_a_task": 6,
        "inference_mflops": 2.5,
        "run": "a",
    }


def test_labels_come_first_also_those_that_only_later_runs_have():
    found = [({"method": "lora"}, a_run()), ({"method": "fm-lora", "rank": 4}, a_run())]
    assert list(frame(found).columns[:3]) == ["method", "rank", "acc"]


def test_what_is_undefined_is_a_number_that_is_not_there():
    found = frame([({}, a_run(forgetting=None, heads={"prototype": {"acc": 50.0}}))])
    missing = ["forgetting", "learning_accuracy_prototype", "forgetting_prototype", "acc_head"]
    assert found.columns[found.isna().all()].tolist() == missing
    assert set(found[missing].dtypes) == {np.dtype(float)} and found.acc_prototype[0] == 50


def test_a_label_may_not_hide_a_number():
    with pytest.raises(ValueError, match="acc"):
        frame([({"acc": 1}, a_run())])


def test_real_runs_give_the_same_means_spreads_and_intervals_as_the_comparison(shipped):
    found, own = shipped
    table = summary_table(found)
    summary = summarize(own, ["method"], METRICS).set_index("method")
    columns = [f"{m}{end}" for m in METRICS for end in ("", "_std", "_low", "_high")]
    pd.testing.assert_frame_equal(summary[columns], table[columns])
    assert summary.seeds.equals(table.seeds) and list(summary.columns) == [*columns, "seeds"]
    other = own.groupby("method", sort=False)
    heads = other.acc_prototype.mean().where(table["head"] != "prototype")
    pd.testing.assert_series_equal(heads, table.other_acc, check_names=False)
    for cost in ("seconds", "seconds_a_task", "inference_mflops"):
        pd.testing.assert_series_equal(other[cost].mean(), table[cost])


def test_groups_stand_in_order_of_first_appearance():
    own = cells(("lora", 10, 1), ("fm-lora", 5, 2), ("lora", 5, 3), ("lora", 10, 5))
    summary = summarize(own, ["method", "tasks"], ["acc"])
    assert list(zip(summary.method, summary.tasks, summary.acc, summary.seeds, strict=True)) == [
        ("lora", 10, 3, 2),
        ("fm-lora", 5, 2, 1),
        ("lora", 5, 3, 1),
    ]


def test_spread_is_of_the_sample_and_only_where_there_are_several():
    own = cells(("lora", 5, 40.0), ("lora", 5, 44.0), ("lora", 5, 48.0), ("full", 5, 10.0))
    lora, full = summarize(own, ["method"], ["acc"]).to_dict("records")
    assert (lora["acc"], lora["acc_std"], lora["seeds"]) == (44, 4, 3)
    assert (lora["acc_low"], lora["acc_high"]) == bootstrap_interval([40, 44, 48])
    assert full["acc"] == 10 and np.isnan([full[f"acc_{x}"] for x in ("std", "low", "high")]).all()
    alone = summarize(own.drop(columns="tasks").iloc[2:], ["method"], ["acc"])
    assert list(alone.columns) == ["method", "acc", "seeds"]


def test_a_mean_over_fewer_seeds_than_it_says_is_no_mean():
    own = frame([({"method": "joint"}, a_run(1, "a", None)), ({"method": "joint"}, a_run(3, "b"))])
    row = summarize(own, ["method"], ["acc", "forgetting"]).iloc[0]
    assert row.acc == 2 and row.acc_std == pytest.approx(np.sqrt(2))
    assert np.isnan([row.forgetting, row.forgetting_std, row.forgetting_low]).all()


def test_a_run_that_two_cells_share_counts_once():
    shared, other = a_run(40, "a"), a_run(50, "b")
    own = frame([({"method": "lora", "of": of}, run) for of in "xy" for run in (shared, other)])
    assert summarize(own, ["method"], ["acc"]).seeds.tolist() == [2]
    assert summarize(own, ["of"], ["acc"]).seeds.tolist() == [2, 2]


def test_rows_of_one_run_are_not_taken_for_seeds():
    own = cells(("lora", 5, 1.0), ("lora", 5, 2.0)).assign(run="one")
    with pytest.raises(BadInput, match="group by more"):
        summarize(own, ["method"], ["acc"])


def test_a_group_without_a_label_is_kept():
    found = [({"method": "lora", "rank": None}, a_run(1, "a"))]
    found += [({"method": "fm-lora", "rank": r}, a_run(r, f"{r}")) for r in (8, 4)]
    summary = summarize(frame(found), ["method", "rank"], ["acc"])
    assert summary.method.tolist() == ["lora", "fm-lora", "fm-lora"]
    table = pivot(summary, "rank", "method", "acc")
    assert table.index.tolist() == ["–", "8", "4"]
    assert table["sequential LoRA"].tolist() == ["1.0", "–", "–"]
    assert table["FM-LoRA"].tolist() == ["–", "8.0", "4.0"]


def test_a_pivot_reads_as_a_table_in_order_of_appearance():
    own = cells(("lora", 20, 40.0), ("lora", 20, 44.0), ("lora", 5, 61.25), ("my-own", 5, np.nan))
    table = pivot(summarize(own, ["method", "tasks"], ["acc"]), "method", "tasks", "acc")
    assert table.to_dict("split") == {
        "index": ["sequential LoRA", "my-own"],
        "columns": [20, 5],
        "data": [["42.0 ± 2.8", "61.2"], ["–", "–"]],
    }
    assert (table.index.name, table.columns.name) == ("method", "tasks")


def test_only_methods_get_a_methods_title():
    own = frame([({"method": "lora", "trained": "full"}, a_run())])
    table = pivot(summarize(own, ["method", "trained"], ["acc"]), "trained", "method", "acc")
    assert (table.index[0], table.columns[0]) == ("full", "sequential LoRA")


def test_a_grid_holds_the_numbers_and_refuses_two_for_a_cell():
    own = cells(("lora", 5, 40.0), ("full", 5, 50.0), ("full", 10, 60.0))
    summary = summarize(own, ["method", "tasks"], ["acc"])
    np.testing.assert_array_equal(grid(summary, "method", "tasks", "acc"), [[40, np.nan], [50, 60]])
    with pytest.raises(BadInput, match="do not tell the rows apart"):
        grid(summary.assign(form="x"), "method", "form", "acc")


def test_nothing_here_imports_torch():
    code = "import sys; from fmlora_lab.analysis import latex, published, tidy; "
    done = subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"])
    assert done.returncode == 0
