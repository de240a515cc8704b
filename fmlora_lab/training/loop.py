"""The one loop: stream → tasks → stages → epochs → accuracy matrix, for every method alike."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fmlora_lab import progress, signals
from fmlora_lab.backbone.device import keep_memory, memory_suffices, pick_device
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.benchmarks.stream import Stream, Task, together
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.heads import TrainedHead
from fmlora_lab.interrupts import Stopped
from fmlora_lab.methods.method import TaskInfo
from fmlora_lab.seeds import generator
from fmlora_lab.training import distributed
from fmlora_lab.training.compiled import compile_blocks
from fmlora_lab.training.learner import TRAINED_HEAD, Learner
from fmlora_lab.training.stage import StageRun

CHECKPOINT_SHARE = 0.02
"""At most this share of the time goes into checkpoints within tasks: where tasks are short, none,
since one is made at the end of each."""


@dataclass
class Position:
    """Where a run stands, at an epoch's boundary, with all that was measured up to there."""

    task: int = 0
    stage: int = 0
    epoch: int = 0
    correct: dict[str, list[list[int]]] = field(default_factory=dict)
    within: dict[str, list[list[int]]] = field(default_factory=dict)
    given: dict[str, list[list[int]]] = field(default_factory=dict)
    inferred: dict[str, list[list[int]]] = field(default_factory=dict)
    drift: list[list[float]] = field(default_factory=list)
    explained: list[list[float | None]] = field(default_factory=list)
    zero_shot: list[list[int]] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    heads_seconds: float = 0.0


class Diverged(BadInput):
    """A loss that is no number any more: with these settings the run comes to nothing."""


