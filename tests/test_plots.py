"""Each figure draws what it was given, names it, and fits its paper: width, title, no overlaps."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text
from PIL import Image

from fmlora_lab import plots
from fmlora_lab.plots.sheet import COLUMN, PAGE, wrapped

N = 4
CURVES = {
    "lora": np.array([90.0, 80, 75, 70]),
    "fm-lora": np.array([[80.0, 75, 70, 64], [80, 77, 70, 66]]),
    "full": np.array([95.0, 60, 40, 30]),
    "joint": np.array([np.nan, np.nan, np.nan, 85]),
}
TITLE = "At its best setting nearest class mean ends 3 points above FM-LoRA at R = 16 and N = 10"
ACC = "accuracy after the last task, Acc (%)"


def lower_triangle(diagonal: float, last: float) -> np.ndarray:
    a = np.full((N, N), np.nan)
    a[np.tril_indices(N)] = last
    np.fill_diagonal(a, diagonal)
    return a


def title(figure) -> str:
    return " ".join(figure.get_suptitle().split())


def legend(figure) -> dict[str, tuple]:
    """Colour and marker by the name in the legend."""
    (found,) = figure.legends
    looks = [(to_hex(h.get_color()).upper(), h.get_marker()) for h in found.legend_handles]
    return dict(zip((text.get_text() for text in found.get_texts()), looks, strict=True))


def lines_by_color(axis):
    return {to_hex(line.get_color()).upper(): line for line in axis.get_lines()}


def marks(axis) -> list[list[list[float]]]:
    """Points of every line of marks, in the order in which they were drawn."""
    drawn = [line for line in axis.get_lines() if line.get_marker() not in ("None", "_", "|")]
    return [np.column_stack(line.get_data()).tolist() for line in drawn]


def intervals(axis) -> list[list[list[float]]]:
    """Ends of every interval that is drawn as a line."""
    found = [c.get_segments() for c in axis.collections if isinstance(c, LineCollection)]
    return [segment.tolist() for segments in found for segment in segments]


def surrounds(axis, points) -> bool:
    x, y = np.transpose(points)
    (left, right), (bottom, top) = sorted(axis.get_xlim()), sorted(axis.get_ylim())
    return bool(left < min(x) and max(x) < right and bottom < min(y) and max(y) < top)


# Accuracy along the stream.


def test_every_curve_is_drawn_with_its_numbers():
    figure = plots.accuracy_over_tasks(CURVES)
    (axis,) = figure.axes
    lines = lines_by_color(axis)
    assert len(axis.get_lines()) == len(CURVES)
    np.testing.assert_array_equal(lines[plots.METHOD_COLORS["lora"]].get_ydata(), CURVES["lora"])
    np.testing.assert_array_equal(
        lines[plots.METHOD_COLORS["fm-lora"]].get_ydata(), CURVES["fm-lora"].mean(axis=0)
    )
    (band,) = axis.collections  # for the one method with two seeds
    assert to_hex(band.get_facecolor()[0]).upper() == plots.METHOD_COLORS["fm-lora"]
    assert band.get_datalim(axis.transData).get_points().tolist() == [[1, 64], [4, 80]]
    joint = lines[plots.METHOD_COLORS["joint"]]
    assert joint.get_linestyle() == "--" and set(joint.get_ydata()) == {85}
    low, high = axis.get_ylim()
    assert low == 0 and high > 95
    assert axis.get_xlabel() == "tasks seen" and "%" in axis.get_ylabel()
    assert list(legend(figure)) == [
        "joint training  85.0",
        "sequential LoRA  70.0",
        "FM-LoRA  65.0",
        "full fine-tuning  30.0",
    ]


def test_the_title_of_the_curves_follows_the_numbers():
    def said(curves):
        return title(plots.accuracy_over_tasks(curves))

    assert said(CURVES) == (
        "After 4 tasks: best sequential LoRA 70%, FM-LoRA 65%, last full fine-tuning 30%"
    )
    swapped = CURVES | {"lora": CURVES["full"], "full": CURVES["lora"]}
    assert said(swapped) == (
        "After 4 tasks: best full fine-tuning 70%, FM-LoRA 65%, last sequential LoRA 30%"
    )
    assert said({"lora": CURVES["lora"]}) == "After 4 tasks: sequential LoRA 70%"


# Any quantity over another.


def test_lines_draw_means_ranges_and_names():
    curves = {
        "lora": ([5, 10, 50], [[60.0, 50, 40], [64, 50, 46], [62, 53, 43]]),
        "mine": ([5, 10], [30.0, 35]),
    }
    figure = plots.lines(curves, "tasks, N", "Acc (%)", "Falls", log_x=True)
    (axis,) = figure.axes
    assert marks(axis) == [[[5, 62], [10, 51], [50, 43]], [[5, 30], [10, 35]]]
    assert intervals(axis) == [[[5, 60], [5, 64]], [[10, 50], [10, 53]], [[50, 40], [50, 46]]]
    assert surrounds(axis, [[5, 30], [50, 64]])
    assert axis.get_xscale() == "log"
    assert (axis.get_xlabel(), axis.get_ylabel(), title(figure)) == ("tasks, N", "Acc (%)", "Falls")
    assert list(legend(figure)) == ["sequential LoRA", "mine"]


def test_ticks_stand_at_the_values_while_they_are_few():
    def ticks(x):
        figure = plots.lines({"lora": (x, np.arange(len(x)))}, "R", "Acc (%)", "", log_x=True)
        axis = figure.axes[0]
        shown = [text.get_text() for text in axis.get_xticklabels()]
        return list(axis.get_xticks()), shown, list(axis.xaxis.get_minorticklocs())

    few = [1, 2, 4, 8, 16, 32, 64, 128]
    assert ticks(few) == (few, [str(x) for x in few], [])
    assert ticks([*few, 256])[0] != [*few, 256]


def test_lines_leave_out_what_was_not_measured():
    nan = np.nan
    curves = {
        "lora": ([1, 2, 3], [50.0, nan, 40]),
        "full": ([1, 2, 3], [[nan, 30.0, 20], [nan, 34.0, nan]]),
    }
    (axis,) = plots.lines(curves, "N", "Acc (%)", "").axes
    assert marks(axis) == [[[1, 50], [3, 40]], [[2, 32], [3, 20]]]
    assert intervals(axis) == [[[2, 30], [2, 34]], [[3, 20], [3, 20]]]


def test_references_are_dashed_and_named_at_their_right_end():
    levels = {"joint": 86.0, "free LoRA": 60.0, "wide": 60.2}
    figure = plots.lines({"fm-lora": ([1, 2], [50.0, 55])}, "R", "%", "", references=levels)
    (axis,) = figure.axes
    dashed = [line for line in axis.get_lines() if line.get_linestyle() == "--"]
    assert [set(line.get_ydata()) for line in dashed] == [{86.0}, {60.0}, {60.2}]
    assert to_hex(dashed[0].get_color()).upper() == plots.METHOD_COLORS["joint"]
    names = {" ".join(text.get_text().split()): text for text in axis.texts}
    assert list(names) == ["joint training", "free LoRA", "wide"]
    right = axis.get_window_extent().x1
    boxes = {name: text.get_window_extent() for name, text in names.items()}
    assert all(box.x0 >= right for box in boxes.values())
    assert boxes["wide"].y0 >= boxes["free LoRA"].y1  # near each other, yet apart
    assert surrounds(axis, [[1, 50], [2, 86]])


# Learned against lost.


def test_the_trade_off_marks_every_method_that_has_one():
    points = {
        "fm-lora": ([70.0, 74.0], [10.0, 12.0]),
        "full": (90.0, 50.0),
        "joint": (np.nan, np.nan),
    }
    figure = plots.trade_off(points, tasks=10)
    (axis,) = figure.axes
    assert marks(axis) == [[[11.0, 72.0]], [[10.0, 70.0], [12.0, 74.0]], [[50.0, 90.0]]]
    assert surrounds(axis, [[10, 70], [50, 90]])
    assert axis.get_xlabel() == "forgetting (points)"
    assert axis.get_ylabel() == "learning accuracy (%)"
    assert list(legend(figure)) == ["FM-LoRA  72.0, 11.0", "full fine-tuning  90.0, 50.0"]
    assert title(figure) == "Full fine-tuning learns most (90%), FM-LoRA forgets least (11 points)"


def draws_equal_acc(axis, share: float) -> None:
    lines = [line for line in axis.get_lines() if line.get_marker() == "None"]
    labels = [text for text in axis.texts if text.get_text().startswith("Acc ")]
    assert len(lines) > 3 and len(labels) > 3
    for line in lines:
        x, y = line.get_data()
        assert np.ptp(y - x * share) == pytest.approx(0, abs=1e-9)
    for label in labels:
        x, y = label.xy
        assert y - x * share == pytest.approx(float(label.get_text().split()[1]))


def test_along_a_line_of_the_trade_off_acc_is_equal():
    points = {"lora": (80.0, 20.0), "full": (90.0, 60.0)}
    draws_equal_acc(plots.trade_off(points, tasks=5).axes[0], 4 / 5)


def test_labels_of_lines_stand_outside_where_no_mark_can_lie():
    figure = plots.trade_off({"prototypes": (69.7, 9.7), "full": (74.2, 26.5)}, tasks=10)
    axis = figure.axes[0]
    labels = [text.get_window_extent() for text in axis.texts]
    inner = axis.get_window_extent()
    assert len(labels) > 3
    assert all(box.x0 >= inner.x1 or box.y0 >= inner.y1 for box in labels)
    assert min(box.x0 for box in labels) > inner.x0


def test_one_method_can_be_best_in_both():
    figure = plots.trade_off({"lora": (80.0, 5.0), "full": (70.0, 60.0)}, tasks=5)
    assert title(figure) == "Sequential LoRA both learns most and forgets least"


def test_the_frontier_joins_points_in_order_and_names_each_beside_its_mark():
    curves = {
        "lora": ([5.0, 20, np.nan, 12], [60.0, 75, 70, 66], ["×¼", "×1", "×2", "×4"]),
        "full": ([6.0, 21], [61.0, 76], ["×¼", "×1"]),
    }
    figure = plots.frontier(curves, tasks=5, title="Ends")
    (axis,) = figure.axes
    lora = [[5, 60], [20, 75], [12, 66]]
    assert marks(axis) == [lora, [[6, 61], [21, 76]]]
    assert surrounds(axis, [[5, 60], [21, 76]])
    notes = [text for text in axis.texts if text.get_text().startswith("×")]
    said = [(text.get_text(), *text.xy) for text in notes]
    assert said == [
        ("×¼", 5, 60), ("×1", 20, 75), ("×4", 12, 66), ("×¼", 6, 61), ("×1", 21, 76),
    ]  # fmt: skip
    spots = axis.transData.transform([pair for points in marks(axis) for pair in points])
    boxes = [note.get_window_extent() for note in notes]
    assert not any(box.padded(4).count_contains(spots) > 1 for box in boxes)
    assert not any(box.padded(2).count_contains(spots) for box in boxes)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert list(legend(figure)) == ["sequential LoRA", "full fine-tuning"]


def test_along_a_line_of_the_frontier_acc_is_equal():
    curves = {"lora": ([5.0, 60], [60.0, 90], ["a", "b"])}
    draws_equal_acc(plots.frontier(curves, tasks=5, title="").axes[0], 4 / 5)


# Accuracy against cost, any two quantities.


def test_pareto_marks_every_method_and_names_those_that_none_beats():
    points = {"lora": ([70.0, 74.0], 1e6), "fm-lora": (60.0, 1e5), "full": (50.0, 2e6)}
    points |= {"prototypes": (55.0, 0.0), "linear-probe": (40.0, 0.0)}
    figure = plots.pareto(points, "numbers kept", log=True)
    (axis,) = figure.axes
    bars = {to_hex(bar[0].get_color()).upper(): bar for bar in axis.containers}
    assert len(bars) == len(points)
    lora = bars[plots.METHOD_COLORS["lora"]]
    assert (lora[0].get_xdata(), lora[0].get_ydata()) == ([1e6], [72.0])
    assert intervals(axis) == [[[1e6, 70.0], [1e6, 74.0]]]  # for the one method with two seeds
    assert surrounds(axis, [[0, 40], [2e6, 74]])
    assert axis.get_xlabel() == "numbers kept" and "(%)" in axis.get_ylabel()
    assert title(figure).split(": ")[1] == "nearest class mean, FM-LoRA, sequential LoRA"
    assert next(iter(legend(figure))) == "sequential LoRA  72.0"


def test_a_scatter_draws_every_pair_and_orders_it_by_rank():
    points = {
        "lora": ([1.0, 2, 3, np.nan], [1.0, 8, 27, 5]),  # as the cube: not a line, yet in order
        "full": ([1.0, 2, 3, 4], [4.0, 3, 2, 1]),
        "l2p": ([2.0, 2], [1.0, 3]),
    }
    figure = plots.scatter(points, "drift", "lost (points)", "Says little")
    (axis,) = figure.axes
    assert marks(axis) == [
        [[1, 1], [2, 8], [3, 27]],
        [[1, 4], [2, 3], [3, 2], [4, 1]],
        [[2, 1], [2, 3]],
    ]
    assert surrounds(axis, [[1, 1], [4, 27]])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("drift", "lost (points)")
    assert list(legend(figure)) == ["sequential LoRA  +1.00", "full fine-tuning  −1.00", "L2P  –"]
    x, y = np.transpose([pair for cloud in marks(axis) for pair in cloud])
    places = [(v[:, None] > v).sum(1) + (v[:, None] == v).sum(1) / 2 for v in (x, y)]
    rho = np.corrcoef(*places)[0, 1]
    assert figure.legends[0].get_title().get_text() == f"Spearman's ρ (all points: −{-rho:.2f})"


# Rows.


def test_dots_draw_a_row_a_group_from_top_to_bottom():
    groups = {
        "fm-lora": {"linear": [50.0, 54.0, np.nan], "class means": 60.0},
        "variant": {"class means": [70.0, 74.0, 75.0], "linear": np.nan},
        "joint": {"linear": [80.0]},
    }
    figure = plots.dots(groups, "Acc (%)", "Heads")
    (axis,) = figure.axes
    linear, means = marks(axis)
    assert [x for x, _ in linear] == [52, 80] and [x for x, _ in means] == [60, 73]
    assert [round(y) for _, y in linear] == [0, 2] and [round(y) for _, y in means] == [0, 1]
    assert linear[0][1] < means[0][1]  # the first series stands above the second
    first, second = intervals(axis)  # where there are several seeds
    assert first == [[50, linear[0][1]], [54, linear[0][1]]]
    assert second == [[70, means[1][1]], [75, means[1][1]]]
    assert axis.yaxis_inverted()
    names = dict(
        zip(axis.get_yticks(), (t.get_text() for t in axis.get_yticklabels()), strict=True)
    )
    assert names == {0: "FM-LoRA", 1: "variant", 2: "joint training"}
    assert surrounds(axis, [[50, 0], [80, 2]])
    assert axis.get_xlabel() == "Acc (%)"
    assert list(legend(figure)) == ["linear", "class means"]


# Maps.


def test_matrices_share_one_scale_and_show_every_number():
    given = {"fm-lora": lower_triangle(80, 70), "full": lower_triangle(95, 10)}
    figure = plots.accuracy_matrices(given)
    left, right, bar = figure.axes
    for axis, a in ((left, given["fm-lora"]), (right, given["full"])):
        np.testing.assert_array_equal(axis.images[0].get_array().filled(np.nan), a)
        assert axis.images[0].get_clim() == (0, 95)
        measured = ~np.isnan(a)
        assert sorted(int(text.get_text()) for text in axis.texts) == sorted(a[measured])
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("tested on task", "after learning task")
    assert bar.get_ylabel() == "accuracy (%)"
    assert title(figure) == (
        "Task 1, when learned → at the end: FM-LoRA 80% → 70%, full fine-tuning 95% → 10%"
    )


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
            assert list(ticks + 1) == counted
            assert [int(text.get_text()) for text in labels] == counted
        assert axis.images[0].get_clim() == (-0.5, 0.25)
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
    (image,) = figure.axes[0].images
    assert image.get_clim() == scale
    assert sorted(text.get_text() for text in figure.axes[0].texts) == [".00", "2.00", "−.50"]
    if how.get("diverging"):  # as far from 0, as dark, in another colour; 0 is pale, nothing grey
        low, zero, high = image.cmap([0.0, 0.5, 1.0])[:, :3]
        assert zero.min() > 0.9 and max(low.mean(), high.mean()) < 0.4
        assert np.abs(low - high).max() > 0.3
        assert figure.axes[0].get_facecolor()[:3] != (1, 1, 1)


def test_more_maps_than_a_page_is_wide_for_begin_another_row():
    figure = plots.heatmaps({f"m{i}": np.eye(3) for i in range(6)}, "i", "j", "value", "")
    boxes = [axis.get_window_extent() for axis in figure.axes if axis.images]
    assert len(boxes) == 6
    assert len({round(box.y0) for box in boxes}) == 2
    assert min(box.width for box in boxes) > 1.1 * figure.dpi  # inches


# The rank selector.


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


# Images.


def test_the_stream_shows_one_image_of_each_class():
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), np.uint8)
    tasks = [("letters", pixels, np.array([1, 1, 0, 0, 1, 0])), ("digits", pixels, np.full(6, 2))]
    figure = plots.stream_samples(tasks, ["a", "b", "7"])
    shown = {
        axis.get_title(): int(axis.images[0].get_array()[0, 0, 0])
        for axis in figure.axes
        if axis.images
    }
    assert shown == {"a": 2, "b": 0, "7": 0}
    said = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert said == ["task 1\nletters", "task 2\ndigits"]
    assert "new classes" in title(figure)
    again = plots.stream_samples([tasks[0], tasks[0]], ["a", "b", "7"])
    assert "same classes" in title(again)


# Colours and markers.


def figures_of(names):
    """A figure of each function that tells methods apart, in its own order of names."""
    x, y = [1.0, 2, 3], [3.0, 1, 2]
    return {
        "accuracy_over_tasks": plots.accuracy_over_tasks({m: y for m in names}),
        "lines": plots.lines({m: (x, y) for m in reversed(names)}, "", "", ""),
        "trade_off": plots.trade_off({m: (1.0 + i, i) for i, m in enumerate(names)}, 10),
        "frontier": plots.frontier({m: (x, y, "abc") for m in reversed(names)}, 10, ""),
        "pareto": plots.pareto({m: (1.0, i) for i, m in enumerate(names)}, ""),
        "scatter": plots.scatter({m: (x, y) for m in reversed(names)}, "", "", ""),
        "dots": plots.dots({"row": {m: 1.0 for m in names}}, "", ""),
    }


def test_a_method_has_one_colour_and_marker_in_every_figure():
    for name, figure in figures_of(["mine", "inflora", "lora"]).items():
        looks = {label.split("  ")[0]: look for label, look in legend(figure).items()}
        assert looks == {
            "InfLoRA": (plots.METHOD_COLORS["inflora"], "^"),
            "sequential LoRA": (plots.METHOD_COLORS["lora"], "s"),
            "mine": (plots.OTHER_COLORS[0], plots.OTHER_MARKERS[0]),
        }, name


def test_other_names_take_the_remaining_colours_in_order():
    alone, among = plots.styles(["lora"]), plots.styles(["mine", "full", "lora"])
    assert alone["lora"] == among["lora"]
    looks = list(plots.styles(["mine", "theirs"]).values())
    assert len({look["color"] for look in looks}) == len(looks)
    assert len({look["marker"] for look in looks}) == len(looks)
    eight = [plots.styles("abcdefgh")[name] for name in "abcdefgh"]
    assert [look["color"] for look in eight] == list(plots.OTHER_COLORS)
    assert len({look["color"] for look in eight}) == len({look["marker"] for look in eight}) == 8
    many = plots.styles([f"name {i}" for i in range(40)]).values()
    assert len({(look["color"], look["marker"]) for look in many}) == len(plots.METHOD_COLORS) + 40


SIGHT = {  # in linear RGB, after Machado, Oliveira and Fernandes (2009), severity 1
    "full": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def lab(color: str, sight) -> np.ndarray:
    """CIELAB of a colour as the eye of that `sight` sees it."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = to_xyz @ np.clip(sight @ linear, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(
    ("colors", "apart"), [(plots.METHOD_COLORS.values(), 13), (plots.OTHER_COLORS, 19)]
)
def test_colours_stay_apart_for_colour_blind_readers(colors, apart, sight):
    seen = [lab(color, np.array(SIGHT[sight])) for color in colors]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > apart


