"""A control that trains again when it is moved, on three small tasks, with a live picture.

A training goes on in a thread, so that the control answers at once; there is one at a time, and
whoever asks for the next one cancels it. Where there is no front end, as under papermill, the same
call trains once and leaves the picture.
"""

import base64
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from threading import Event, RLock, Thread
from typing import Any

import numpy as np
from IPython.display import display
from ipywidgets import HTML, HBox, Layout, ToggleButtons, VBox
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fmlora_lab.config import RunConfig
from fmlora_lab.interrupts import Stopped, stopping
from fmlora_lab.lessons import pictures
from fmlora_lab.lessons.watched import TASKS, Cancelled, Trained, first_tasks

VIEWS = {"among all classes": False, "among the task's own": True}
"""What a right answer was chosen from, and whether the task is given for that."""
HEIGHT = 2.9


@dataclass
class Seen:
    """What a picture is drawn from.

    `tried` has a row a value of the control, in its order: the trainings that ended, one a seed.
    `now` is the training of the chosen `value`, perhaps not at its end; `beside` those that it is
    compared with, as far as they are; `given` says whether right answers were chosen among the
    task's own classes.
    """

    label: str
    value: str
    now: Trained
    tried: dict[str, list[Trained]]
    beside: dict[str, Trained]
    given: bool

    def of(self, trained: Trained) -> list[float]:
        """Accuracy on task 1 by epoch."""
        return trained.given if self.given else trained.among_all

    @property
    def title(self) -> str:
        return f"{self.label}: {self.value}"


Panel = Callable[[Axes, Seen], None]


def task_1(axis: Axes, seen: Seen) -> None:
    """Accuracy on task 1 epoch by epoch, beside what it is compared with."""
    look = pictures.look_of(seen.now.config.method.name)
    curves = {"this training": (seen.of(seen.now), look)}
    levels = {}
    for said, trained in seen.beside.items():
        if trained.config.method.name != "joint":
            curves[said] = (seen.of(trained), pictures.BESIDE[said])
        elif trained.ended:
            levels[said] = seen.of(trained)[-1]
    epochs = seen.now.config.training.epochs
    pictures.live(axis, seen.title, curves, epochs, TASKS, levels)
    pictures.named_below(axis)


def earlier(axis: Axes, seen: Seen) -> None:
    """Tasks 1 and 2 when they were just learned, and at the end, for every value tried."""
    rows = {v: [t.earlier(seen.given) for t in found] for v, found in seen.tried.items()}
    looks = {v: pictures.look_of(t[0].config.method.name) for v, t in seen.tried.items()}
    levels = {}
    for said, trained in seen.beside.items():
        if trained.config.method.name == "joint" and trained.ended:
            levels[said] = trained.earlier(seen.given)[1]
        elif trained.ended:
            rows[said], looks[said] = [trained.earlier(seen.given)], pictures.BESIDE[said]
    pictures.learned_and_left(axis, rows, looks, levels, seen.label)


def overlaps(axis: Axes, seen: Seen) -> None:
    """How much each two tasks' changes point the same way, for every value tried."""
    rows = {v: overlap([r["own_core"] for r in t[0].records]) for v, t in seen.tried.items()}
    said = [f"tasks {i + 1} and {j + 1}" for i, j in PAIRS]
    title = "how much two tasks' changes point the same way"
    pictures.marks(axis, rows, said, seen.label, "cosine of ΔW of the two", title)


PAIRS = list(itertools.combinations(range(TASKS), 2))


def overlap(cores: Sequence[np.ndarray]) -> list[float]:
    """The cosine of every two tasks' changes of all weights, from the R × R changes of the cores:
    bases have orthonormal columns."""
    unit = [core.ravel() / np.linalg.norm(core) for core in cores]
    return [float(unit[i] @ unit[j]) for i, j in PAIRS]


