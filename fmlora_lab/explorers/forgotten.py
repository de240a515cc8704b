"""What is forgotten: which classes are taken for which, task by task, and by which images."""

from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ipywidgets import Dropdown, IntSlider, Play, VBox, jslink
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fmlora_lab.analysis.confusion import confusion, first_wrong
from fmlora_lab.explorers.explorer import Explorer, table
from fmlora_lab.explorers.offer import dropdown, offered, run_of
from fmlora_lab.interrupts import stopping
from fmlora_lab.metrics import acc_over_time
from fmlora_lab.plots.confusion_map import ConfusionMap
from fmlora_lab.plots.screen import Screen
from fmlora_lab.runs.archive import RELATIONS
from fmlora_lab.runs.stored import Run

if TYPE_CHECKING:
    from fmlora_lab.explorers.images import TestImages

MANY = 24
"""Images that are shown at most."""
REACH = 3.5
"""Cells within which a press means the fullest one: most are empty, and all of them small."""
HINT = """a class that is forgotten leaves the diagonal. Does it go to classes of its own task, or
to those of the last one, a dark column of blocks? Where accuracy within the task stays high and
that among all classes falls, the images are still told apart, but taken for newer classes. Press a
cell to see its images; compare the trained head with heads that keep statistics."""


@stopping("before the explorer was open")
def forgotten(runs_dir: Path | str | None = None, static: bool = False) -> VBox | Figure:
    """The explorer; with `static`, the figure that it opens with.

    Offers the example runs and those in `runs_dir` that kept what their heads said. BadInput for a
    stored file that is damaged.
    """
    return explorer(runs_dir).shown(static)


def explorer(runs_dir: Path | str | None = None) -> Explorer:
    """The page, for who wants its controls."""
    run = dropdown("run", offered(runs_dir, suits), "lora")
    n = len(run_of(run).accuracy_matrix)
    head = Dropdown(options=[TRAINED], description="head")
    after = IntSlider(n, 1, n, description="after task")
    block = IntSlider(1, 1, n, description="classes of task")
    kind = Dropdown(options=[("", -1)], description="class")
    called = Dropdown(options=[("", -1)], description="called")
    play = Play(min=1, max=n, value=n, interval=900, description="through the tasks")
    jslink((after, "value"), (play, "value"))

    def adjust() -> None:
        now = run_of(run)
        for moving in (after, block, play):
            moving.max = len(now.accuracy_matrix)
        choose(head, [(name, name) for name in now.said(0)])
        found = answers_of(now, str(head.value))
        own, names = found.images.classes[block.value - 1], found.images.names
        # A class that is called others most is what one looks for first.
        wrong = found.counts(after.value - 1).copy()
        np.fill_diagonal(wrong, 0)
        worst = own.start + int(wrong[own.start : own.stop].sum(1).argmax())
        choose(kind, [(names[k], k) for k in own], worst)
        row = found.counts(after.value - 1)[kind.value]
        there = sorted(np.flatnonzero(row).tolist(), key=lambda k: (k == kind.value, -row[k]))
        options = [(f"{names[k]}: {row[k]} images", k) for k in there]
        choose(called, options or [("yet to come", kind.value)])

    def press(axis: Axes, x: float, y: float) -> None:
        found = answers_of(run_of(run), str(head.value))
        if axis is not built(run_of(run), str(head.value)).map.axes:
            return
        i, j = nearest(found.counts(after.value - 1), y, x)
        block.value = 1 + next(t for t, own in enumerate(found.images.classes) if i in own)
        kind.value = i
        if j in [value for _, value in called.options]:
            called.value = j

    controls = {"run": run, "head": head, "after": after, "block": block}
    controls |= {"kind": kind, "called": called}
    rows = [(run, head, after, play), (block, kind, called)]
    return Explorer(controls, draw, rows, HINT, adjust, press)


TRAINED = "trained"


def suits(run: Run) -> bool:
    """Whether a run kept what its heads said of each test image, task after task."""
    if run.label.one_task:
        return False
    if run.shipped:
        return run.folder.has(RELATIONS) and bool(run.said(0))
    return "within_task" in run.numbers  # which results have since records have answers


def choose(choice: Dropdown, options: list[tuple[str, Any]], first: Any = None) -> None:
    """Give a choice these options; it keeps its value where that is among them, else it takes
    `first`, or the first."""
    if list(choice.options) == options:
        return
    values = [value for _, value in options]
    kept = choice.value if choice.value in values else first if first in values else values[0]
    choice.options = options
    choice.value = kept