# On paper: realistic figures, at their fullest.


def realistic():
    draw, methods = np.random.default_rng(0), list(plots.METHOD_COLORS)
    base = dict(zip(methods, draw.uniform(45, 65, 12), strict=True))
    tasks = np.arange(10)

    def around(value, shape=3):
        return value + draw.normal(0, 1, shape)

    def swept(method, k):
        return around(base[method] - 40 + 3 * np.arange(k), k), around(base[method] + tasks[:k], k)

    triangle = np.where(np.tri(10) > 0, around(70.0, (10, 10)), np.nan)
    pixels = draw.integers(0, 255, (10, 3, 8, 8), dtype=np.uint8)
    names = ["great white shark", "hen", "tree frog", "American lobster", "school bus"] * 2
    sources = ["first task", "first task's gradient", "weight's SVD, R = 128, r = 12"]
    sources += ["the same, directions of its own for each task (ours)", "free LoRA"]
    p = draw.dirichlet(np.ones(4), 10)
    long = "‖P$_t$ − P$_{t−1}$‖ / ‖P$_{t−1}$‖, drift of the prompt in a task of the stream"
    levels = {"joint": 90.0, "free LoRA": 61.0, "prototypes": 60.0}
    fives = {m: (*swept(m, 5), ["×0.25", "×0.5", "×1", "×2", "×4"]) for m in methods[:4]}
    return {
        "accuracy_over_tasks": lambda: plots.accuracy_over_tasks(
            {m: around(base[m] - tasks, (3, 10)) for m in methods}
        ),
        "lines": lambda: plots.lines(
            {m: ([5, 10, 20, 50], around(base[m], (3, 4))) for m in methods},
            "tasks, N", ACC, TITLE, log_x=True, references=levels,
        ),
        "trade_off": lambda: plots.trade_off(
            {m: (around(base[m] + 20), around(base[m] - 40)) for m in methods}, 10
        ),
        "frontier": lambda: plots.frontier(fives, 10, TITLE),
        "pareto": lambda: plots.pareto(
            {m: (around(base[m]), 10 ** (1 + 0.5 * i)) for i, m in enumerate(methods)},
            "numbers kept from task to task", log=True,
        ),
        "scatter": lambda: plots.scatter(
            {m: draw.normal(size=(2, 45)) for m in methods}, long, long, TITLE
        ),
        "dots": lambda: plots.dots(
            {m: {s: around(base[m]) for s in ("linear", "cosine", "class means")} for m in methods},
            ACC, TITLE,
        ),
        "dots, long names": lambda: plots.dots(
            {s: {"Acc": around(50)} for s in sources}, ACC, TITLE
        ),
        "accuracy_matrices": lambda: plots.accuracy_matrices({m: triangle for m in methods[:3]}),
        "heatmaps": lambda: plots.heatmaps(
            {m: draw.uniform(-1, 1, (6, 6)) for m in methods[:7]}, "task", "task",
            "|⟨ΔW$_i$, ΔW$_j$⟩| / (‖ΔW$_i$‖ ‖ΔW$_j$‖)", TITLE, diverging=True,
        ),
        "rank_probabilities": lambda: plots.rank_probabilities(
            p, [2, 4, 8, 16], [8] * 10, draw.uniform(size=10), TITLE
        ),
        "stream_samples": lambda: plots.stream_samples(
            [(f"classes {i} to {i + 9}", pixels, np.arange(10)) for i in range(2)], names
        ),
    }  # fmt: skip


