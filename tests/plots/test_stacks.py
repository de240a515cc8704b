"""Bars made of parts: each as long as it is, one after another, their sum with its interval."""

import numpy as np
import pytest
from reading import draws

from fmlora_lab import plots
from fmlora_lab.metrics import t_interval
from fmlora_lab.plots.sheet import DRAWS

pytestmark = pytest.mark.unit

BARS = {
    "trained": {
        "lora": {"lost": [1.0, 3.0], "confused": [10.0, 20.0]},
        "full": {"lost": -1.0, "confused": 6.0},
    },
    "ridge": {"lora": {"lost": 2.0, "confused": 4.0}, "ranpac": {"lost": 0.5, "confused": 8.0}},
}


@pytest.fixture
def figure():
    return plots.stacks(BARS, "forgetting (points)", "Parts")


def ends(axis) -> list[tuple[float, float, int]]:
    """From, to and row of each bar."""
    boxes = [bar.get_bbox() for bar in axis.patches]
    return [(box.x0, box.x1, round((box.y0 + box.y1) / 2)) for box in boxes]


def test_parts_follow_each_other_and_one_below_0_goes_back(figure):
    trained, ridge = figure.axes
    assert ends(trained) == [(0, 2, 0), (2, 17, 0), (0, -1, 1), (-1, 5, 1)]
    assert ends(ridge) == [(0, 2, 0), (2, 6, 0), (0, 0.5, 2), (0.5, 8.5, 2)]


def test_the_interval_is_that_of_the_sum_and_rows_and_parts_have_their_names(figure):
    trained, _ = figure.axes
    assert draws(trained) == [[[11, 0], [23, 0]]]
    ranges = [line for line in trained.get_lines() if line.get_gid() != DRAWS]
    assert ranges[0].get_xdata() == pytest.approx(t_interval([11.0, 23.0]))
    assert np.isnan(ranges[1].get_xdata()).all()  # of one class order
    rows = [text.get_text() for text in trained.get_yticklabels()]
    assert rows == ["sequential LoRA", "full fine-tuning", "RanPAC"] and trained.yaxis_inverted()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["lost", "confused", "one order or seed (n = 2)"]
    assert [axis.get_title() for axis in figure.axes] == ["trained", "ridge"]


def test_no_bar_touches_the_edge():
    (axis,) = plots.stacks({"trained": {"full": BARS["trained"]["full"]}}, "points", "Parts").axes
    low, high = axis.get_xlim()
    assert low < -1 and high > 5
