"""Lesson 16: what two towers say of a picture, and a control that teaches them scripts and watches
those that they are not taught.

The training is the lab's own loop; it goes on in a thread, one at a time, so that the control
answers at once. Where there is no front end the same call trains once and leaves the picture.
"""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from html import escape
from textwrap import shorten
from threading import Event, RLock, Thread
from typing import Any, Literal

import numpy as np
from IPython.display import display
from ipywidgets import HTML, HBox, Layout, VBox
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fmlora_lab import configure, threads
from fmlora_lab.config import RunConfig
from fmlora_lab.interrupts import Stopped, stopping
from fmlora_lab.lessons import pictures
from fmlora_lab.lessons.live import buttons
from fmlora_lab.plots.sheet import PAGE, SMALL, TEXT
from fmlora_lab.plots.style import FAINT, INK, OTHER_COLORS
from fmlora_lab.runs.run import parts
from fmlora_lab.training.learner import TRAINED_HEAD
from fmlora_lab.training.loop import Nowhere, Position, Trainer

TAUGHT = 2
"""Scripts that are taught, the first ones; the others are only watched."""
VIEWS = {"its own script's 20 characters": True, "the 120 of all scripts": False}
"""Among which a character is looked for, and whether its script is given for that."""
RIGHT, WRONG = OTHER_COLORS[4], "#AAAAAA"
COLORS = (*OTHER_COLORS[:TAUGHT], INK)
"""Of the scripts that are taught, and of the mean of the others."""
DPI = 130
LONGEST = 40
"""Characters of a name beside a picture."""


