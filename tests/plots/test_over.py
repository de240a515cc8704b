"""A sweep over one setting is drawn in one call, from what its frame knows."""

import numpy as np
import pandas as pd
import pytest
from reading import names, title

from fmlora_lab import plots
from fmlora_lab.config import BadInput

pytestmark = pytest.mark.unit


class Drawn:
    """Stands for a run."""

    def __init__(self, seed):
        self.config = {"order_seed": 0, "data_seed": 0, "seed": seed}


def swept(axis, values, seeds=(0, 1), methods=("fm-lora",), **labels) -> pd.DataFrame:
    """A frame as a sweep gives it: Acc is 50, one more a value, ten more a method, ± the seed."""
    rows = [
        {"method": method, axis: value, **labels, "seed": seed}
        | {"acc": 50 + k + 10 * m + seed, "seconds": 1.0, "run": Drawn(seed)}
        for m, method in enumerate(methods)
        for k, value in enumerate(values)
        for seed in seeds
    ]
    return pd.DataFrame(rows)


def test_a_setting_of_numbers_is_a_line_of_means_over_its_values():
    figure = plots.over(swept("method.basis_rank", [32, 8, 16]), "method.basis_rank")
    (axis,) = figure.axes
    line = axis.get_lines()[0]
    np.testing.assert_allclose(line.get_xydata(), [[8, 51.5], [16, 52.5], [32, 50.5]])
    assert axis.get_xlabel() == "method.basis_rank" and axis.get_ylabel() == "Acc (%)"
    said = "Acc (%) from 50.5 (at 32) to 52.5 (at 16) (n = 2 seeds of training)"
    assert title(figure) == said and axis.get_xscale() == "linear"


def test_what_one_draw_is_stands_in_the_title():
    figure = plots.over(swept("method.rank", [2, 4], seeds=[0]), "method.rank")
    assert title(figure) == "Acc (%) from 50.0 (at 2) to 51.0 (at 4) (one seed)"


def test_what_else_differs_is_a_line_each():
    found = swept("method.lr", [1e-4, 1e-2], methods=("fm-lora", "lora"))
    figure = plots.over(found, "method.lr")
    (axis,) = figure.axes
    assert axis.get_xscale() == "log"
    assert sorted(names(axis)) == ["FM-LoRA", "sequential LoRA"]
    assert "from 50.5 (FM-LoRA at 0.0001) to 61.5 (sequential LoRA at 0.01)" in title(figure)


@pytest.mark.parametrize("values", [["linear", "cosine"], [True, False], [None, 3]])
def test_what_are_no_numbers_are_rows(values):
    figure = plots.over(swept("of", values), "of")
    (axis,) = figure.axes
    rows = [text.get_text() for text in axis.get_yticklabels()]
    assert rows == list(pd.DataFrame({"of": values})["of"].map(str))
    assert axis.get_xlabel() == "Acc (%)" and "from 50.5" in title(figure)


def test_methods_are_rows_of_one_series_by_their_titles():
    found = swept("tasks", [5], methods=("fm-lora", "lora"))
    figure = plots.over(found, "method")
    (axis,) = figure.axes
    rows = [text.get_text().replace("\n", " ") for text in axis.get_yticklabels()]
    assert rows == ["FM-LoRA", "sequential LoRA"]
    said = "Acc (%) from 50.5 (at FM-LoRA) to 60.5 (at sequential LoRA) (n = 2 seeds of training)"
    assert title(figure) == said
    (one,) = plots.over(found[:2], "method").axes
    assert title(one.figure) == "Acc (%) 50.5 (at FM-LoRA) (n = 2 seeds of training)"


def test_what_the_runs_do_not_have_is_refused():
    found = swept("method.rank", [2, 4])
    with pytest.raises(BadInput) as refused:
        plots.over(found, "method.rnk")
    assert str(refused.value) == (
        "the runs have no label 'method.rnk'; they have method, method.rank, seed"
    )
    with pytest.raises(BadInput, match="the runs have no number 'akk'; they have acc, seconds"):
        plots.over(found, "method.rank", "akk")