def scores(axis: Axes, seen: Seen) -> None:
    """The selector's scores of every rank, for each task that it chose for: task 1 makes the bases,
    and gets them all."""
    found = [r for r in seen.now.records[1:] if np.isfinite(r["H"])]
    ranks = [int(r) for r in found[0]["candidates"]] if found else [2, 4, 8, 16]
    pictures.scored(axis, ranks, [(float(r["H"]), score_of(r)) for r in found], seen.title)
    pictures.named_below(axis)


def score_of(record: Mapping[str, np.ndarray]) -> np.ndarray:
    """score_r of the candidates, as the selector had them when the task ended."""
    ranks = record["candidates"]
    return (record["w"][0] * record["H"] - record["cost"] * ranks / ranks[-1]) / record["tau"]


def chosen(axis: Axes, seen: Seen) -> None:
    """The rank that each task got, for every value tried."""
    rows = {value: found[0].ranks() for value, found in seen.tried.items()}
    said = [f"task {t + 1}" for t in range(TASKS)]
    pictures.marks(axis, rows, said, seen.label, "rank", "the rank that each task got")


def task_1_by_head(axis: Axes, seen: Seen) -> None:
    """Task 1 under the trained head, with the task given, and under the others at tasks' ends."""
    now, epochs = seen.now, seen.now.config.training.epochs
    curves = {}
    ended = now.matrices() if now.learned else {}
    for said, (name, look) in zip(pictures.SAID, pictures.HEADS.items(), strict=True):
        values: Sequence[float] = {"given": now.given, "trained": now.among_all}.get(name, ())
        if name in ended and name != "trained":
            values = [np.nan] * (epochs * now.learned)
            values[epochs - 1 :: epochs] = ended[name][:, 0]
        curves[said] = (values, look)
    pictures.live(axis, seen.title, curves, epochs, TASKS)
    pictures.named_below(axis)


def heads(axis: Axes, seen: Seen) -> None:
    """All tasks' mean by head at the end, for every value tried."""
    rows = {}
    for value, (trained, *_) in seen.tried.items():
        by_head = {head: float(a[-1].mean()) for head, a in trained.matrices().items()}
        given = trained.matrices(given=True)["trained"]
        rows[value] = {"given": float(given[-1].mean())} | by_head
    pictures.by_head(axis, rows, seen.label)


@dataclass(frozen=True)
class Picture:
    """A live panel and one of all that ended; `views` where both depend on what is given."""

    live: Panel
    ended: Panel
    views: bool = False

    def whole(self, seen: Seen) -> bytes:
        """Both side by side."""
        figure = Figure((2 * pictures.WIDTH, HEIGHT), dpi=pictures.DPI)
        for k, panel in enumerate((self.live, self.ended)):
            panel(_axis(figure, 2, k), seen)
        return pictures.png(figure)


def _axis(figure: Figure, of: int, k: int) -> Axes:
    """Room for a title above, names below and at the left, in the k-th part of `of`."""
    return figure.add_axes(((k + 0.19) / of, 0.24, 0.77 / of, 0.61))


def drawn(panel: Panel, seen: Seen) -> str:
    """A panel alone, as HTML."""
    figure = Figure((pictures.WIDTH, HEIGHT), dpi=pictures.DPI)
    panel(_axis(figure, 1, 0), seen)
    return pictures.shown(figure)


BY_TASK = Picture(task_1, earlier, views=True)
"""How task 1 fares while the next tasks are learned, and what each value left of both."""
BY_OVERLAP = Picture(task_1, overlaps)
"""How task 1 fares, and how much tasks write over each other."""
BY_RANK = Picture(scores, chosen)
"""What the rank selector chose, and why."""
BY_HEAD = Picture(task_1_by_head, heads)
"""The same training under every head, and with the task given."""


