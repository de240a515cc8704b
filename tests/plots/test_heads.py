"""What a head hides: two marks a method, and the lines between which adapters stand."""

import numpy as np
import pytest
from reading import legend, surrounds

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


def test_without_references_there_are_no_lines():
    (axis,) = plots.accuracy_by_head(FOUND, "Heads").axes
    assert not [line for line in axis.get_lines() if line.get_linestyle() == "--"]
