"""Lines are drawn with their numbers and named at their ends, however many there are."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from reading import draws, intervals, legend, marks, names, surrounds, title

from fmlora_lab import plots
from fmlora_lab.metrics import t_interval
from fmlora_lab.plots.sheet import DRAWS
from fmlora_lab.plots.style import INK, styles

pytestmark = pytest.mark.unit

CURVES = {
    "lora": np.array([90.0, 80, 75, 70]),
    "fm-lora": np.array([[80.0, 75, 70, 64], [80, 77, 70, 66]]),
    "full": np.array([95.0, 60, 40, 30]),
    "joint": np.array([np.nan, np.nan, np.nan, 85]),
}


def by_color(axis):
    return {line.get_color(): line for line in axis.get_lines() if line.get_gid() != DRAWS}


def test_every_curve_is_drawn_with_its_numbers():
    figure = plots.accuracy_over_tasks(CURVES)
    (axis,) = figure.axes
    lines = by_color(axis)
    color = {name: look["color"] for name, look in styles(CURVES).items()}
    assert len(lines) == len(CURVES)
    orders = [[t, acc] for order in CURVES["fm-lora"] for t, acc in enumerate(order, 1)]
    assert draws(axis) == [orders]
    np.testing.assert_array_equal(lines[color["lora"]].get_ydata(), CURVES["lora"])
    np.testing.assert_array_equal(lines[color["fm-lora"]].get_ydata(), [80, 76, 70, 65])
    (band,) = (c for c in axis.collections if c.get_paths())  # for the one of two orders
    assert to_hex(band.get_facecolor()[0]).upper() == color["fm-lora"]
    (low, _), (_, high) = t_interval([64, 66]), t_interval([75, 77])  # the two widest
    assert band.get_datalim(axis.transData).get_points().tolist() == [[1, low], [4, high]]
    joint = lines[color["joint"]]
    assert joint.get_linestyle() == "--" and set(joint.get_ydata()) == {85}
    assert surrounds(axis, [[1, 30], [4, 95]])
    assert axis.get_xlabel() == "tasks seen" and "%" in axis.get_ylabel()
    assert list(names(axis)) == [
        "joint training 85.0",
        "sequential LoRA 70.0",
        "FM-LoRA 65.0",
        "full fine-tuning 30.0",
    ]


def test_the_title_of_the_curves_follows_the_numbers():
    def said(curves):
        return title(plots.accuracy_over_tasks(curves))

    one = {name: np.atleast_2d(own)[:1] for name, own in CURVES.items()}
    assert said(one) == (
        "After 4 tasks: from full fine-tuning 30% to sequential LoRA 70%, FM-LoRA 64% (one seed)"
    )
    above = one["lora"] + [[0], [1], [2]]
    full, below = above - [[40], [42], [41]], above - [[20], [21], [20]]
    apart = {"fm-lora": below, "lora": above, "full": full}
    assert said(apart) == "After 4 tasks: highest sequential LoRA 71%, FM-LoRA 51%"
    level = apart | {"fm-lora": above + np.array([[-9], [8], [-1]])}
    assert said(level) == (
        "After 4 tasks: sequential LoRA 71%, FM-LoRA 70%: no interval tells who leads"
    )
    assert said({"lora": CURVES["lora"]}) == "After 4 tasks: sequential LoRA 70%"
    assert said({"joint": CURVES["joint"]}) == "After 4 tasks: joint training 85%"


def test_of_many_lines_orders_have_their_dots_at_the_end_alone():
    curves = {f"m{i}": np.arange(10.0) + np.array([[i], [i + 1]]) for i in range(7)}
    figure = plots.accuracy_over_tasks(curves)
    assert draws(figure.axes[0]) == [[[10, 9 + i], [10, 10 + i]] for i in range(7)]
    assert list(legend(figure)) == ["one order or seed (n = 2)"]


def test_many_methods_are_named_at_their_ends_and_no_name_covers_another(toys):
    draw = np.random.default_rng(0)
    curves = {name: draw.uniform(50, 60, (3, 1)) - np.arange(10) for name in toys}
    (axis,) = plots.accuracy_over_tasks(curves).axes
    said = names(axis)
    assert len(said) == len(toys) == 25
    boxes = [text.get_window_extent() for text in said.values()]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    room = axis.get_window_extent()
    assert all(box.x0 > room.x1 for box in boxes)
    assert room.y0 <= min(box.y0 for box in boxes) and max(box.y1 for box in boxes) <= room.y1
    ends = {name: c[:, -1].mean() for name, c in curves.items()}
    order = sorted(ends, key=ends.get, reverse=True)
    assert [text.rsplit(" ", 1)[1] for text in said] == [f"{ends[name]:.1f}" for name in order]


def test_long_names_stand_within_the_height_of_the_axes():
    long = "directions of its own for each task, at {} times the rate of the others"
    (axis,) = plots.lines({long.format(i): ([1, 2], [1, i]) for i in range(12)}, "", "", "").axes
    boxes = [text.get_window_extent() for text in names(axis).values()]
    room = axis.get_window_extent()
    assert len(boxes) == 12
    assert room.y0 <= min(box.y0 for box in boxes) and max(box.y1 for box in boxes) <= room.y1
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_a_thin_line_leads_from_each_end_to_its_name():
    figure = plots.accuracy_over_tasks({"lora": [60.0, 50.0], "full": [70.0, 50.1]})
    (axis,) = figure.axes
    figure.draw_without_rendering()
    said = names(axis)
    leads = [text for text in axis.texts if not text.get_text()]
    assert sorted(lead.xy for lead in leads) == [(2, 50), (2, 50.1)]
    for lead in leads:
        (text,) = (t for t in said.values() if f"{lead.xy[1]:.1f}" in t.get_text())
        box, tip = text.get_window_extent(), axis.transAxes.transform(lead.xyann)
        assert tip[0] <= box.x0 and box.y0 < tip[1] < box.y1


def test_lines_draw_means_intervals_and_names():
    curves = {
        "lora": ([5, 10, 50], [[60.0, 50, 40], [64, 50, 46], [62, 53, 43]]),
        "mine": ([5, 10], [30.0, 35]),
    }
    figure = plots.lines(curves, "tasks, N", "Acc (%)", "Falls", log_x=True)
    (axis,) = figure.axes
    assert marks(axis) == [[[5, 62], [10, 51], [50, 43]], [[5, 30], [10, 35]]]
    ends = {
        x: t_interval(y) for x, y in ((5, [60, 64, 62]), (10, [50, 50, 53]), (50, [40, 46, 43]))
    }
    assert intervals(axis) == [[[x, low], [x, high]] for x, (low, high) in ends.items()]
    assert surrounds(axis, [[5, 30], [50, ends[50][1]]])
    assert axis.get_xscale() == "log"
    assert (axis.get_xlabel(), axis.get_ylabel(), title(figure)) == ("tasks, N", "Acc (%)", "Falls")
    assert list(names(axis)) == ["sequential LoRA", "mine"]


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
    assert intervals(axis) == [[[2, end] for end in t_interval([30, 34])]]


def test_references_are_dashed_and_named_at_their_right_end():
    levels = {"joint": 66.0, "free LoRA": 60.0, "wide": 60.2}
    figure = plots.lines({"fm-lora": ([1, 2], [30.0, 55])}, "R", "%", "", references=levels)
    (axis,) = figure.axes
    dashed = [line for line in axis.get_lines() if line.get_linestyle() == "--"]
    assert [set(line.get_ydata()) for line in dashed] == [{60.0}, {60.2}, {66.0}]
    assert [line.get_color() for line in dashed[:2]] == [INK, INK]
    assert dashed[2].get_color() == styles(["joint"])["joint"]["color"]
    said = names(axis)
    assert list(said) == ["joint training", "wide", "free LoRA", "FM-LoRA"]
    boxes = {name: text.get_window_extent() for name, text in said.items()}
    assert all(box.x0 >= axis.get_window_extent().x1 for box in boxes.values())
    assert not boxes["wide"].overlaps(boxes["free LoRA"])
    assert surrounds(axis, [[1, 30], [2, 66]])


def test_a_reference_that_would_leave_a_third_of_the_axis_empty_is_named_alone():
    levels = {"joint": 86.0, "free LoRA": 58.0}
    figure = plots.lines({"lora": ([1, 2], [[50.0, 60]])}, "R", "%", "Falls", references=levels)
    (axis,) = figure.axes
    dashed = [line for line in axis.get_lines() if line.get_linestyle() == "--"]
    assert [set(line.get_ydata()) for line in dashed] == [{58.0}]
    assert next(iter(names(axis))) == "joint training 86 ↑"
    low, high = axis.get_ylim()
    assert high - 60 < (high - low) / 3
    assert title(figure) == "Falls (one seed)"


def test_what_chance_would_give_is_dotted_in_the_colour_of_its_line():
    curves = {"R = 4": ([1, 2, 3], [0.2, 0.3, 0.2]), "R = 8": ([1, 2, 3], [0.4, 0.4, 0.5])}
    chance = {"R = 4": 0.1, "R = 8": [0.2, 0.2, 0.3]}
    figure = plots.lines(curves, "task", "share", "Held", chance=chance)
    looks = styles(curves)
    dotted = {
        line.get_color(): line.get_ydata().tolist()
        for line in figure.axes[0].get_lines()
        if line.is_dashed()
    }
    assert dotted == {
        looks["R = 4"]["color"]: [0.1, 0.1, 0.1],
        looks["R = 8"]["color"]: [0.2, 0.2, 0.3],
    }
    assert list(legend(figure)) == ["by chance, in its colour"]