class Job(Thread):
    """The one training at work; it begins when the one before it has seen that it is cancelled."""

    latest: "Job | None" = None
    turn = RLock()

    def __init__(self, work: Callable[[Event], None]):
        super().__init__(daemon=True)
        self.work, self.cancelled, self.before = work, Event(), None

    @classmethod
    def cancel(cls) -> None:
        if cls.latest is not None:
            cls.latest.cancelled.set()

    def begin(self) -> None:
        with Job.turn:
            Job.cancel()
            self.before, Job.latest = Job.latest, self
            self.start()

    def run(self) -> None:
        if self.before is not None:
            self.before.join()
            self.before = None
        if not self.cancelled.is_set():
            self.work(self.cancelled)


class Retrain:
    """The controls, the picture, and what was trained so far, by the controls' labels."""

    def __init__(
        self,
        make: Callable[[Any], RunConfig],
        over: Sequence[Any],
        start: Any,
        label: str,
        picture: Picture = BY_TASK,
        beside: Mapping[str, RunConfig] | None = None,
        seeds: Sequence[int] = (0,),
    ):
        self.make, self.label, self.picture = make, label, picture
        self.beside = {said: Trained(config) for said, config in (beside or {}).items()}
        self.tried: dict[tuple[str, int], Trained] = {}
        self.choice = buttons(label, {str(value): value for value in over}, start)
        self.seed = buttons("seed", {str(seed): seed for seed in seeds}, seeds[0])
        self.view = buttons("right answers are chosen", VIEWS, False)
        self.status = HTML()
        fits = {"flex": "1 1 380px", "min_width": "0", "max_width": "560px"}
        self.images = [
            HTML(layout=Layout(**fits, align_self="flex-start"))
            for _ in (picture.live, picture.ended)
        ]
        controls = [
            self.choice,
            *([self.seed] if len(seeds) > 1 else []),
            *([self.view] if picture.views else []),
        ]
        both = HBox(self.images, layout=Layout(flex_flow="row wrap"))
        self.widget = VBox([*controls, self.status, both])
        self.drawn: dict[tuple, str] = {}
        self._drawing = RLock()  # a picture at a time: fonts are not for two threads
        self.failed: BaseException | None = None
        self.key, self.now = self._asked(), self._new()
        self._draw()
        self.choice.observe(self._chosen, "value")
        self.seed.observe(self._chosen, "value")
        self.view.observe(lambda _: self._draw(), "value")

    def begin(self) -> None:
        """Show what is chosen: from memory, or by training it. Whatever else is being trained is
        cancelled."""
        with Job.turn:
            Job.cancel()
            self.failed, self.key = None, self._asked()
            if (trained := self.tried.get(self.key)) is not None:
                self.now = trained
                self._say("trained")
            else:
                self.now = self._new()
                self._say(f"training, epoch 1 of {self.now.epochs}")
                self.images[0].layout.visibility = "hidden"  # it shows another value
                Job(partial(self._work, self.key, self.now)).begin()
        self._draw()

    def wait(self) -> None:
        """Until nothing is being trained; `Stopped` by an interrupt, which cancels it."""
        try:
            while (job := Job.latest) is not None and job.is_alive():
                job.join(0.1)  # by and by, since another choice brings another job
        except KeyboardInterrupt as interrupt:
            n = self.now.learned
            Job.cancel()
            if Job.latest is not None:
                Job.latest.join()
            where = f"after task {n} of {TASKS}" if n else f"in task 1 of {TASKS}"
            stopped = Stopped(where, "run the cell again to train anew")
            self._say(str(stopped))
            raise stopped from interrupt
        if self.failed is not None:
            raise self.failed

    def _chosen(self, _change: Any) -> None:
        self.begin()

    def _asked(self) -> tuple[str, int]:
        return str(self.choice.value), int(self.seed.value or 0)

    def _new(self) -> Trained:
        config = self.make(self.choice.value)
        return Trained(config.model_copy(update={"seed": self._asked()[1]}))

    def _work(self, key: tuple[str, int], now: Trained, cancelled: Event) -> None:
        """Train what is missing, in the thread of a job."""
        try:
            for said, trained in self.beside.items():
                if not trained.ended:
                    self.beside[said] = new = Trained(trained.config)
                    self._train(new, f"{said}, to compare with", cancelled)
            self._train(now, "training", cancelled)
            self.tried[key] = now
            self._draw(cancelled)
            self._say("trained", cancelled)
        except Cancelled:
            pass
        except BaseException as error:
            self.failed = error
            self._say(f"{type(error).__name__}: {error}", cancelled)

    def _train(self, trained: Trained, what: str, cancelled: Event) -> None:
        def after_epoch(trained: Trained) -> None:
            self._draw(cancelled)
            tell(min(len(trained.given) + 1, trained.epochs))

        def tell(epoch: int) -> None:
            self._say(f"{what}, epoch {epoch} of {trained.epochs}", cancelled)

        trained.after_epoch, trained.cancelled = after_epoch, cancelled
        tell(1)
        model, stream = first_tasks(trained.config)
        trained.train(stream, model)
        trained.ended = True

    def _say(self, what: str, unless: Event | None = None) -> None:
        if unless is None or not unless.is_set():
            said = escape(f"{self.label} {self._value()}: {what}")
            self.status.value = f"<span role='status'>{said}</span>"

    def _seen(self) -> Seen:
        tried: dict[str, list[Trained]] = {}
        for value in dict(self.choice.options):
            for seed in dict(self.seed.options).values():
                if (trained := self.tried.get((value, seed))) is not None:
                    tried.setdefault(value, []).append(trained)
        shown = {said: t for said, t in self.beside.items() if t.given}
        return Seen(self.label, self._value(), self.now, tried, shown, bool(self.view.value))

    def _value(self) -> str:
        """What is chosen, in words."""
        value, seed = self.key
        return f"{value}, seed {seed}" if len(self.seed.options) > 1 else value

    def _draw(self, unless: Event | None = None) -> None:
        """What is not on the pictures yet; what was drawn before is remembered."""
        with self._drawing:
            seen, picture = self._seen(), self.picture
            compared = (*((said, len(t.given), t.ended) for said, t in seen.beside.items()),)
            states = (
                (
                    picture.live,
                    self.key,
                    len(seen.now.given),
                    seen.now.learned,
                    seen.given,
                    compared,
                ),
                (picture.ended, *self.tried, seen.given, compared),
            )
            for image, state in zip(self.images, states, strict=True):
                if state not in self.drawn:
                    self.drawn[state] = drawn(state[0], seen)
                if unless is None or not unless.is_set():
                    image.value = self.drawn[state]
                    image.layout.visibility = "visible"

    def _repr_mimebundle_(self, **how: Any) -> dict[str, Any]:
        """The control for a front end, the picture for whatever has none."""
        with self._drawing:
            picture = base64.b64encode(self.picture.whole(self._seen())).decode()
        return {**(self.widget._repr_mimebundle_(**how) or {}), "image/png": picture}


def buttons(label: str, options: Mapping[str, Any], start: Any) -> ToggleButtons:
    """A choice among options by their words."""
    return ToggleButtons(
        options=list(options.items()),
        value=start,
        description=label,
        style={"description_width": "initial", "button_width": "auto"},
    )


def retrain(
    make: Callable[[Any], RunConfig],
    over: Sequence[Any],
    start: Any,
    label: str,
    picture: Picture = BY_TASK,
    beside: Mapping[str, RunConfig] | None = None,
    seeds: Sequence[int] = (0,),
) -> None:
    """Show a control over the values `over` and train `make(value)` at once for `start`, then
    for whichever is chosen; `picture` follows.

    Trainings `beside` it come first, once, by what is said of them (see `pictures.BESIDE`). Of
    several `seeds` a second control chooses.
    """
    with stopping("before training began"):
        page = Retrain(make, over, start, label, picture, beside, seeds)
        shown = display(page, display_id=True)
        assert shown is not None  # with an id there is a handle
        page.begin()
        page.wait()
    shown.update(page)