@dataclass
class Answers:
    """What one head of a run said of its test images after each task."""

    images: "TestImages"
    said: list[NDArray[np.int64]]
    first_wrong: NDArray[np.int64]

    def counts(self, t: int) -> NDArray[np.int64]:
        """How many images of each class are called each class after task t, (K, K)."""
        now = self.said[t][: int((self.images.tasks <= t).sum())]
        return confusion(now, self.images.labels[: len(now)], len(self.images.names))

    def cell(self, t: int, kind: int, called: int) -> NDArray[np.int64]:
        """The images of a class that are called that after task t."""
        now = self.said[t][: int((self.images.tasks <= t).sum())]
        return np.flatnonzero((now == called) & (self.images.labels[: len(now)] == kind))


@lru_cache(8)
def answers_of(run: Run, head: str) -> Answers:
    """BadInput where the run's test images, without which nothing is known of their classes, are
    not there."""
    from fmlora_lab.explorers.images import images_of  # which brings torch

    images = images_of(run)
    said = [run.said(t)[head].astype(int) for t in range(run.result["task_files"])]
    return Answers(images, said, first_wrong(said, images.labels))


@lru_cache(8)
def built(run: Run, head: str) -> ConfusionMap:
    among, within = run.matrices(head)
    counts = run.result["test_images"]
    over_all = np.stack([acc_over_time(among, counts), acc_over_time(within, counts)])
    return ConfusionMap(among, within, over_all, answers_of(run, head).images.classes)


def draw(run: Run, head: str, after: int, block: int, kind: int, called: int) -> tuple[Screen, str]:
    """The figure after a task, with one task's classes and one cell (tasks from 1, classes from 0),
    and the cell's images."""
    found, picture = answers_of(run, head), built(run, head)
    t, i, names = after - 1, block - 1, found.images.names
    counts = found.counts(t)
    of_class = counts.sum(1, keepdims=True)
    shares = np.where(of_class > 0, counts / np.maximum(of_class, 1), np.nan)
    shares[:, max(own.stop for own in found.images.classes[: t + 1]) :] = np.nan
    here, all_of_it = counts[kind, called], int(of_class[kind, 0])
    if all_of_it:
        what = "right" if kind == called else f"called {names[called]}"
        cell = f"{here} of {all_of_it} images of {names[kind]} are {what}"
    else:
        cell = f"{names[kind]} is yet to come"
    picture.show(t, shares, i, (kind, called), f"After task {after}, {head} head: {cell}")
    return picture, accuracies(picture, t, i) + shown(found, t, kind, called)


def accuracies(picture: ConfusionMap, t: int, i: int) -> str:
    """Of one task's images, when it was learned and after task t."""
    rows = {}
    for name, a in (("among all classes", picture.among), ("within the task", picture.within)):
        then, now = a[i, i], a[t, i] if t >= i else np.nan
        rows[name] = [percent(then), percent(now), points(now - then)]
    return table(f"Task {i + 1}", ["when learned", f"after task {t + 1}", "change"], rows)


def shown(found: Answers, t: int, kind: int, called: int) -> str:
    """A cell's images, when each was first called wrongly and what it is called now."""
    cell, names = found.cell(t, kind, called), found.images.names
    said = "right" if kind == called else f"called {escape(names[called])}"
    figures = []
    for number in cell[:MANY].tolist():
        first = found.first_wrong[number]
        if 0 <= first <= t:
            story = f"first wrong after task {first + 1}, now {said}"
        else:
            story = f"never wrong up to now, now {said}"
        figures.append(
            f'<figure><img src="{found.images.address(number)}" '
            f'alt="test image {number + 1} of {escape(names[kind])}">'
            f"<figcaption>{story}</figcaption></figure>"
        )
    more = f"<small>and {len(cell) - MANY} more</small>" if len(cell) > MANY else ""
    return f'<div class="fml-images">{"".join(figures)}</div>{more}'


def nearest(counts: NDArray[np.int64], row: float, column: float) -> tuple[int, int]:
    """The fullest cell near a place in the map; the cell at that place where all are empty."""
    rows, columns = np.indices(counts.shape)
    near = np.hypot(rows - row, columns - column)
    here = np.unravel_index(near.argmin(), near.shape)
    if not counts[here]:
        inside = np.where(near <= REACH, counts / (1 + near), 0)
        here = np.unravel_index(inside.argmax(), inside.shape) if inside.any() else here
    return int(here[0]), int(here[1])


def percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}%"


def points(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:+.1f}".replace("-", "−")
