"""Each figure draws what it was given, names it, and says in its title what the numbers say."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from fmlora_lab import plots

N = 4
CURVES = {
    "lora": np.array([90.0, 80, 75, 70]),
    "fm-lora": np.array([[80.0, 75, 70, 64], [80, 77, 70, 66]]),
    "full": np.array([95.0, 60, 40, 30]),
    "joint": np.array([np.nan, np.nan, np.nan, 85]),
}


def lower_triangle(diagonal: float, last: float) -> np.ndarray:
    a = np.full((N, N), np.nan)
    a[np.tril_indices(N)] = last
    np.fill_diagonal(a, diagonal)
    return a


def lines_by_color(axis):
    return {to_hex(line.get_color()).upper(): line for line in axis.get_lines()}


def test_every_curve_is_drawn_with_its_numbers():
    axis = plots.accuracy_over_tasks(CURVES).axes[0]
    lines = lines_by_color(axis)
    assert len(axis.get_lines()) == len(CURVES)
    np.testing.assert_array_equal(lines[plots.METHOD_COLORS["lora"]].get_ydata(), CURVES["lora"])
    np.testing.assert_array_equal(
        lines[plots.METHOD_COLORS["fm-lora"]].get_ydata(), CURVES["fm-lora"].mean(axis=0)
    )
    assert len(axis.collections) == 1  # a band for the one method with two seeds
    joint = lines[plots.METHOD_COLORS["joint"]]
    assert joint.get_linestyle() == "--" and set(joint.get_ydata()) == {85}
    low, high = axis.get_ylim()
    assert low == 0 and high > 95
    assert axis.get_xlabel() == "tasks seen" and "%" in axis.get_ylabel()
    named = [text.get_text() for text in axis.get_legend().get_texts()]
    assert named == [
        "joint training  85.0",
        "sequential LoRA  70.0",
        "FM-LoRA  65.0",
        "full fine-tuning  30.0",
    ]


def test_the_title_of_the_curves_follows_the_numbers():
    def title(curves):
        return plots.accuracy_over_tasks(curves).axes[0].get_title(loc="left")

    assert title(CURVES) == (
        "After 4 tasks: best sequential LoRA 70%, FM-LoRA 65%, last full fine-tuning 30%"
    )
    swapped = CURVES | {"lora": CURVES["full"], "full": CURVES["lora"]}
    assert title(swapped) == (
        "After 4 tasks: best full fine-tuning 70%, FM-LoRA 65%, last sequential LoRA 30%"
    )
    assert title({"lora": CURVES["lora"]}) == "After 4 tasks: sequential LoRA 70%"


def test_the_trade_off_marks_every_method_that_has_one():
    points = {
        "fm-lora": ([70.0, 74.0], [10.0, 12.0]),
        "full": (90.0, 50.0),
        "joint": (np.nan, np.nan),
    }
    axis = plots.trade_off(points, tasks=10).axes[0]
    marks = [line for line in axis.get_lines() if line.get_linestyle() == "None"]
    drawn = [np.column_stack(line.get_data()).tolist() for line in marks]
    assert drawn == [[[11.0, 72.0]], [[10.0, 70.0], [12.0, 74.0]], [[50.0, 90.0]]]
    left, right = axis.get_xlim()
    bottom, top = axis.get_ylim()
    assert left < 10 and right > 50 and bottom < 70 and top > 90
    assert axis.get_xlabel() == "forgetting (points)"
    assert axis.get_ylabel() == "learning accuracy (%)"
    assert axis.get_title(loc="left") == (
        "Full fine-tuning learns most (90%), FM-LoRA forgets least (11 points)"
    )


def test_along_a_line_of_the_trade_off_acc_is_equal():
    axis = plots.trade_off({"lora": (80.0, 20.0), "full": (90.0, 60.0)}, tasks=5).axes[0]
    lines = [line for line in axis.get_lines() if line.get_linestyle() == "-"]
    labels = [text for text in axis.texts if text.get_text().startswith("Acc ")]
    assert len(lines) > 3 and len(labels) > 3
    for line in lines:
        x, y = line.get_data()
        assert np.ptp(y - x * 4 / 5) == pytest.approx(0, abs=1e-9)
    for label in labels:
        x, y = label.xy
        assert y - x * 4 / 5 == pytest.approx(float(label.get_text().split()[1]))


def test_no_label_of_a_line_covers_the_axis():
    figure = plots.trade_off({"prototypes": (69.7, 9.7), "full": (74.2, 26.5)}, tasks=10)
    figure.draw_without_rendering()
    axis = figure.axes[0]
    labels = [text.get_window_extent() for text in axis.texts]
    assert len(labels) > 3
    assert min(box.x0 for box in labels) > axis.get_window_extent().x0


def test_one_method_can_be_best_in_both():
    figure = plots.trade_off({"lora": (80.0, 5.0), "full": (70.0, 60.0)}, tasks=5)
    title = figure.axes[0].get_title(loc="left")
    assert title == "Sequential LoRA both learns most and forgets least"


def test_pareto_marks_every_method_and_names_those_that_none_beats():
    points = {"lora": ([70.0, 74.0], 1e6), "fm-lora": (60.0, 1e5), "full": (50.0, 2e6)}
    points |= {"prototypes": (55.0, 0.0), "linear-probe": (40.0, 0.0)}
    axis = plots.pareto(points, "numbers kept", log=True).axes[0]
    marks = {to_hex(bar[0].get_color()).upper(): bar for bar in axis.containers}
    assert len(marks) == len(points)
    lora = marks[plots.METHOD_COLORS["lora"]]
    assert (lora[0].get_xdata(), lora[0].get_ydata()) == ([1e6], [72.0])
    ((low, high),) = lora[2][0].get_segments()
    assert (low[1], high[1]) == (70.0, 74.0)
    assert axis.get_xlabel() == "numbers kept" and "(%)" in axis.get_ylabel()
    found = axis.get_title(loc="left").split(": ")[1]
    assert found == "nearest class mean, FM-LoRA, sequential LoRA"


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
    assert figure.get_suptitle() == (
        "Task 1, when learned → at the end: FM-LoRA 80% → 70%, full fine-tuning 95% → 10%"
    )


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
    assert "new classes" in figure.get_suptitle()
    again = plots.stream_samples([tasks[0], tasks[0]], ["a", "b", "7"])
    assert "same classes" in again.get_suptitle()


def test_a_method_has_one_colour_and_marker_in_every_figure():
    alone, among = plots.styles(["lora"]), plots.styles(["mine", "full", "lora"])
    assert alone["lora"] == among["lora"]
    looks = list(plots.styles(["mine", "theirs"]).values())
    assert len({look["color"] for look in looks}) == len(looks)
    assert len({look["marker"] for look in looks}) == len(looks)


def test_saved_figures_are_the_same_bytes_and_keep_their_text(tmp_path):
    for folder in ("one", "two"):
        written = plots.save(plots.accuracy_over_tasks(CURVES), tmp_path / folder, "curves")
        assert [path.name for path in written] == ["curves.png", "curves.svg"]
    for name in ("curves.png", "curves.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    svg = (tmp_path / "one" / "curves.svg").read_text()
    assert "tasks seen</text>" in svg and "<dc:date>" not in svg
