"""A small training that can be looked at while it goes on, and cancelled at any step.

It is the lab's own loop on three small tasks; what is added is a look at the first task after every
epoch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any

import numpy as np

from fmlora_lab import configure, progress, threads
from fmlora_lab.benchmarks.stream import Stream
from fmlora_lab.config import RunConfig
from fmlora_lab.methods.references.joint import JointSettings
from fmlora_lab.metrics import accuracy_matrix
from fmlora_lab.runs.run import parts
from fmlora_lab.training.learner import TRAINED_HEAD
from fmlora_lab.training.loop import Nowhere, Trainer

TASKS = 3
"""As many as can be learned while one waits."""


def small(method: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """A configuration that trains in seconds: Glyphs, ten classes a task, twenty images a class."""
    sizes = {"benchmark.train_images": 20, "benchmark.test_images": 16}
    steps = {"training.epochs": 3, "training.batch_size": 16, "heads.random_features": 200}
    return configure(method, "glyphs", "demo", {**sizes, **steps, **(overrides or {})})


def first_tasks(config: RunConfig) -> tuple[Any, Stream]:
    """The backbone, and the stream's first tasks alone."""
    model, stream = parts(config)
    tasks = stream.tasks[:TASKS]
    names = stream.class_names[: tasks[-1].classes.stop]
    return model, replace(stream, tasks=tasks, class_names=names)


class Cancelled(Exception):
    """Nobody waits for this training any more."""


@dataclass
class Trained(Nowhere):
    """What was seen of a training: after each epoch, accuracy (%) of the trained head on task 1,
    `among_all` classes so far and with the task `given`.

    It is the training's keeper, in memory; `records` is what the method left of each task, and
    what every head said of the test images. Once `cancelled` is set it ends at the next step.
    """

    config: RunConfig
    after_epoch: Callable[["Trained"], None] = lambda trained: None
    cancelled: Event = field(default_factory=Event)
    among_all: list[float] = field(default_factory=list)
    given: list[float] = field(default_factory=list)
    records: list[dict[str, np.ndarray]] = field(default_factory=list)
    ended: bool = False

    def train(self, stream: Stream, model: Any) -> "Trained":
        """Train on the stream to its end; `Cancelled` where it was cancelled before."""
        # Someone is at a notebook, with other work on the machine; a picture says how far it is.
        with threads.at_most(1), progress.instead(self._go_on):
            self.trainer = Trainer(self.config, stream, model, self)
            self.trainer.run()
        return self

    def _go_on(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled

    @property
    def epochs(self) -> int:
        """How many there are from the first to the end."""
        if isinstance(method := self.config.method, JointSettings):
            return method.epochs
        return TASKS * self.config.training.epochs

    @property
    def learned(self) -> int:
        """How many tasks are learned so far."""
        return len(self.records)

    def matrices(self, given: bool = False) -> dict[str, np.ndarray]:
        """a[t, i] of every head, a row a task that ended, NaN for i > t; with the task `given`
        those of its own classes."""
        at, counts = self.trainer.at, [len(task.test) for task in self.trainer.stream.tasks]
        found = at.within if given else at.correct
        return {name: accuracy_matrix(rows, counts) for name, rows in found.items()}

    def earlier(self, given: bool) -> tuple[float, float]:
        """Mean accuracy on all tasks but the last: when they were just learned, and at the end."""
        a = self.matrices(given)[TRAINED_HEAD]
        return float(np.diagonal(a)[:-1].mean()), float(a[-1, :-1].mean())

    def ranks(self) -> list[int]:
        """The rank of each task that ended, where the method gives tasks one."""
        return [int(record["rank"].max()) for record in self.records if "rank" in record]

    def log(self, line: dict[str, Any]) -> None:
        if line["stage"] != "train":
            return
        learner, task = self.trainer.learner, self.trainer.stream.tasks[0]
        learner.head.end_task()  # the rows as they are now, so that they can be tested
        answer = learner.answer(task)
        for seen, right in ((self.among_all, answer.right()), (self.given, answer.right_within())):
            seen.append(100 * right[TRAINED_HEAD] / len(task.test))
        self.after_epoch(self)

    def save_task(self, index: int, tensors: dict[str, np.ndarray]) -> None:
        self.records.append(tensors)
