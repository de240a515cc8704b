"""Figures fit their paper: width, title, nothing covered, the same bytes each time."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from pandas import DataFrame
from PIL import Image
from reading import written

from fmlora_lab import plots
from fmlora_lab.config import BadInput
from fmlora_lab.plots.sheet import COLUMN, PAGE, wrapped

pytestmark = pytest.mark.unit


ACC = "accuracy after the last task, Acc (%)"
TITLE = "At its best setting nearest class mean ends 3 points above FM-LoRA at R = 16 and N = 10"
LONG = "‖P$_t$ − P$_{t−1}$‖ / ‖P$_{t−1}$‖, drift of the prompt in a task of the stream"
SOURCES = [
    "first task", "first task's gradient", "weight's SVD, R = 128, r = 12", "free LoRA",
    "the same, directions of its own for each task (ours)",
]  # fmt: skip
HEADS = [
    "trained", "means", "means-carried", "lda", "lda-carried", "ridge", "ridge-carried",
]  # fmt: skip
CLASSES = ["great white shark", "hen", "tree frog", "American lobster", "school bus"] * 2


def drawn(name: str, methods: list[str], **how):
    """A realistic figure at its fullest: of 25 methods where it is one of methods. `how` is for
    the function that draws it."""
    draw, tasks = np.random.default_rng(0), np.arange(10)
    base = dict(zip(methods, draw.uniform(45, 65, len(methods)), strict=True))

    def around(value, shape=3):
        return value + draw.normal(0, 1, shape)

    def swept(method, k):
        return around(base[method] - 40 + 3 * np.arange(k), k), around(base[method] + tasks[:k], k)

    triangle = np.where(np.tri(10) > 0, around(70.0, (10, 10)), np.nan)
    pixels = draw.integers(0, 255, (10, 3, 8, 8), dtype=np.uint8)
    several = ("linear", "cosine", "class means")
    few = methods[::5]
    figures = {
        "accuracy_over_tasks": lambda: plots.accuracy_over_tasks(
            {m: around(base[m] - tasks, (3, 10)) for m in methods}
        , **how),
        "lines": lambda: plots.lines(
            {m: ([5, 10, 20, 50], around(base[m], (3, 4))) for m in methods},
            "tasks, N", ACC, TITLE, log_x=True, references={"joint": 90.0, "free LoRA": 61.0},
        **how),
        "trade_off": lambda: plots.trade_off(
            {m: (around(base[m] + 20), around(base[m] - 40)) for m in methods}, 10
        , **how),
        "frontier": lambda: plots.frontier(
            {m: (*swept(m, 5), ["×0.25", "×0.5", "×1", "×2", "×4"]) for m in few}, 10, TITLE
        , **how),
        "pareto": lambda: plots.pareto(
            {m: (around(base[m]), 10 ** (1 + 0.25 * i)) for i, m in enumerate(methods)},
            "numbers kept from task to task", log=True,
        **how),
        "scatter": lambda: plots.scatter(
            {m: draw.normal(size=(2, 45)) for m in methods[:12]}, LONG, LONG, TITLE
        , **how),
        "dots": lambda: plots.dots(
            {m: {head: around(base[m]) for head in several} for m in methods[::2]}, ACC, TITLE
        , **how),
        "dots, one series": lambda: plots.dots(
            {m: {"Acc": around(base[m])} for m in methods}, ACC, TITLE
        , **how),
        "dots, long names": lambda: plots.dots(
            {source: {"Acc": around(50)} for source in SOURCES}, ACC, TITLE
        , **how),
        "accuracy_matrices": lambda: plots.accuracy_matrices({m: triangle for m in few[:3]}, **how),
        "heatmaps": lambda: plots.heatmaps(
            {m: draw.uniform(-1, 1, (6, 6)) for m in methods[:7]}, "task", "task",
            "|⟨ΔW$_i$, ΔW$_j$⟩| / (‖ΔW$_i$‖ ‖ΔW$_j$‖)", TITLE, diverging=True,
        **how),
        "rank_probabilities": lambda: plots.rank_probabilities(
            draw.dirichlet(np.ones(4), 10), [2, 4, 8, 16], [8] * 10, draw.uniform(size=10), TITLE
        , **how),
        "ranks_by_task": lambda: plots.ranks_by_task(
            {m: draw.integers(0, 8 + 8 * k, (10, 24)) for k, m in enumerate(few[:3])}, TITLE
        , **how),
        "stream_samples": lambda: plots.stream_samples(
            [(f"classes {i} to {i + 9}", pixels, tasks) for i in range(2)], CLASSES
        , **how),
        "measures": lambda: plots.measures(
            DataFrame({name: draw.normal(size=len(methods)) for name in "abcdef"}, index=methods),
            dict.fromkeys("abcd", LONG), {"e": ACC, "f": "forgetting (points)"},
            {(x, y): "ρ = −0.42 (−0.71 to −0.01)" for x in "abcd" for y in "ef"}, TITLE, few[:4],
        **how),
        "every_head": lambda: plots.every_head(
            {m: {head: around(base[m], ()) for head in HEADS} for m in methods}, TITLE, 58.0, 90.0
        , **how),
        "heads_over_tasks": lambda: plots.heads_over_tasks(
            {m: {head: around(base[m] - tasks, (3, 10)) for head in HEADS} for m in few[:4]},
            TITLE, around(60 - tasks, (3, 10)),
        **how),
        "stacks": lambda: plots.stacks(
            {head: {m: {"lost": around(2), "confused": around(15)} for m in methods}
             for head in HEADS[:2]}, "forgetting (points)", TITLE,
        **how),
    }  # fmt: skip
    return figures[name]()


FIGURES = [
    "accuracy_over_tasks", "lines", "trade_off", "frontier", "pareto", "scatter", "dots",
    "dots, one series", "dots, long names", "accuracy_matrices", "heatmaps", "rank_probabilities",
    "ranks_by_task", "stream_samples", "measures", "every_head", "heads_over_tasks", "stacks",
]  # fmt: skip
SEVERAL_PANELS = (
    "accuracy_matrices", "heatmaps", "stream_samples", "measures", "heads_over_tasks", "stacks",
)  # fmt: skip
OF_MANY = ("accuracy_over_tasks", "lines", "pareto", "trade_off", "every_head")
"""Figures that widen for as many methods as these."""


@pytest.mark.parametrize("name", FIGURES)
def test_on_paper_nothing_is_cut_off_or_covered(name, toys):
    figure = drawn(name, list(toys))
    assert figure.get_figwidth() == (PAGE if name in SEVERAL_PANELS + OF_MANY else COLUMN)
    assert figure.get_figheight() < 7
    figure.draw_without_rendering()
    texts, (head,) = written(figure), figure.texts
    assert len(texts) >= 10
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


@pytest.mark.parametrize("name", [name for name in FIGURES if "," not in name])
def test_a_figure_is_as_wide_as_it_is_asked_to_be(name, toys):
    width = "column" if name in (*SEVERAL_PANELS, "every_head") else "page"  # not its own
    figure = drawn(name, list(toys)[:8], width=width)
    assert figure.get_figwidth() == {"column": COLUMN, "page": PAGE}[width]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in (*figure.texts, *written(figure))]
    assert all(figure.bbox.padded(0.5).count_contains(box.corners()) == 4 for box in boxes)


def test_another_width_is_refused():
    with pytest.raises(
        BadInput, match="width is 'poster'; a figure is as wide as a column or a page"
    ):
        plots.lines({"lora": ([1], [1.0])}, "", "", "", width="poster")


def test_whole_numbers_have_whole_ticks():
    points = {"tasks": ([0.1, 0.2, 0.45], [2, 3, 2])}
    (axis,) = plots.scatter(points, "error", "rank", "").axes
    assert all(tick == round(tick) for tick in axis.get_yticks())
    assert not all(tick == round(tick) for tick in axis.get_xticks())
    (axis,) = plots.scatter({"tasks": ([1.5, 2.5], [4, 4])}, "error", "rank", "").axes
    assert {3, 4, 5} >= {*axis.get_yticks()} >= {4}


def test_a_minus_in_a_title_is_one():
    said = plots.lines({"lora": ([1], [1.0])}, "", "", "N-LoRA -0.3 (-1 to 2)").get_suptitle()
    assert said == "N-LoRA −0.3 (−1 to 2)"


def test_a_layout_is_the_same_at_every_resolution(toys):
    figure = drawn("frontier", list(toys))
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


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.accuracy_over_tasks({"lora": [[90.0, 70], [88, 60]], "full": [95.0, 30]}),
        lambda: plots.frontier({"lora": ([1.0, 2], [3.0, 4], "ab")}, 10, "Ends"),
        lambda: plots.accuracy_matrices({"lora": [[80.0, np.nan], [70, 90]]}),
        lambda: plots.dots({"lora": {"a": [1.0, 2], "b": 3.0}}, "Acc (%)", "Heads"),
        lambda: plots.scatter({"lora": ([1.0, 2], [3.0, 4])}, "drift", "lost", "Says little"),
    ],
)
def test_saved_figures_are_the_same_bytes_and_keep_their_text(tmp_path, draw):
    once = draw()
    for folder, figure in (("one", once), ("two", once), ("drawn anew", draw())):
        written = plots.save(figure, tmp_path / folder, "figure")
        assert [path.name for path in written] == ["figure.png", "figure.svg", "figure.pdf"]
    for kind in ("png", "svg", "pdf"):
        one, *others = [path.read_bytes() for path in sorted(tmp_path.glob(f"*/*.{kind}"))]
        assert others == [one, one]
    svg = (tmp_path / "one" / "figure.svg").read_text()
    for text in (*once.get_suptitle().split("\n"), once.axes[0].get_xlabel()):
        assert f"{text}</text>" in svg
    assert "<dc:date>" not in svg
    assert Image.open(tmp_path / "one" / "figure.png").size[0] == 300 * COLUMN


def test_importing_what_explorers_draw_with_brings_nothing_slow():
    code = "import sys, fmlora_lab.explorers, fmlora_lab.plots; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "seaborn", "matplotlib.pyplot"} & set(done.stdout.split())
