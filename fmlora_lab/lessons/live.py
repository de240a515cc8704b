"""A control that trains again when it is moved, on three small tasks, with a live curve.

The training is the lab's own loop; what is added is a look at all tasks after every epoch. Where
there is no front end, as under papermill, the same call trains once and leaves the picture.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from IPython.display import display
from ipywidgets import HTML, Image, Layout, ToggleButtons, VBox
from matplotlib.figure import Figure

from fmlora_lab import configure, threads
from fmlora_lab.benchmarks.stream import Stream
from fmlora_lab.config import RunConfig
from fmlora_lab.interrupts import Stopped, stopping
from fmlora_lab.lessons.pictures import heads, progress
from fmlora_lab.metrics import accuracy_matrix
from fmlora_lab.runs.run import parts
from fmlora_lab.training.learner import TRAINED_HEAD
from fmlora_lab.training.loop import Trainer

TASKS = 3
"""As many as can be learned while one waits."""


def small(method: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """A configuration that trains in seconds: Glyphs, ten classes a task, ten images a class."""
    sizes = {"benchmark.train_images": 10, "benchmark.test_images": 8}
    steps = {"training.epochs": 3, "training.batch_size": 16, "heads.random_features": 200}
    return configure(method, "glyphs", "demo", {**sizes, **steps, **(overrides or {})})


@dataclass
class Trained:
    """What was seen of a training: after each epoch, accuracy (%) of the trained head on every
    task so far, among all classes and (`within`) with the task given.

    It is the training's keeper, in memory; `records` is what the method left of each task, and
    what every head said of the test images.
    """

    config: RunConfig
    after_epoch: Callable[["Trained"], None] = lambda trained: None
    accuracies: list[list[float]] = field(default_factory=list)
    within: list[list[float]] = field(default_factory=list)
    records: list[dict[str, np.ndarray]] = field(default_factory=list)

    def train(self, stream: Stream, model: Any) -> "Trained":
        """Train on the stream to its end."""
        self.trainer = Trainer(self.config, stream, model, self)
        # Someone is at a notebook, with other work on the machine; a picture says how far it is.
        with threads.at_most(1), redirect_stderr(io.StringIO()):
            self.trainer.run()
        return self

    def matrix(self) -> np.ndarray:
        """a[t, i] of the tasks that ended, NaN for i > t."""
        epochs = self.config.training.epochs
        rows = self.accuracies[epochs - 1 :: epochs]
        return np.array([row + [np.nan] * (len(rows) - len(row)) for row in rows])

    def matrices(self) -> dict[str, np.ndarray]:
        """a[t, i] of every head, a row a task that ended, NaN for i > t."""
        counts = [len(task.test) for task in self.trainer.stream.tasks]
        return {name: accuracy_matrix(a, counts) for name, a in self.trainer.at.correct.items()}

    def ranks(self) -> list[int]:
        """The rank of each task that ended, where the method gives tasks one."""
        return [int(record["rank"].max()) for record in self.records if "rank" in record]

    def log(self, line: dict[str, Any]) -> None:
        if line["stage"] != "train":
            return
        learner, tasks = self.trainer.learner, self.trainer.stream.tasks[: line["task"] + 1]
        learner.head.end_task()  # the rows as they are now, so that they can be tested
        answers = [learner.answer(task) for task in tasks]
        for rows, right in (
            (self.accuracies, [answer.right() for answer in answers]),
            (self.within, [answer.right_within() for answer in answers]),
        ):
            counted = zip(right, tasks, strict=True)
            rows.append([100 * by_head[TRAINED_HEAD] / len(task.test) for by_head, task in counted])
        self.after_epoch(self)

    def save_task(self, index: int, tensors: dict[str, np.ndarray]) -> None:
        self.records.append(tensors)

    def save_features(self, index: int, features: dict[str, np.ndarray]) -> None:
        pass

    def load_checkpoint(self) -> None:
        return None

    def save_checkpoint(self, tensors: dict[str, np.ndarray], position: dict[str, Any]) -> None:
        pass


def first_tasks(config: RunConfig) -> tuple[Any, Stream]:
    """The backbone, and the stream's first tasks alone."""
    model, stream = parts(config)
    tasks = stream.tasks[:TASKS]
    names = stream.class_names[: tasks[-1].classes.stop]
    return model, replace(stream, tasks=tasks, class_names=names)


