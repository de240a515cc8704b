"""A panel for each measure and outcome, a mark for each method that has both."""

import numpy as np
import pandas as pd
import pytest
from reading import marks

from fmlora_lab import plots

pytestmark = pytest.mark.unit
TABLE = pd.DataFrame(
    {"a": [1.0, 2, 3], "b": [0.1, np.nan, 0.3], "lost": [5.0, 6, 7]},
    index=["fm-lora", "lora", "inflora"],
)


@pytest.fixture
def figure():
    notes = {("a", "lost"): "ρ = +1.00"}
    return plots.measures(TABLE, {"a": "A", "b": "B"}, {"lost": "L"}, notes, "Title", ["lora"])


def test_methods_stand_where_their_numbers_say(figure):
    left, right = figure.axes
    assert [tuple(point) for row in marks(left) for point in row] == [(1, 5), (2, 6), (3, 7)]
    assert [tuple(point) for row in marks(right) for point in row] == [(0.1, 5), (0.3, 7)]
    assert (left.get_xlabel(), right.get_xlabel(), left.get_ylabel()) == ("A", "B", "L")


def test_notes_and_names_stand_in_their_panels(figure):
    left, right = ({text.get_text() for text in axis.texts} for axis in figure.axes)
    assert "ρ = +1.00" in left and "sequential LoRA" in left
    assert "ρ = +1.00" not in right and "sequential LoRA" not in right  # it has no number there