class Keeper(Protocol):
    """Where a run is kept; the run store is one."""

    def load_checkpoint(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None: ...
    def save_checkpoint(self, tensors: dict[str, np.ndarray], position: dict[str, Any]) -> None: ...
    def save_task(self, index: int, tensors: dict[str, np.ndarray]) -> None: ...
    def save_features(self, index: int, features: dict[str, np.ndarray]) -> None: ...
    def log(self, line: dict[str, Any]) -> None: ...


class Nowhere:
    """A run's keeper that keeps nothing."""

    def load_checkpoint(self) -> None: ...
    def save_checkpoint(self, tensors: dict, position: dict) -> None: ...
    def save_task(self, index: int, tensors: dict) -> None: ...
    def save_features(self, index: int, features: dict) -> None: ...
    def log(self, line: dict) -> None: ...


class Trainer:
    """Trains one configuration on one stream, from wherever its keeper says that it stands. Of
    several processes each has one; what the first one's keeper says holds for all."""

    def __init__(
        self,
        config: RunConfig,
        stream: Stream,
        model: Tower,
        keeper: Keeper,
        keep_features: bool = False,
        after_task: Callable[[Position], None] | None = None,
        compile: bool = False,
    ):
        """`after_task` is called when a task is learned, tested and kept, and at first with what an
        earlier start left; what it raises ends the training there. With `compile`, forward and
        backward passes are compiled (`compiled.py`); BadInput where they cannot be."""
        keep_memory()
        self.config, self.stream, self.keeper = config, stream, keeper
        self.keep_features, self.after_task = keep_features, after_task
        device, self.ranks = pick_device(), distributed.ranks()
        model.use_fused_attention(device.type == "cuda")
        texts = stream.texts if model.reads_text else ()
        classes = len(stream.class_names)
        with memory_suffices(
            f"the device's memory is too small for {config.method.name} as it is set; allowed: "
            "smaller settings of method, or a smaller backbone"
        ):
            self.learner = Learner(config, model, classes, device, self.ranks, texts)
        if compile:
            compile_blocks(model)
        self.method = self.learner.method
        self.at = Position()
        self.kept = 0  # tasks that the latest checkpoint has
        self.saved, self.cost = time.perf_counter(), 0.0  # when that was, and the seconds it took
        self.said = False

    def run(self) -> dict[str, Any]:
        """Train to the end; returns what was measured (see `Position`) and the images a task.

        An interrupt is `Stopped`, after the tasks that need not be learned again; BadInput where
        the device's memory does not hold a batch.
        """
        tasks = (as_one_task(self.stream),) if self.method.record.one_task else self.stream.tasks
        try:
            with memory_suffices(
                f"training.batch_size is {self.config.training.batch_size}, for which the device's "
                "memory is too small; allowed: fewer images, or a smaller backbone (finished tasks "
                "are kept)"
            ):
                return self._run(tasks)
        except KeyboardInterrupt as interrupt:
            where = f"after task {self.kept}" if self.kept else "in task 1"
            raise Stopped(f"{where} of {len(tasks)}") from interrupt

    def _run(self, tasks: tuple[Task, ...]) -> dict[str, Any]:
        tensors: dict[str, Tensor] = {}
        if (stored := self.ranks.told(self.keeper.load_checkpoint())) is not None:
            tensors, self.at = to_torch(stored[0]), Position(**stored[1])
            self.kept = self.at.task
            self._tell()
        elif self.learner.model.reads_text:
            self._fill_zero_shot()
        self.began = time.perf_counter() - self.at.seconds
        name = self.config.method.name
        with progress.bar(desc=name, unit="img", unit_scale=True, leave=False) as bar:
            for task in tasks[self.at.task :]:
                self._learn(task, [len(task.train) for task in tasks], tensors, bar)
                self._end(task)
                if self.ranks.size > 1:
                    self.learner.load_state(self.ranks.as_the_first(self.learner.state()))
                tensors = {}
                self._checkpoint()
                self._tell()
                if task is not tasks[-1]:
                    signals.stop_if_asked()
        if tensors:  # every task was learned before, and what was measured was not yet written
            self.learner.load_state(tensors)
        return {
            **asdict(self.at),
            "counts": [len(task.test) for task in self.stream.tasks],
            "train_images": sum(len(task.train) for task in self.stream.tasks),
            "kept": self.method.kept(),
            "kept_by_head": self.learner.kept_by_head(),
            "inference_flops": self.learner.inference_flops(),
        }

    def _learn(
        self, task: Task, sizes: list[int], tensors: dict[str, Tensor], bar: progress.Bar
    ) -> None:
        seed, method, head = self.config.seed, self.method, self.learner.head
        if tensors and self.at.stage == self.at.epoch == 0:  # between two tasks
            self.learner.load_state(tensors)
            tensors = {}
        if not tensors and task.index and method.adapts(task.index):
            with self._timed():
                self.learner.begin_banks(task.train)
        head.begin_task(task.classes, generator(seed, "head", task.index))
        seen = self.learner.seen_before(task.classes)
        drawn = generator(seed, "method", task.index)
        method.begin_task(TaskInfo(task.index, task.classes, drawn, seen))
        stages = list(method.stages(self._epochs_of(task)))
        images = task.train.to(self.learner.device)
        epochs = sum(stage.epochs for stage in stages)  # as if all tasks had this one's stages
        bar.total = sum(sizes) * epochs
        bar.n = max(bar.n, sum(sizes[: task.index]) * epochs)
        bar.set_description(f"{self.config.method.name} · task {task.index + 1}/{len(sizes)}")
        for number, stage in [*enumerate(stages)][self.at.stage :]:
            method.begin_stage(stage, generator(seed, "stage", task.index, number))
            if tensors:
                self.learner.load_state(tensors)
            run = StageRun(self.learner, task, stage, number, images)
            if not run.spared and not self.said:
                self.said = True
                progress.say(
                    f"task {task.index + 1} has one image a class, of which none can be held out: "
                    "where that is so, losses are measured on the training images"
                )
            if tensors:
                run.load_optimizer(tensors)
            tensors = {}
            self._epochs(run, bar)
            self.at.stage, self.at.epoch = number + 1, 0

    def _epochs_of(self, task: Task) -> int:
        """Epochs that are granted, or that the iterations need."""
        training = self.config.training
        if training.iterations is None:
            return training.epochs
        return math.ceil(training.iterations / math.ceil(len(task.train) / training.batch_size))

    def _epochs(self, run: StageRun, bar: progress.Bar) -> None:
        for epoch in range(self.at.epoch, run.stage.epochs):
            began = time.perf_counter()
            loss = run.epoch(epoch, bar)
            if loss is not None and not math.isfinite(loss):
                raise Diverged(
                    f"the loss of {self.config.method.name} is {loss} in epoch {epoch + 1} of task "
                    f"{run.task.index + 1}: it diverged; allowed: lower rates, such as method.lr "
                    "and training.lr_head"
                )
            now = time.perf_counter()
            self.at.images += run.images_in(epoch)
            self.at.training_seconds += now - began
            self.at.epoch = epoch + 1
            line = {"task": run.task.index, "stage": run.stage.name, "epoch": epoch, "loss": loss}
            self.keeper.log(line | {"seconds": now - began})
            if epoch + 1 == run.stage.epochs:
                if not run.stage.probe:
                    trained = self.method.trained()
                    trained += sum(p.numel() for p in self.learner.head.parameters())
                    self.at.trained = [*self.at.trained[: run.task.index], trained]
                run.end()
            elif not run.stage.probe and (
                signals.asked() or now - self.saved > self.cost / CHECKPOINT_SHARE
            ):
                self._checkpoint(run.optimizer_state())
                signals.stop_if_asked()

    def _end(self, task: Task) -> None:
        """Freeze what the task leaves, fill the banks, and test."""
        learner = self.learner
        if self.at.stage:
            learner.head.end_task()
        else:
            self.at.trained.append(0)
        record = self.method.end_task()
        if isinstance(learner.head, TrainedHead):
            drawn = generator(self.config.seed, "correct", task.index)
            self.method.correct_head(learner.head, drawn)
        with self._timed():
            learner.fill_banks(task.train)
        n = len(self.stream.tasks)
        said = self._fill_rows(n - 1 if self.method.record.one_task else task.index)
        self.keeper.save_task(task.index, to_numpy(record | said))
        self.at.task, self.at.stage, self.at.epoch = task.index + 1, 0, 0
        if self.at.task == n or self.method.record.one_task:
            learner.banks.finish()

    def _fill_zero_shot(self) -> None:
        """The frozen backbone's right answers on every task: with the task given, and among all
        classes."""
        self.learner.read_texts()
        right = [self.learner.zero_shot(task) for task in self.stream.tasks]
        self.at.zero_shot = [list(of_tasks) for of_tasks in zip(*right, strict=True)]

    def _fill_rows(self, t: int) -> dict[str, Tensor]:
        """Row t of every matrix: right answers of each head on each task, −1 where not measured,
        and how far earlier tasks' features have moved. Returns what every head said of the test
        images, task after task."""
        n, watch = len(self.stream.tasks), self.learner.watch
        self.learner.read_texts()
        tested = self.stream.tasks if self.config.measure_ahead else self.stream.tasks[: t + 1]
        answers = [self.learner.answer(task) for task in tested]
        for matrices, right in (
            (self.at.correct, [answer.right() for answer in answers]),
            (self.at.within, [answer.right_within() for answer in answers]),
            (self.at.given, [answer.right_given() for answer in answers]),
            (self.at.inferred, [answer.right_tasks() for answer in answers]),
        ):
            for name in right[0]:
                rows = matrices.setdefault(name, [])
                rows += [[-1] * n for _ in range(t - len(rows))]
                ranked = name != TRAINED_HEAD or self.method.ranked_by == TRAINED_HEAD
                found = [by_head[name] if ranked else -1 for by_head in right]
                rows.append(found + [-1] * (n - len(tested)))
        moved = [watch.moved(i, answers[i].features) for i in range(len(watch.sizes))]
        self.at.drift.append([drift for drift, _ in moved])
        self.at.explained.append([explained for _, explained in moved])
        for answer in answers[len(moved) : t + 1]:
            watch.learned(answer.features)
        if self.keep_features:
            features = {f"{i}": a.features.to(torch.float16) for i, a in enumerate(answers)}
            self.keeper.save_features(t, to_numpy(features))
        return {
            f"said.{name}": torch.cat([a.among_all[name] for a in answers]).to(torch.int16)
            for name in answers[0].among_all
        }

    def _tell(self) -> None:
        if self.after_task is not None and self.at.task:
            self.after_task(self.at)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """What the heads that keep statistics cost beside training and testing."""
        began = time.perf_counter()
        yield
        self.at.heads_seconds += time.perf_counter() - began

    def _checkpoint(self, optimizer: dict[str, Tensor] | None = None) -> None:
        now = time.perf_counter()
        self.at.seconds = now - self.began
        if not self.ranks.first:
            return
        tensors = self.learner.state() | (optimizer or {})
        self.keeper.save_checkpoint(to_numpy(tensors), asdict(self.at))
        self.kept, self.saved = self.at.task, time.perf_counter()
        self.cost = self.saved - now


def as_one_task(stream: Stream) -> Task:
    """All training images of a stream as one task; its tests stay apart."""
    everything = together(task.train for task in stream.tasks)
    return Task(0, "all", range(len(stream.class_names)), everything, stream.tasks[-1].test)


def to_numpy(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def to_torch(tensors: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
