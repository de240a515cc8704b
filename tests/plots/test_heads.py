"""What a head hides: marks a method by head, and the lines between which adapters stand."""

import numpy as np
import pytest
from reading import draws, legend, surrounds, title

from fmlora_lab import plots

pytestmark = pytest.mark.unit

FOUND = {
    "fm-lora": (50.0, 70.0, "ridge"),
    "lora": (55.0, 74.0, "lda-carried"),
    "ranpac": (np.nan, 67.0, "ridge"),
}


def test_each_method_has_a_mark_for_each_of_its_two_heads():
    figure = plots.accuracy_by_head(FOUND, "Heads", 60.0, 86.0)
    (axis,) = figure.axes
    at = {tuple(xy) for line in axis.get_lines() if line.get_marker() != "None"
          for xy in line.get_xydata()}  # fmt: skip
    assert {(50, 0), (70, 0), (55, 1), (74, 1), (67, 2)} <= at
    upright = [line.get_xdata()[0] for line in axis.get_lines() if line.get_linestyle() == "--"]
    assert upright == [60, 86]
    said = [text.get_text() for text in axis.texts]
    assert said == ["ridge", "lda-carried", "ridge", "frozen backbone", "joint training"]
    assert [t.get_text() for t in axis.get_yticklabels()] == [
        "FM-LoRA",
        "sequential LoRA",
        "RanPAC",
    ]
    assert list(legend(figure)) == ["trained head", "best closed-form head, by name"]
    assert surrounds(axis, [[50, 0], [86, 2]])
    assert axis.yaxis_inverted()


def test_a_level_far_from_all_marks_is_named_at_the_edge_and_leaves_no_empty_third():
    (axis,) = plots.accuracy_by_head(FOUND, "Heads", 60.0, 99.0).axes
    upright = [line.get_xdata()[0] for line in axis.get_lines() if line.get_linestyle() == "--"]
    assert upright == [60]
    assert "joint training 99.0 →" in [text.get_text() for text in axis.texts]
    low, high = axis.get_xlim()
    assert high - 74 < (high - low) / 3


def test_every_class_order_has_a_dot_and_one_alone_is_said_in_the_title():
    orders = {"lora": (np.array([50.0, 52]), np.array([70.0, 74]), "ridge")}
    figure = plots.accuracy_by_head(orders, "Heads")
    assert draws(figure.axes[0]) == [[[50, 0], [52, 0]], [[70, 0], [74, 0]]]
    assert list(legend(figure))[-1] == "one order or seed (n = 2)" and title(figure) == "Heads"
    one = {"lora": (np.array([50.0]), np.array([70.0]), "ridge")}
    assert title(plots.accuracy_by_head(one, "Heads")) == "Heads (one seed)"
    every = plots.every_head({"lora": {"ridge": np.array([70.0, 74])}}, "Heads")
    assert [x for x, _ in draws(every.axes[0])[0]] == [70, 74]


def test_without_references_there_are_no_lines():
    (axis,) = plots.accuracy_by_head(FOUND, "Heads").axes
    assert not [line for line in axis.get_lines() if line.get_linestyle() == "--"]


BY_HEAD = {
    "fm-lora": {"trained": 33.0, "lda": 47.0, "lda-carried": 52.0, "ridge": 47.5},
    "lora": {"trained": 34.0, "lda": 48.0, "lda-carried": 53.0, "ridge": 49.0},
    "ranpac": {"trained": np.nan, "lda": 53.5, "lda-carried": 53.5, "ridge": 55.0},
    "full": {"trained": 35.0, "lda": 52.0, "lda-carried": 57.0, "ridge": 54.0},
}


@pytest.fixture
def every_head():
    return plots.every_head(BY_HEAD, "Heads", 51.0, 66.0)


def test_every_head_has_a_mark_in_its_methods_row_families_apart_the_highest_first(every_head):
    (axis,) = every_head.axes
    rows = [text.get_text() for text in axis.get_yticklabels()]
    assert rows == ["FM-LoRA", "RanPAC", "sequential LoRA", "full fine-tuning"]
    marked = [line for line in axis.get_lines() if line.get_marker() != "None"]
    found = sorted((round(y), x) for line in marked for x, y in line.get_xydata())
    order = ["fm-lora", "ranpac", "lora", "full"]
    accs = {name: [acc for acc in BY_HEAD[name].values() if acc == acc] for name in order}
    assert found == [(y, acc) for y, name in enumerate(order) for acc in sorted(accs[name])]
    names = [text.get_text() for text in axis.texts]
    assert names == ["frozen backbone", "joint training", "FM-LoRA", "low-rank", "references"]
    upright = [line.get_xdata()[0] for line in axis.get_lines() if line.get_linestyle() == "--"]
    assert upright == [51, 66]


def test_what_is_carried_is_open_and_joined_to_what_is_plain(every_head):
    (axis,) = every_head.axes
    looks = legend(every_head)
    assert list(looks) == ["trained", "lda", "lda-carried", "ridge"]
    assert looks["lda"] == looks["lda-carried"]
    assert len({looks[head] for head in ("trained", "lda", "ridge")}) == 3
    faces = {
        key.get_label(): key.get_markerfacecolor() for key in every_head.legends[0].legend_handles
    }
    assert faces["lda-carried"] == "white" != faces["lda"]
    pairs = [line.get_xydata() for line in axis.get_lines() if len(line.get_xdata()) == 2]
    joined = {tuple(pair[:, 0]) for pair in pairs if pair[0, 1] == pair[1, 1]}
    assert {(47, 52), (48, 53), (53.5, 53.5), (52, 57)} <= joined


def test_a_head_has_one_colour_whichever_others_there_are(every_head):
    curves = {"lora": {"ridge": [[50.0, 40.0]], "ridge-carried": [[50.0, 45.0]]}}
    figure = plots.heads_over_tasks(curves, "Along", [[50.0, 45.0]])
    assert legend(figure)["ridge"] == legend(every_head)["ridge"]


def test_along_the_stream_stand_the_means_and_what_carrying_adds_in_the_same_order():
    plain, carried = np.array([[80.0, 50], [70, 60]]), np.array([[80.0, 53], [70, 65]])
    curves = {name: {"lda": plain, "lda-carried": carried} for name in ("lora", "full")}
    figure = plots.heads_over_tasks(curves, "Along", np.array([[70.0, 50], [72, 52]]))
    above, _, below, _ = figure.axes
    assert [line.get_ydata().tolist() for line in above.get_lines()] == [
        [75, 55],
        [75, 59],
        [71, 51],
    ]
    assert below.get_lines()[0].get_ydata().tolist() == [0, 4]
    names = ["lda", "lda-carried", "frozen backbone", "one order or seed (n = 2)"]
    assert list(legend(figure)) == names
    assert sorted(draws(below)[0]) == [[1, 0], [1, 0], [2, 3], [2, 5]]
    assert [axis.get_title() for axis in figure.axes[:2]] == ["sequential LoRA", "full fine-tuning"]
