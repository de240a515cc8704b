"""What the rank selector chose is drawn with the probabilities it chose from."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from reading import marks

from fmlora_lab import plots

pytestmark = pytest.mark.unit


def test_ranks_show_every_probability_the_choice_and_the_difficulty():
    p = np.array([[0, 0, 0], [0.2, 0.5, 0.3], [0.7, 0.2, 0.1]])
    H = np.array([np.nan, 1.25, 0.5])
    figure = plots.rank_probabilities(p, [2, 4, 8], [8, 4, 2], H, "Chooses")
    bars, line = figure.axes
    drawn = np.array([[bar.get_height() for bar in part] for part in bars.containers])
    np.testing.assert_allclose(drawn.T, p)
    feet = np.array([[bar.get_y() for bar in part] for part in bars.containers])
    np.testing.assert_allclose(feet.T[2], [0, 0.7, 0.9])
    centres = [bar.get_x() + bar.get_width() / 2 for bar in bars.containers[0]]
    np.testing.assert_allclose(centres, [1, 2, 3])
    ((second, third),) = marks(bars)  # nothing was chosen for the first
    assert second == pytest.approx([2, 0.2 + 0.5 / 2]) and third == pytest.approx([3, 0.7 / 2])
    np.testing.assert_array_equal(marks(line), [np.column_stack([[1, 2, 3], H])])
    assert bars.get_xlim() == line.get_xlim() == (0.4, 3.6)
    low, high = line.get_ylim()
    assert bars.get_ylim() == (0, 1) and low < 0.5 and high > 1.25
    assert line.get_xlabel() == "task, t"
    assert "p(r" in bars.get_ylabel() and "H" in line.get_ylabel()
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(named) == ["chosen", "r = 2", "r = 4", "r = 8"]
    shades = [to_hex(part[0].get_facecolor()) for part in bars.containers]
    assert len(set(shades)) == 3