def scripts(method: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """A configuration that teaches a script in seconds: eight images of each of 20 characters."""
    sizes = {"benchmark.train_images": 8, "benchmark.test_images": 4}
    steps = {"training.epochs": 2, "training.batch_size": 32, "heads.random_features": 50}
    own = {"backbone.name": "glyphs-clip", **sizes, **steps, **(overrides or {})}
    return configure(method, "glyph-scripts", "demo", own)


class Ended(Exception):
    """All that was to be taught is, or nobody waits for it any more."""


@dataclass
class Taught(Nowhere):
    """What was seen of a training: accuracy (%) on every script, before it and after each epoch.

    It is the training's keeper, in memory; `records` is what the method left of each script.
    `given` is among the script's own characters, `among_all` among those of all scripts: a row a
    look. `after_look` is called after each; once `cancelled` is set, the training ends there.
    """

    config: RunConfig
    after_look: Callable[[], None] = lambda: None
    cancelled: Event = field(default_factory=Event)
    names: list[str] = field(default_factory=list)
    given: list[list[float]] = field(default_factory=list)
    among_all: list[list[float]] = field(default_factory=list)
    records: list[dict[str, np.ndarray]] = field(default_factory=list)

    def train(self) -> "Taught":
        """Teach the first scripts of the stream."""
        model, stream = parts(self.config)
        self.names = [task.name for task in stream.tasks]
        self.trainer = Trainer(self.config, stream, model, self, after_task=_enough)
        # Someone is at a notebook, with other work on the machine; a picture says how far it is.
        with threads.at_most(1), redirect_stderr(io.StringIO()):
            try:
                self._look()
                self.trainer.run()
            except Ended:
                pass
        return self

    @property
    def looks(self) -> int:
        """How many there are from the first to the end."""
        return 1 + TAUGHT * self.config.training.epochs

    @property
    def ended(self) -> bool:
        return len(self.given) == self.looks

    def seen(self, given: bool) -> np.ndarray:
        """(looks so far, scripts)."""
        return np.array(self.given if given else self.among_all)

    def steps(self) -> np.ndarray:
        """How many training steps came before each look."""
        images = len(self.trainer.stream.tasks[0].train)
        return np.arange(self.looks) * math.ceil(images / self.config.training.batch_size)

    def _look(self) -> None:
        if self.cancelled.is_set():
            raise Ended
        learner, tasks = self.trainer.learner, self.trainer.stream.tasks
        learner.read_texts()
        answers = [learner.answer(task) for task in tasks]
        for rows, right in (
            (self.given, [answer.right_within() for answer in answers]),
            (self.among_all, [answer.right() for answer in answers]),
        ):
            counted = zip(right, tasks, strict=True)
            rows.append([100 * by_head[TRAINED_HEAD] / len(task.test) for by_head, task in counted])
        self.after_look()

    def log(self, line: dict[str, Any]) -> None:
        if line["stage"] == "train":
            self._look()

    def save_task(self, index: int, tensors: dict[str, np.ndarray]) -> None:
        self.records.append(tensors)


def _enough(at: Position) -> None:
    if at.task == TAUGHT:
        raise Ended


class Teach:
    """The control, the pictures, and what was tried so far, by the control's labels."""

    at_work: Thread | None = None

    def __init__(
        self, make: Callable[[Any], RunConfig], over: Sequence[Any], start: Any, label: str
    ):
        self.make, self.label = make, label
        self.tried: dict[str, Taught] = {}
        self.now = Taught(make(start))
        self.failed: BaseException | None = None
        self.choice = buttons(label, {str(value): value for value in over}, start)
        self.view = buttons("looked for among", VIEWS, True)
        self.status = HTML()
        fits = Layout(flex="1 1 380px", min_width="0", max_width="560px", align_self="flex-start")
        self.images = [HTML(layout=fits) for _ in range(2)]
        both = HBox(self.images, layout=Layout(flex_flow="row wrap"))
        self.widget = VBox([self.choice, self.view, self.status, both])
        self._drawing = RLock()
        self.choice.observe(lambda _: self.begin(), "value")
        self.view.observe(lambda _: self._draw(), "value")

    def begin(self) -> None:
        """Show what is chosen: from memory, or by training it; another training is cancelled."""
        self.now.cancelled.set()
        value, self.failed = str(self.choice.value), None
        if value in self.tried:
            self.now = self.tried[value]
            self._say("trained")
            self._draw()
            return
        self.now = now = Taught(self.make(self.choice.value))
        self._say("training begins")
        before, Teach.at_work = (
            Teach.at_work,
            Thread(target=lambda: self._work(value, now, before), daemon=True),
        )
        Teach.at_work.start()

    def wait(self) -> None:
        """Until nothing is being trained; `Stopped` by an interrupt, which cancels it."""
        try:
            while (thread := Teach.at_work) is not None and thread.is_alive():
                thread.join(0.1)
        except KeyboardInterrupt as interrupt:
            self.now.cancelled.set()
            stopped = Stopped("while it was taught", "run the cell again to train anew")
            self._say(str(stopped))
            raise stopped from interrupt
        if self.failed is not None:
            raise self.failed

    def _work(self, value: str, now: Taught, before: Thread | None) -> None:
        if before is not None:
            before.join()

        def after_look() -> None:
            if not now.cancelled.is_set():
                self._say(f"trained {len(now.given) - 1} of {now.looks - 1} epochs")
                self._draw()

        now.after_look = after_look
        try:
            if not now.cancelled.is_set():
                now.train()
        except BaseException as error:
            self.failed = error
            self._say(f"{type(error).__name__}: {error}")
            return
        if now.ended:
            self.tried[value] = now
        if now.ended and not now.cancelled.is_set():
            self._say("trained")
            self._draw()

    def _say(self, what: str) -> None:
        said = escape(f"{self.label} {self.choice.value}: {what}")
        self.status.value = f"<span role='status'>{said}</span>"

    def _figure(self, panels: Sequence[int]) -> Figure:
        given, value = bool(self.view.value), str(self.choice.value)
        figure = Figure((PAGE / 2 * len(panels), 3.1), dpi=DPI)
        for k, panel in enumerate(panels):
            place = ((k + 0.16) / len(panels), 0.15, 0.78 / len(panels), 0.7)
            axis = figure.add_axes(place)
            if panel == 0:
                course(axis, self.now, given, f"{self.label}: {value}")
            else:
                order = [str(v) for _, v in self.choice.options if str(v) in self.tried]
                kept(axis, {v: self.tried[v] for v in order}, given, self.label)
        return figure

    def _draw(self) -> None:
        if not self.now.given:
            return
        with self._drawing:  # fonts are not for two threads
            for panel, image in enumerate(self.images):
                image.value = pictures.shown(self._figure([panel]))

    def _repr_mimebundle_(self, **how: Any) -> dict[str, Any]:
        """The control for a front end, the picture for whatever has none."""
        control = self.widget._repr_mimebundle_(**how) or {}
        if not self.now.given:
            return control
        with self._drawing:
            both = pictures.png(self._figure([0, 1]))
            return {**control, "image/png": base64.b64encode(both).decode()}


def teach(make: Callable[[Any], RunConfig], over: Sequence[Any], start: Any, label: str) -> Teach:
    """Show a control over the values `over`, and teach by `make(value)` at once for `start`, then
    for whichever is chosen. Returns it: `now.records` is what the last training left."""
    with stopping("before training began"):
        page = Teach(make, over, start, label)
        shown = display(page, display_id=True)
        assert shown is not None  # with an id there is a handle
        page.begin()
        page.wait()
    shown.update(page)
    return page


def grouped(accuracy: ArrayLike) -> np.ndarray:
    """Of accuracies (..., scripts) those of each script that is taught, then the others' mean."""
    a = np.asarray(accuracy, float)
    return np.concatenate([a[..., :TAUGHT], a[..., TAUGHT:].mean(-1, keepdims=True)], axis=-1)


def course(axis: Axes, taught: Taught, given: bool, title: str) -> None:
    """Each taught script and the mean of the others, from before the first step to now."""
    lines, steps = grouped(taught.seen(given)), taught.steps()
    names = [*taught.names[:TAUGHT], f"mean of the other {len(taught.names) - TAUGHT}"]
    for own, name, color in zip(lines.T, names, COLORS, strict=True):
        wide = 2.0 if color == INK else 1.2
        look = {"color": color, "linewidth": wide, "markersize": 4}
        axis.plot(steps[: len(own)], own, "o-", **look, label=name)
        axis.axhline(own[0], color=color, linewidth=0.6, linestyle=":")
    each = taught.config.training.epochs
    for t, name in enumerate(taught.names[:TAUGHT]):
        axis.axvline(steps[t * each], color=INK, linewidth=0.6, linestyle=":")
        axis.text(steps[t * each], 101, f" learns {name} →", fontsize=SMALL, color=INK)
    axis.set(xlim=(-0.5, steps[-1] + 0.5), ylim=(0, 100), xticks=steps)
    axis.set_title(title, fontsize=TEXT, loc="left", pad=14)
    axis.legend(loc="lower left", fontsize=SMALL, frameon=False)
    _plain(axis, "training steps", "right (%)", "y")


def kept(axis: Axes, tried: Mapping[str, Taught], given: bool, label: str) -> None:
    """For every value tried: the taught scripts' mean and the others', before and at the end."""
    for y, (value, taught) in enumerate(tried.items()):
        axis.text(1, y - 0.3, value, fontsize=SMALL, va="center", color=INK)
        before, now = (grouped(row) for row in taught.seen(given)[[0, -1]])
        for lane, color, own in ((0, COLORS[0], slice(TAUGHT)), (0.28, INK, slice(TAUGHT, None))):
            ends, look = (before[own].mean(), now[own].mean()), {"color": color, "markersize": 5}
            axis.plot(ends, (y + lane, y + lane), color=color, linewidth=1.2)
            axis.plot(ends[0], y + lane, "o", markerfacecolor="white", **look)
            axis.plot(ends[1], y + lane, "o", **look)
            said = f"{ends[1] - ends[0]:+.0f}".replace("-", "−")
            grows = ends[1] >= ends[0]
            axis.annotate(
                said, (ends[1], y + lane), (5 if grows else -5, 0), textcoords="offset points",
                fontsize=SMALL, color=color, ha="left" if grows else "right", va="center",
            )  # fmt: skip
    axis.set(xlim=(0, 100), ylim=(max(len(tried), 3) - 0.5, -0.6), yticks=())
    said = f"{label}: ○ before, ● at the end,\ntaught scripts (colour) and the others (dark)"
    axis.set_title(said, fontsize=TEXT, loc="left")
    _plain(axis, "right (%)", "", "x")


def guesses(
    pixels: ArrayLike, shares: ArrayLike, names: Sequence[str], right: Sequence[int], most: int = 5
) -> Figure:
    """Images, uint8 (n, 3, H, W), each beside its `most` likely names of K and their `shares`
    (n, K); the bar of the `right` one (n,) is coloured."""
    images, shares = np.moveaxis(np.asarray(pixels), 1, -1), np.asarray(shares, float)
    rows = -(-len(images) // 2)
    figure = Figure((PAGE, 1.15 * rows), dpi=DPI)
    for n, (image, own) in enumerate(zip(images, shares, strict=True)):
        left, bottom = 0.5 * (n % 2), 1 - (n // 2 + 1) / rows
        shown = figure.add_axes((left + 0.01, bottom + 0.14 / rows, 0.1, 0.72 / rows))
        shown.imshow(image)
        shown.axis("off")
        axis = figure.add_axes((left + 0.13, bottom + 0.06 / rows, 0.33, 0.88 / rows))
        order = own.argsort()[::-1][:most]
        colors = [RIGHT if k == right[n] else WRONG for k in order]
        axis.barh(range(most), own[order], 0.9, color=colors, alpha=0.55)
        for y, k in enumerate(order):
            said = f"{100 * own[k]:.0f}%  {shorten(names[int(k)], LONGEST, placeholder=' …')}"
            axis.text(0.01, y, said, fontsize=SMALL, va="center", color="black")
        axis.set(xlim=(0, 1), ylim=(most - 0.5, -0.5))
        axis.axis("off")
    return figure


def _plain(axis: Axes, xlabel: str, ylabel: str, grid: Literal["x", "y"]) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    axis.set_xlabel(xlabel, fontsize=TEXT)
    axis.set_ylabel(ylabel, fontsize=TEXT)
    axis.grid(axis=grid, color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)


def overlap(taught: Taught) -> float:
    """Mean |cosine| of the columns that its first two scripts wrote into, over all sites."""
    first, second = taught.records[:TAUGHT]
    found = []
    for site in (name for name in first if name.startswith("U.")):
        A, B = (r[site] / np.linalg.norm(r[site], axis=0).clip(1e-12) for r in (first, second))
        found.append(np.abs(A.T @ B).mean())
    return float(np.mean(found))
