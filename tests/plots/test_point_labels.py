"""Names stand beside their points, cover nothing that matters, and move no more than they must."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from reading import names

from fmlora_lab import plots
from fmlora_lab.plots.point_labels import apart

pytestmark = pytest.mark.unit


def test_spans_that_do_not_meet_stay():
    assert apart([5, 1, 9], [2, 2, 2], 0, 10).tolist() == [5, 1, 9]


def test_spans_that_meet_part_about_their_middle_in_their_order():
    np.testing.assert_allclose(apart([5.2, 4.8, 5.0], [2, 2, 2], 0, 100), [7, 3, 5])
    np.testing.assert_allclose(apart([5, 5.5], [1, 3], 0, 100), [4.25, 6.25])


def test_spans_stay_within_bounds_where_there_is_room():
    np.testing.assert_allclose(apart([9, 9.5, 1], [2, 2, 2], 0, 10), [7, 9, 1])
    np.testing.assert_allclose(apart([-3, 0], [2, 2], 0, 10), [1, 3])


@pytest.mark.parametrize("seed", range(5))
def test_parting_moves_spans_less_than_any_other_way(seed):
    """No single span or run of neighbours can be moved nearer to where it was wanted."""
    draw = np.random.default_rng(seed)
    wanted, sizes = np.sort(draw.uniform(0, 10, 12)), draw.uniform(0.2, 1, 12)
    found = apart(wanted, sizes, -100, 100)
    gaps = np.diff(found) - (sizes[1:] + sizes[:-1]) / 2
    assert gaps.min() > -1e-9
    runs = np.split(np.arange(12), np.flatnonzero(gaps > 1e-9) + 1)
    for run in runs:  # each keeps its centre of mass
        assert np.mean(found[run] - wanted[run]) == pytest.approx(0, abs=1e-9)
        shifts = (found - wanted)[run]
        assert all(shifts[:k].mean() <= 1e-9 for k in range(1, len(run)))


def test_names_of_many_points_cover_neither_each_other_nor_a_mark(toys):
    draw = np.random.default_rng(0)
    points = {name: (draw.uniform(40, 65), 10 ** draw.uniform(0, 6)) for name in toys}
    figure = plots.pareto(points, "numbers kept", log=True)
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in names(axis).values()]
    assert len(boxes) == 25
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    spots = axis.transData.transform([(cost, acc) for acc, cost in points.values()])
    assert not any(box.padded(2).count_contains(spots) for box in boxes)
    inner = axis.get_window_extent()
    assert all(inner.count_contains(box.corners()) == 4 for box in boxes)


def test_names_of_a_few_points_cover_no_mark_that_has_no_name(toys):
    draw = np.random.default_rng(1)
    table = pd.DataFrame(draw.normal(size=(len(toys), 5)), index=[*toys], columns=[*"abcde"])
    told = list(toys)[::6]
    across = {name: name for name in "abcd"}
    axes = plots.measures(table, across, {"e": "e"}, {}, "Together", told).axes
    for axis, measure in zip(axes, across, strict=True):
        boxes = [text.get_window_extent() for text in names(axis).values()]
        assert len(boxes) == len(told)
        spots = axis.transData.transform(table[[measure, "e"]])
        assert not any(box.padded(5).count_contains(spots) for box in boxes)  # a mark has 6 pixels
