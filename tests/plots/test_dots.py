"""Dots stand in their rows, with their ranges."""

import numpy as np
import pytest
from reading import draws, legend, marks, surrounds, title

from fmlora_lab import plots
from fmlora_lab.metrics import t_interval
from fmlora_lab.plots.style import styles

pytestmark = pytest.mark.unit


def test_dots_draw_a_row_a_group_from_top_to_bottom():
    groups = {
        "fm-lora": {"linear": [50.0, 54.0, np.nan], "class means": 60.0},
        "variant": {"class means": [70.0, 74.0, 75.0], "linear": np.nan},
        "joint": {"linear": [80.0]},
    }
    figure = plots.dots(groups, "Acc (%)", "Heads")
    (axis,) = figure.axes
    linear, means = ([p for p in row if not np.isnan(p).any()] for row in marks(axis))
    assert [x for x, _ in linear] == [52, 80] and [x for x, _ in means] == [60, 73]
    assert [round(y) for _, y in linear] == [0, 2] and [round(y) for _, y in means] == [0, 1]
    assert linear[0][1] < means[0][1]  # the first series stands above the second
    bars = [line.get_xydata().tolist() for line in axis.get_lines() if line.get_marker() == "None"]
    first, second = (bar for bar in bars if not np.isnan(bar).any())  # of several orders
    for bar, values, (_, y) in ((first, [50, 54], linear[0]), (second, [70, 74, 75], means[1])):
        assert bar == [[end, y] for end in t_interval(values)]
    assert axis.yaxis_inverted()
    names = dict(
        zip(axis.get_yticks(), (t.get_text() for t in axis.get_yticklabels()), strict=True)
    )
    assert names == {0: "FM-LoRA", 1: "variant", 2: "joint training"}
    assert surrounds(axis, [[50, 0], [80, 2]])
    assert axis.get_xlabel() == "Acc (%)"
    assert list(legend(figure)) == ["linear", "class means", "one order or seed (n = 1 to 3)"]
    single = [[x for x, _ in dots if not np.isnan(x)] for dots in draws(axis)]
    assert single == [[50, 54], [70, 74, 75]]
    assert [{y for _, y in dots} for dots in draws(axis)] == [{linear[0][1]}, {means[1][1]}]


def test_a_single_series_of_methods_looks_as_they_do():
    methods = ["fm-lora", "lora", "l2p"]
    figure = plots.dots({name: {"Acc": [50.0, 52]} for name in methods}, "", "")
    (axis,) = figure.axes
    drawn = {(line.get_color(), line.get_marker()) for line in axis.get_lines()}
    assert drawn >= {(look["color"], look["marker"]) for look in styles(methods).values()}
    assert list(legend(figure)) == ["one order or seed (n = 2)"]  # each is named by its row

    alike = plots.dots({name: {"Acc": 50.0} for name in "abc"}, "", "").axes[0].get_lines()
    assert len({line.get_color() for line in alike}) == 1


@pytest.mark.parametrize(
    ("gaps", "said"),
    [
        (
            {"lora": [2.0, 2.5, 3], "full": [-4.0, -5, -6], "l2p": [-1.0, 0, 3]},
            "Above FM-LoRA: sequential LoRA; below FM-LoRA: full fine-tuning; "
            "3 class orders cannot tell 1 of 3 from it",
        ),
        ({"lora": [2.0, 2.5, 3]}, "Above FM-LoRA: sequential LoRA"),
        ({"lora": [-1.0, 2, 3]}, "3 class orders cannot tell 1 of 1 from it"),
        (
            {"lora": [9.0]},
            "Differences from FM-LoRA in one of the class orders: no interval (one seed)",
        ),
    ],
)
def test_differences_stand_beside_0_and_the_title_says_which_lie_apart(gaps, said):
    figure = plots.differences(gaps, "fm-lora", "Acc (points)")
    (axis,) = figure.axes
    assert title(figure) == said
    assert axis.get_xlabel() == "Acc (points), minus that of FM-LoRA"
    drawn = [x for row in marks(axis) for x, _ in row if not np.isnan(x)]
    assert drawn == [np.mean(gap) for gap in gaps.values()]
    (line,) = (line for line in axis.get_lines() if set(line.get_xdata()) == {0})
    assert surrounds(axis, [[0, 0]]) and line.get_linestyle() == "-"