Picture = Callable[[Mapping[str, Trained], str], Figure]
"""Of what was trained so far, by the control's labels, the last one perhaps not at its end yet; and
the control's own label."""


def by_task(tried: Mapping[str, Trained], label: str) -> Figure:
    """How each task's accuracy moves while the next ones are learned."""
    methods = {value: t.config.method.name for value, t in tried.items()}
    runs = {value: t.accuracies for value, t in tried.items()}
    ranks = {value: t.ranks() for value, t in tried.items()}
    epochs = next(iter(tried.values())).config.training.epochs
    return progress(runs, methods, ranks, epochs, TASKS, label)


def by_head(tried: Mapping[str, Trained], label: str) -> Figure:
    """The same training under every head, and with the task given."""
    value, last = list(tried.items())[-1]
    among_all, given = ([row[0] for row in rows] for rows in (last.accuracies, last.within))
    ends = {name: a[:, 0] for name, a in last.matrices().items()}
    done = {
        value: {"given": float(np.mean(t.within[-1]))}
        | {head: float(a[-1].mean()) for head, a in t.matrices().items()}
        for value, t in tried.items()
        if t.trainer.at.task == TASKS
    }
    epochs = last.config.training.epochs
    return heads(value, among_all, given, ends, done, epochs, TASKS, label)


class Retrain:
    """The control, the picture and what was trained so far, by the control's labels."""

    def __init__(
        self,
        make: Callable[[Any], RunConfig],
        over: Sequence[Any],
        start: Any,
        label: str,
        picture: Picture = by_task,
    ):
        self.make, self.label, self.picture = make, label, picture
        self.tried: dict[str, Trained] = {}
        options = [(str(value), value) for value in over]
        self.choice = ToggleButtons(
            options=options,
            value=start,
            description=label,
            style={"description_width": "initial", "button_width": "auto"},
        )
        self.image = Image(format="png", layout=Layout(max_width="100%", object_fit="contain"))
        self.widget = VBox([self.choice, self.image])
        self.choice.observe(self._moved, "value")

    def _moved(self, _change: Any) -> None:
        try:
            self.train()
        except Stopped as stopped:  # no cell is at work that could show it
            self.widget.children = [self.choice, HTML(str(stopped)), self.image]

    def train(self) -> None:
        """Train with the value that is chosen, the picture following epoch by epoch. What an
        interrupt left is forgotten."""
        self.widget.children = [self.choice, self.image]
        value = self.choice.value
        trained = Trained(self.make(value), self._draw)
        self.tried.pop(str(value), None)
        self.tried[str(value)] = trained  # the last one is the one that is drawn
        self.choice.disabled = True  # moves made meanwhile would queue up trainings
        try:
            with stopping("before training began"):
                model, stream = first_tasks(trained.config)
                trained.train(stream, model)
        except Stopped as stopped:
            del self.tried[str(value)]
            raise Stopped(stopped.where, "run the cell again to train anew") from stopped
        finally:
            self.choice.disabled = False
        self._draw(trained)

    def _draw(self, trained: Trained) -> None:
        file = io.BytesIO()
        self.picture(self.tried, self.label).savefig(file, format="png")
        self.image.value = file.getvalue()

    def _repr_mimebundle_(self, **how: Any) -> dict[str, Any]:
        """The control for a front end, the picture for whatever has none."""
        picture = {"image/png": base64.b64encode(self.image.value).decode()}
        control = self.widget._repr_mimebundle_(**how) or {}
        return {**control, **(picture if self.image.value else {})}


def retrain(
    make: Callable[[Any], RunConfig],
    over: Sequence[Any],
    start: Any,
    label: str,
    picture: Picture = by_task,
) -> None:
    """Show a control over the values `over` and train `make(value)` at once for `start`, then
    for whichever is chosen; `picture` follows."""
    page = Retrain(make, over, start, label, picture)
    shown = display(page, display_id=True)
    assert shown is not None  # with an id there is a handle
    page.train()
    shown.update(page)
