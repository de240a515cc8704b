"""Maps share one scale, count tasks from one, and write numbers where there is room."""

import numpy as np
import pytest
from reading import title

from fmlora_lab import plots

pytestmark = pytest.mark.unit

N = 4


def lower_triangle(diagonal: float, last: float) -> np.ndarray:
    a = np.full((N, N), np.nan)
    a[np.tril_indices(N)] = last
    np.fill_diagonal(a, diagonal)
    return a


def test_matrices_share_one_scale_and_show_every_number():
    given = {"fm-lora": lower_triangle(80, 70), "full": lower_triangle(95, 10)}
    figure = plots.accuracy_matrices(given)
    left, right, bar = figure.axes
    for axis, a in ((left, given["fm-lora"]), (right, given["full"])):
        np.testing.assert_array_equal(axis.collections[0].get_array().filled(np.nan), a)
        assert axis.collections[0].get_clim() == (0, 95)
        measured = ~np.isnan(a)
        assert sorted(int(text.get_text()) for text in axis.texts) == sorted(a[measured])
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("tested on task", "after learning task")
    assert bar.get_ylabel() == "accuracy (%)"
    assert title(figure) == (
        "Task 1, when learned → at the end: FM-LoRA 80% → 70%, full fine-tuning 95% → 10%"
    )


def test_of_several_orders_matrices_are_averaged_and_the_title_says_of_how_many():
    two = np.stack([lower_triangle(80, 70), lower_triangle(90, 60)])
    figure = plots.accuracy_matrices({"lora": two})
    shown = figure.axes[0].collections[0].get_array().filled(np.nan)
    np.testing.assert_array_equal(shown, lower_triangle(85, 65))
    assert title(figure).endswith("sequential LoRA 85% → 65% (means, n = 2)")
    one = title(plots.accuracy_matrices({"lora": two[:1]}))
    assert one.endswith("sequential LoRA 80% → 70% (one seed)")


def test_what_chance_would_give_is_marked_on_the_scale():
    figure = plots.heatmaps({"a": np.eye(3)}, "i", "j", "overlap", "Overlaps", chance=0.25)
    *_, bar = figure.axes
    assert {tuple(line.get_ydata()) for line in bar.get_lines()} == {(0.25, 0.25)}
    assert title(figure) == "Overlaps; dotted on the scale: chance, 0.25"


def test_maps_count_tasks_from_one_and_write_numbers_only_in_large_cells():
    small, large = np.full((6, 6), 0.25), np.full((12, 12), -0.5)
    figure = plots.heatmaps({"lora": small, "mine": large}, "task i", "task j", "cosine", "Angles")
    left, right, bar = figure.axes
    assert [axis.get_title() for axis in (left, right)] == ["sequential LoRA", "mine"]
    assert [text.get_text() for text in left.texts] == 36 * [".25"]
    assert len(right.texts) == 0
    for axis, counted in ((left, [1, 2, 3, 4, 5, 6]), (right, [2, 4, 6, 8, 10, 12])):
        for ticks, labels in (
            (axis.get_xticks(), axis.get_xticklabels()),
            (axis.get_yticks(), axis.get_yticklabels()),
        ):
            assert list(ticks + 0.5) == counted  # in the middle of a cell
            assert [int(text.get_text()) for text in labels] == counted
        assert axis.collections[0].get_clim() == (-0.5, 0.25)
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("task i", "task j")
    assert bar.get_ylabel() == "cosine"


@pytest.mark.parametrize(
    ("how", "scale"),
    [
        ({}, (-0.5, 2)),
        ({"low": -1, "high": 3}, (-1, 3)),
        ({"diverging": True}, (-2, 2)),
        ({"low": -4, "high": 1, "diverging": True}, (-4, 4)),
    ],
)
def test_the_scale_of_maps(how, scale):
    a = np.array([[-0.5, 2], [np.nan, -0.004]])
    figure = plots.heatmaps({"a": a}, "i", "j", "value", "", **how)
    (image,) = figure.axes[0].collections
    assert image.get_clim() == scale
    assert sorted(text.get_text() for text in figure.axes[0].texts) == [".00", "2.00", "−.50"]
    if how.get("diverging"):  # as far from 0, as dark, in another colour; 0 is pale, nothing grey
        low, zero, high = image.cmap([0.0, 0.5, 1.0])[:, :3]
        assert zero.min() > 0.9 and max(low.mean(), high.mean()) < 0.4
        assert np.abs(low - high).max() > 0.3
        assert figure.axes[0].get_facecolor()[:3] != (1, 1, 1)


def test_more_maps_than_a_page_is_wide_for_begin_another_row():
    figure = plots.heatmaps({f"m{i}": np.eye(3) for i in range(6)}, "i", "j", "value", "")
    boxes = [axis.get_window_extent() for axis in figure.axes[:-1]]
    assert len(boxes) == 6
    assert len({round(box.y0) for box in boxes}) == 2
    assert min(box.width for box in boxes) > 1.1 * figure.dpi  # inches
