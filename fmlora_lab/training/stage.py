"""One stage of one task: its images, its optimiser, its schedule."""

import math

import torch
from torch import Tensor

from fmlora_lab import progress
from fmlora_lab.backbone.device import onto
from fmlora_lab.benchmarks.augment import Augmented, augment, draw
from fmlora_lab.benchmarks.stream import Images, Task, stratified
from fmlora_lab.config import BadInput
from fmlora_lab.methods.method import Group, Stage, StageEnd, StepBatch
from fmlora_lab.seeds import generator
from fmlora_lab.training.learner import Learner
from fmlora_lab.training.recorded import WORTH, RecordedStep


class StageRun:
    """Some epochs over a task's images, from their first step to what the method concludes.

    `number` is the stage's place among the task's own.
    """

    def __init__(self, learner: Learner, task: Task, stage: Stage, number: int, images: Images):
        self.learner, self.task, self.stage, self.number = learner, task, stage, number
        self.method = learner.method
        self.images, self.held_out, self.spared = images, None, True
        if stage.hold_out:
            chosen = stratified(
                images.labels.cpu(), stage.hold_out, self._generator("hold-out")
            ).to(images.labels.device)
            # Of classes of one image none can be held out; then the loss is that of the images.
            self.spared = bool(chosen.any())
            self.held_out = images[chosen] if self.spared else images
            self.images = images[~chosen]
        self.told_apart = len(task.classes) + learner.seen_before(task.classes)
        training = learner.config.training
        # Where images pass as they are, each one's query is the same in every epoch.
        fixed = self.method.needs_query and training.augmentation == "none"
        self.queries = self.learner.queries(self.images) if fixed else None
        self.batch_size = training.batch_size
        self.steps = math.ceil(len(self.images) / self.batch_size) * stage.epochs
        if training.iterations is not None and not self.method.record.one_task:
            self.steps = min(self.steps, training.iterations)
        if training.augment_once:
            self.images = self._augmented(self.images)
        self.head_before = {n: t.clone() for n, t in learner.head.state_dict().items()}
        if stage.probe:  # from new rows, wherever the task stands
            learner.head.begin_task(task.classes, self._generator("head"))
        rows, lr = learner.head.rows, training.lr_head
        rest = [p for p in learner.head.parameters() if p is not rows]
        groups = [
            {"params": g.parameters, "lr": g.lr, "weight_decay": training.weight_decay * g.decay}
            for g in (*self.method.groups(), Group([rows], lr), Group(rest, lr, decay=False))
        ]
        self.learns = any(p.numel() for group in groups for p in group["params"])
        self.recorded = self._recorded()
        self.peak = [group["lr"] for group in groups]
        if self.recorded is not None:  # a record has the place of a rate, not the rate
            exact = {"dtype": torch.float32, "device": learner.device}
            groups = [{**group, "lr": torch.tensor(group["lr"], **exact)} for group in groups]
        self.optimizer = torch.optim.AdamW(groups, fused=True, capturable=self.recorded is not None)

    def epoch(self, epoch: int, bar: progress.Bar) -> float | None:
        """One pass in a seeded order; returns the mean loss, None where nothing is learned."""
        if self.stage.observe:
            for features, labels in self.learner.observed(self.images):
                self.method.observe(features, labels)
                bar.update(len(labels))
            return None
        if self.told_apart == 1 or not self.learns:  # the loss is what it is
            bar.update(len(self.images))
            return None
        order = torch.randperm(len(self.images), generator=self._generator("order", epoch))
        noise, choices = self._generator("augment", epoch), self._generator("choices", epoch)
        training, ranks = self.learner.config.training, self.learner.ranks
        side, device = self.images.source.shape[-2], self.images.labels.device
        batches = onto(device, order).split(self.batch_size)
        done, kind = epoch * len(batches), training.augmentation
        kind = "none" if training.augment_once else kind
        total = torch.zeros((), device=self.learner.device)
        optimizer = self.optimizer if self.stage.step else None
        step = self.method.step if self.recorded is None else self.recorded
        self.method.train()
        for number, index in enumerate(batches[: self.steps - done]):
            drawn = draw(len(index), side, kind, training.crop_scale, noise)
            self.method.on_step(choices)
            if optimizer is not None:
                self._set_lr((done + number) / self.steps)
            query = None if self.queries is None else self.queries[index]
            images = Augmented(
                **vars(self.images[index]),
                drawn=None if drawn is None else onto(device, drawn),
                device=self.learner.device,
            )
            before = ranks.sums
            loss = step(StepBatch(images, query, self.learner.loss, optimizer, ranks.add_up))
            if ranks.sums == before and ranks.size > 1:
                raise BadInput(
                    f"{self.learner.config.method.name} has a training step of its own, which adds "
                    "up no gradients (StepBatch.backward); allowed: devices 1"
                )
            total += loss * len(index)
            bar.update(len(index))
        self.method.eval()
        return float(total) / self.images_in(epoch)

    def images_in(self, epoch: int) -> int:
        """How many images pass in an epoch: all, or those of the steps that are left."""
        left = self.steps * self.batch_size - epoch * len(self.images)
        return min(len(self.images), max(left, 1))

    def _recorded(self) -> RecordedStep | None:
        """What records a step of this stage and plays it again, where that can be and pays."""
        learner = self.learner
        can = (
            learner.device.type == "cuda"
            and learner.ranks.size == 1
            and not learner.model.reads_text  # its labels choose texts one by one
            and (self.stage.step and self.stage.alike and self.method.record.alike)
        )
        return RecordedStep(self.method, self.batch_size) if can and self.steps >= WORTH else None

    def _augmented(self, images: Images) -> Images:
        """Every image augmented, once for all epochs."""
        training, noise = self.learner.config.training, self._generator("augment")
        parts = [
            augment(part, training.augmentation, training.crop_scale, noise)
            for part in images.pixels.split(256)
        ]
        return Images(torch.cat(parts), images.labels)

    def end(self) -> None:
        """Measure the held-out loss and let the method draw its conclusions."""
        loss = None if self.held_out is None else self.learner.mean_loss(self.held_out)
        if self.stage.probe:
            self.learner.head.load_state_dict(self.head_before)
        self.method.end_stage(self.stage, StageEnd(loss, self._generator("after")))

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
            lr = peak * 0.5 * (1 + math.cos(math.pi * progress))
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def _generator(self, *purpose: str | int) -> torch.Generator:
        return generator(self.learner.config.seed, *purpose, self.task.index, self.number)
