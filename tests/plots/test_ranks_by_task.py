"""Ranks by task: the mean over sites, and every rank that sites have."""

import numpy as np
import pytest
from reading import legend, marks

from fmlora_lab import plots
from fmlora_lab.plots.ranks_by_task import AREA

pytestmark = pytest.mark.unit


def test_the_line_is_the_mean_and_marks_are_as_large_as_the_share_of_sites():
    sites = np.array([[0, 2, 2, 4], [3, 3, 3, 3]])
    figure = plots.ranks_by_task({"one for all": [[8], [4]], "SoRA": sites}, "Leaves 2.5")
    (axis,) = figure.axes
    lines, clouds = marks(axis)[:2], axis.collections
    assert lines == [[[1, 8], [2, 4]], [[1, 2], [2, 3]]]
    assert clouds[0].get_offsets().tolist() == [[1, 8], [2, 4]]
    assert clouds[1].get_offsets().tolist() == [[1, 0], [1, 2], [1, 4], [2, 3]]
    np.testing.assert_allclose(clouds[0].get_sizes(), [AREA, AREA])
    np.testing.assert_allclose(clouds[1].get_sizes(), AREA * np.array([0.25, 0.5, 0.25, 1]))
    assert set(legend(figure)) == {"one for all", "SoRA"}
    assert axis.get_ylim()[0] <= 0 and axis.get_xlabel() == "task, t"
