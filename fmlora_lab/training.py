"""The one loop: stream → tasks → stages → epochs → accuracy matrix, for every method alike."""

import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fmlora_lab.backbone.device import keep_memory, pick_device
from fmlora_lab.backbone.vit import AdaptedViT
from fmlora_lab.benchmarks.augment import augment
from fmlora_lab.benchmarks.stream import Images, Stream, Task, stratified
from fmlora_lab.config import RunConfig
from fmlora_lab.learner import Learner, generator
from fmlora_lab.methods.method import Stage, StageEnd, TaskInfo

CHECKPOINT_SHARE = 0.05
"""At most this share of the time goes into checkpoints within a task."""


@dataclass
class Position:
    """Where a run stands, at an epoch's boundary, with all that was measured up to there."""

    task: int = 0
    stage: int = 0
    epoch: int = 0
    correct: dict[str, list[list[int]]] = field(default_factory=dict)
    trained: list[int] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0


class Keeper(Protocol):
    """Where a run is kept; the run store is one."""

    def load_checkpoint(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None: ...
    def save_checkpoint(self, tensors: dict[str, np.ndarray], position: dict[str, Any]) -> None: ...
    def save_task(self, index: int, tensors: dict[str, np.ndarray]) -> None: ...
    def log(self, line: dict[str, Any]) -> None: ...


class Trainer:
    """Trains one configuration on one stream, from wherever its keeper says that it stands."""

    def __init__(self, config: RunConfig, stream: Stream, model: AdaptedViT, keeper: Keeper):
        keep_memory()
        self.config, self.stream, self.keeper = config, stream, keeper
        device = pick_device()
        model.use_fused_attention(device.type == "cuda")
        self.learner = Learner(config, model, len(stream.class_names), device)
        self.method = self.learner.method
        self.at = Position()

    def run(self) -> dict[str, Any]:
        """Train to the end; returns what was measured (see `Position`) and the images a task."""
        stored = self.keeper.load_checkpoint()
        tensors: dict[str, np.ndarray] = {}
        if stored is not None:
            tensors, position = stored
            self.at = Position(**position)
        tasks = (as_one_task(self.stream),) if self.method.one_task else self.stream.tasks
        self.began = time.perf_counter() - self.at.seconds
        with tqdm(desc=self.config.method.name, unit="img", unit_scale=True, leave=False) as bar:
            for task in tasks[self.at.task :]:
                self._learn(task, len(tasks), tensors, bar)
                self._end(task)
                tensors = {}
                self._checkpoint()
        return {
            **asdict(self.at),
            "counts": [len(task.test) for task in self.stream.tasks],
            "kept": self.method.kept(),
            "inference_flops": self.learner.inference_flops(),
        }

    def _learn(self, task: Task, n_tasks: int, tensors: dict[str, np.ndarray], bar: tqdm) -> None:
        seed, method, head = self.config.seed, self.method, self.learner.head
        if tensors and self.at.stage == self.at.epoch == 0:  # between two tasks
            self.learner.load_state(to_torch(tensors))
            tensors = {}
        head.begin_task(task.classes, generator(seed, "head", task.index))
        method.begin_task(TaskInfo(task.index, task.classes, generator(seed, "method", task.index)))
        stages = list(method.stages(self.config.training.epochs))
        images = task.train.to(self.learner.device)
        bar.total = n_tasks * len(images) * sum(stage.epochs for stage in stages)
        bar.n = max(bar.n, bar.total * task.index // n_tasks)
        bar.set_description(f"{self.config.method.name} · task {task.index + 1}/{n_tasks}")
        for number in range(self.at.stage, len(stages)):
            stage = stages[number]
            method.begin_stage(stage, generator(seed, "stage", task.index, number))
            if tensors:
                self.learner.load_state(to_torch(tensors))
            run = StageRun(self, task, stage, number, images)
            if tensors:
                run.load_optimizer(to_torch(tensors))
            tensors = {}
            self._epochs(run, bar)
            self.at.stage, self.at.epoch = number + 1, 0

    def _epochs(self, run: "StageRun", bar: tqdm) -> None:
        saved, cost = time.perf_counter(), 0.0
        for epoch in range(self.at.epoch, run.stage.epochs):
            began = time.perf_counter()
            loss = run.epoch(epoch, bar)
            now = time.perf_counter()
            self.at.images += len(run.images)
            self.at.training_seconds += now - began
            self.at.epoch = epoch + 1
            self.keeper.log(
                {
                    "task": run.task.index,
                    "stage": run.stage.name,
                    "epoch": epoch,
                    "loss": loss,
                    "seconds": now - began,
                }
            )
            last = epoch + 1 == run.stage.epochs
            if last:
                self.at.trained = [*self.at.trained[: run.task.index], self._trained()]
                run.end()
            elif now - saved > cost / CHECKPOINT_SHARE:
                self._checkpoint(run.optimizer_state())
                saved = time.perf_counter()
                cost = saved - now

    def _trained(self) -> int:
        head = self.learner.head
        return self.method.trained() + head.rows.numel() + head.row_bias.numel()

    def _end(self, task: Task) -> None:
        """Freeze what the task leaves, take its class means, and fill row t of the matrix."""
        learner = self.learner
        if self.at.stage:
            learner.head.end_task()
        else:
            self.at.trained.append(0)
        record = self.method.end_task()
        self.method.correct_head(learner.head, generator(self.config.seed, "correct", task.index))
        learner.add_means(task.train)
        last = len(self.stream.tasks) - 1
        t = last if self.method.one_task else task.index
        right = [learner.correct(seen.test) for seen in self.stream.tasks[: t + 1]]
        for name in ("prototype",) if self.method.predicts_by_means else ("head", "prototype"):
            rows = self.at.correct.setdefault(name, [])
            rows += [[-1] * (last + 1) for _ in range(t - len(rows))]
            rows.append([answer[name] for answer in right] + [-1] * (last - t))
        self.keeper.save_task(task.index, to_numpy(record))
        self.at.task, self.at.stage, self.at.epoch = task.index + 1, 0, 0

    def _checkpoint(self, optimizer: dict[str, Tensor] | None = None) -> None:
        self.at.seconds = time.perf_counter() - self.began
        self.keeper.save_checkpoint(
            to_numpy(self.learner.state() | (optimizer or {})), asdict(self.at)
        )


class StageRun:
    """One stage of one task: its images, its optimiser, its schedule."""

    def __init__(self, trainer: Trainer, task: Task, stage: Stage, number: int, images: Images):
        self.trainer, self.task, self.stage, self.number = trainer, task, stage, number
        self.learner, self.method = trainer.learner, trainer.method
        self.images, self.held_out = images, None
        if stage.hold_out:
            chosen = stratified(
                images.labels.cpu(), stage.hold_out, self._generator("hold-out")
            ).to(images.labels.device)
            self.images, self.held_out = images[~chosen], images[chosen]
        training, head = trainer.config.training, self.learner.head
        # Where images pass as they are, each one's query is the same in every epoch.
        fixed = self.method.needs_query and training.augmentation == "none"
        self.queries = self.learner.queries(self.images) if fixed else None
        self.batch_size = training.batch_size
        self.steps = math.ceil(len(self.images) / self.batch_size) * stage.epochs
        decay = training.weight_decay
        groups = [
            {"params": g.parameters, "lr": g.lr, "weight_decay": decay if g.decay else 0.0}
            for g in self.method.groups()
        ]
        groups.append({"params": [head.rows], "lr": training.lr_head, "weight_decay": decay})
        groups.append({"params": [head.row_bias], "lr": training.lr_head, "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.peak = [group["lr"] for group in self.optimizer.param_groups]

    def epoch(self, epoch: int, bar: tqdm) -> float | None:
        """One pass in a seeded order; returns the mean loss, None where nothing is learned."""
        if self.stage.observe:
            for features, labels in self.learner.in_batches(self.images):
                self.method.observe(features, labels)
                bar.update(len(labels))
            return None
        order = torch.randperm(len(self.images), generator=self._generator("order", epoch))
        noise, choices = self._generator("augment", epoch), self._generator("choices", epoch)
        training = self.trainer.config.training
        batches = order.to(self.images.labels.device).split(self.batch_size)
        total = torch.zeros((), device=self.learner.device)
        self.method.train()
        for number, index in enumerate(batches):
            batch = self.images[index]
            pixels = augment(batch.pixels, training.augmentation, training.crop_scale, noise)
            self.method.on_step(choices)
            query = None if self.queries is None else self.queries[index]
            loss = self.learner.loss(Images(pixels, batch.labels), query)
            if self.stage.step:
                self._set_lr((epoch * len(batches) + number) / self.steps)
                self.optimizer.zero_grad()
            loss.backward()
            if self.stage.step:
                self.optimizer.step()
            total += loss.detach() * len(index)
            bar.update(len(index))
        self.method.eval()
        return float(total) / len(self.images)

    def end(self) -> None:
        """Measure the held-out loss and let the method draw its conclusions."""
        loss = None if self.held_out is None else self.learner.mean_loss(self.held_out)
        self.method.end_stage(self.stage, StageEnd(loss, self._generator("after")))
        if self.stage.probe:
            self.learner.head.begin_task(self.task.classes, self._generator("head"))

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimiser's tensors by parameter number and name."""
        return {
            f"optimizer.{number}.{name}": value
            for number, values in self.optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }

    def load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `optimizer_state` gave."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _set_lr(self, progress: float) -> None:
        for group, peak in zip(self.optimizer.param_groups, self.peak, strict=True):
            group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * progress))

    def _generator(self, *purpose: str | int) -> torch.Generator:
        return generator(self.trainer.config.seed, *purpose, self.task.index, self.number)


def as_one_task(stream: Stream) -> Task:
    """All training images of a stream as one task; its tests stay apart."""
    parts = [task.train for task in stream.tasks]
    everything = Images(
        torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts])
    )
    return Task(0, "all", range(len(stream.class_names)), everything, stream.tasks[-1].test)


def to_numpy(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def to_torch(tensors: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