SEVERAL_PANELS = ("accuracy_matrices", "heatmaps", "stream_samples")


def written(figure) -> list[Text]:
    """Every text that is drawn, tick labels within the axes' limits among them."""
    texts = [text for key in figure.legends for text in (*key.get_texts(), key.get_title())]
    for axis in figure.axes:
        texts += [axis.xaxis.label, axis.yaxis.label, axis.title, *axis.texts]
        for side in (axis.xaxis, axis.yaxis) if axis.axison else ():
            low, high = sorted(side.get_view_interval())
            ticks = [tick for tick in side.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [label for tick in ticks for label in (tick.label1, tick.label2)]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("name", realistic())
def test_on_paper_nothing_is_cut_off_or_covered(name):
    figure = realistic()[name]()
    assert figure.get_figwidth() == (PAGE if name in SEVERAL_PANELS else COLUMN)
    assert figure.get_figheight() < 7
    figure.draw_without_rendering()
    texts, (head,) = written(figure), figure.texts
    assert len(texts) > 10
    assert {text.get_fontsize() for text in (head, *texts)} <= {6, 7, 8} or name == "heatmaps"
    boxes = {text: text.get_window_extent() for text in (head, *texts)}
    for text, box in boxes.items():
        inside = figure.bbox.padded(0.5).count_contains(box.corners())
        assert inside == 4, f"cut off: {text.get_text()!r}"
    for (a, box), (b, other) in combinations(boxes.items(), 2):
        covered = box.padded(-1).overlaps(other.padded(-1))
        assert not covered, f"{a.get_text()!r} covers {b.get_text()!r}"
    for axis in figure.axes:
        panel = axis.get_tightbbox()  # with its labels
        assert not panel.overlaps(boxes[head])
        assert not any(panel.overlaps(key.get_window_extent()) for key in figure.legends)


def test_a_layout_is_the_same_at_every_resolution():
    figure = realistic()["frontier"]()
    at_once = [axis.get_position().bounds for axis in figure.axes]
    figure.set_dpi(72)
    figure.draw_without_rendering()
    assert [axis.get_position().bounds for axis in figure.axes] == at_once


def test_text_is_wrapped_into_even_lines_that_fit():
    lines = wrapped(TITLE, COLUMN).split("\n")
    assert " ".join(lines) == TITLE
    assert len(lines) == 2
    figure = plots.lines({"lora": ([1], [1.0])}, "", "", "")
    widths = [figure.text(0, 0, line, fontsize=8).get_window_extent().width for line in lines]
    assert max(widths) <= COLUMN * figure.dpi
    assert min(widths) > 0.8 * max(widths)
    for width in (0.5, 1, 1.5, 2, 3):
        assert "R = 16" in wrapped(TITLE, width)
    assert wrapped("", 1) == "" and wrapped("incomprehensibilities", 0.1) == "incomprehensibilities"


# Files.


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.accuracy_over_tasks(CURVES),
        lambda: plots.frontier({"lora": ([1.0, 2], [3.0, 4], "ab")}, 10, "Ends"),
        lambda: plots.accuracy_matrices({"lora": lower_triangle(80, 70)}),
    ],
)
def test_saved_figures_are_the_same_bytes_and_keep_their_text(tmp_path, draw):
    once = draw()
    for folder, figure in (("one", once), ("two", once), ("drawn anew", draw())):
        written = plots.save(figure, tmp_path / folder, "figure")
        assert [path.name for path in written] == ["figure.png", "figure.svg"]
    for kind in ("png", "svg"):
        one, *others = [path.read_bytes() for path in sorted(tmp_path.glob(f"*/*.{kind}"))]
        assert others == [one, one]
    svg = (tmp_path / "one" / "figure.svg").read_text()
    for text in (*once.get_suptitle().split("\n"), once.axes[0].get_xlabel()):
        assert f"{text}</text>" in svg
    assert "<dc:date>" not in svg
    assert Image.open(tmp_path / "one" / "figure.png").size[0] == 300 * COLUMN
