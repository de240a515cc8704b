"""HiDe-Prompt: say first which task an image is of, then use that task's prompt.

    task inference    t̂(x) = task of argmax g(q(x)), g an MLP on the frozen features q(x)
    within a task     prefixes P_t; L = CE + λ L_con, which keeps features apart from old classes
    over all tasks    the head is trained anew on samples from Gaussians of every class seen
    in training       (1 - m) P_t + m mean(P_1 … P_{t-1}) in the place of P_t, and kept as P_t

Source: Wang et al. 2023, "Hierarchical Decomposition of Prompt-Based Continual Learning: Rethinking
Obscured Sub-optimality", NeurIPS, arXiv 2310.07234. It keeps statistics of earlier classes, frozen
features' and prompted ones': `kept` counts them. Where classes come again in other domains, g has
an output for every class and task.

Published (thu-ml/HiDe-Prompt, ImageNet-R): length 20 keys and 20 values, blocks 0 to 4, m 0.01,
λ 0.5; g: Adam 5e-4, 20 epochs; prompts 0.03, 150 epochs, batch 24 on 8 GPUs; heads: SGD 0.005, 30
epochs; gradient norms clipped at 1.0, schedules by script (by default in steps; cosine for the
prompts). Here, as for every method: AdamW, the rate falls along a cosine in each stage, nothing is
clipped. The code keeps 10 k-means centroids a class (`centroids`); the paper also one Gaussian.
Passes for statistics see images as they are; in the code augmented. The code takes prefixes apart
as DualPrompt's port does.
"""

from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fmlora_lab.backbone.sites import Prompts
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.config import MethodSettings
from fmlora_lab.heads import TrainedHead
from fmlora_lab.methods.method import (
    HEAD_RATES,
    Batch,
    Blocks,
    Group,
    Method,
    Stage,
    StageEnd,
    TaskInfo,
    register,
)
from fmlora_lab.methods.prompts.class_statistics import describe, train_on_samples
from fmlora_lab.methods.prompts.dualprompt import by_block
from fmlora_lab.methods.prompts.prefixes import uniform

CONTRAST_TEMPERATURE = 0.8


class HiDePromptSettings(MethodSettings):
    name: Literal["hide-prompt"] = "hide-prompt"
    blocks: Blocks = (0, 1, 2, 3, 4)
    """Blocks that the prefixes enter."""
    length: int = Field(default=40, ge=0, multiple_of=2)
    """Tokens of a prefix, keys and values together; 0 for none."""
    momentum: float = Field(default=0.01, ge=0, le=1)
    """m, how far a new prompt is drawn to the mean of the old ones."""
    contrast: float = Field(default=0.1, ge=0)
    """λ of the contrastive term."""
    centroids: int = Field(default=1, ge=1)
    """Gaussians kept of each class."""
    lr: float = Field(default=3e-3, gt=0)
    """Learning rate of the prompts."""
    lr_inference: float = Field(default=1e-3, gt=0)
    """Learning rate of the MLP g."""
    inference_epochs: int = Field(default=4, ge=1)
    """Epochs of g on the task's images."""
    correction_epochs: int = Field(default=10, ge=0)
    """Epochs of g and of the head on samples, after each task."""
    correction_lr: float = Field(default=0.005, gt=0)
    samples: int = Field(default=64, ge=1)
    """Samples of each Gaussian an epoch, and batch size, of this training."""


class TaskInference(nn.Module):
    """g: features (B, d) to logits over (task, class) pairs, a residual MLP and a linear layer."""

    def __init__(self, d: int):
        super().__init__()
        self.into, self.out, self.norm = nn.Linear(d, 2 * d), nn.Linear(2 * d, d), nn.LayerNorm(d)
        self.rows = nn.Parameter(torch.zeros(0, d))
        self.bias = nn.Parameter(torch.zeros(0))

    def forward(self, query: Tensor) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):
            hidden = self.norm(query + self.out(F.gelu(self.into(query))))
            return F.linear(hidden, self.rows, self.bias)

    @torch.no_grad()
    def begin(self, generator: torch.Generator) -> None:
        """Initial values of the MLP, from the run's own generator."""
        for layer in (self.into, self.out):
            bound = layer.in_features**-0.5
            for tensor in (layer.weight, layer.bias):
                draw = torch.rand(tensor.shape, generator=generator)
                tensor.copy_((2 * draw - 1) * bound)

    @torch.no_grad()
    def grow(self, n: int, generator: torch.Generator) -> None:
        """n more outputs, Gaussian with std 0.02."""
        fresh = 0.02 * torch.randn(n, self.rows.shape[1], generator=generator).to(self.rows)
        self.rows = nn.Parameter(torch.cat([self.rows, fresh]))
        self.bias = nn.Parameter(F.pad(self.bias, (0, n)))


@register(
    HiDePromptSettings,
    title="HiDe-Prompt",
    family="prompts",
    what="infer the task, then use its prompt; heads trained anew on Gaussians of every class",
    source="Wang et al. 2023, NeurIPS, arXiv 2310.07234",
    since="2023-10",
    paper={
        "method.lr": 0.03,
        "method.lr_inference": 5e-4,
        "method.contrast": 0.5,
        "method.inference_epochs": 20,
        "method.correction_epochs": 30,
        "method.centroids": 10,
    },
    search={
        **HEAD_RATES,
        "method.lr": (1e-3, 3e-3, 1e-2, 3e-2),
        "method.contrast": (0.0, 0.01, 0.1),
    },
    search_short={"method.lr": (1e-3, 3e-3, 1e-2)},
    alike=True,
)
class HiDePrompt(Method):
    settings: HiDePromptSettings
    infers_tasks = True
    old_P: Tensor
    task_of: Tensor
    class_of: Tensor
    frozen: Tensor
    prompted: Tensor

    def __init__(self, settings: HiDePromptSettings, model: Tower):
        super().__init__(settings, model)
        d = model.width
        self.infer = TaskInference(d)
        self.P = nn.Parameter(torch.zeros(len(settings.blocks), settings.length, d))
        self.register_buffer("old_P", torch.zeros(0, *self.P.shape))
        self.register_buffer("task_of", torch.zeros(0, dtype=torch.long))  # of g's outputs
        self.register_buffer("class_of", torch.zeros(0, dtype=torch.long))
        # Gaussians of (task, class) pairs, (pairs · centroids, 2 d): frozen and prompted features.
        self.register_buffer("frozen", torch.zeros(0, 2 * d))
        self.register_buffer("prompted", torch.zeros(0, 2 * d))
        self.stage, self.seen = "", []

    @property
    def needs_query(self) -> bool:
        """At prediction alone: in training a task's own prompt is used."""
        return not self.training and not self.stage and len(self.old_P) > 0

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        self.task = task
        if task.index == 0:
            self.infer.begin(task.generator)
        fresh = uniform(*self.P.shape, generator=task.generator)
        self.P.copy_(self.old_P[-1] if len(self.old_P) else fresh)
        self.infer.grow(len(task.classes), task.generator)
        own = torch.tensor([*task.classes]).to(self.class_of)
        self.class_of = torch.cat([self.class_of, own])
        self.task_of = torch.cat([self.task_of, torch.full_like(own, task.index)])

    def stages(self, epochs: int) -> Iterator[Stage]:
        yield Stage("task-inference", self.settings.inference_epochs)
        yield Stage("frozen-statistics", 1, observe=True)
        yield Stage("train", epochs)
        yield Stage("statistics", 1, observe=True)

    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        self.stage, self.seen = stage.name, []

    def prompts(self, query: Tensor | None) -> Prompts | None:
        if self.stage in ("train", "statistics"):
            P = self._drawn() if self.stage == "train" else self.P
            return Prompts(prefixes=by_block(self.settings.blocks, P))
        if query is None:
            return None
        P = self.old_P[self.tasks_in_use(query, len(self.old_P))]  # (B, blocks, L, d)
        return Prompts(prefixes=by_block(self.settings.blocks, P.transpose(0, 1)))

    def tasks_of(self, query: Tensor) -> Tensor:
        """g's most probable class and task, among those that ended."""
        logits = self.infer(query).masked_fill(self.task_of >= len(self.old_P), -torch.inf)
        return self.task_of[logits.argmax(1)]

    def groups(self) -> list[Group]:
        if self.stage == "task-inference":
            return [Group([*self.infer.parameters()], self.settings.lr_inference, decay=False)]
        return [Group([self.P], self.settings.lr, decay=False)]

    def trained(self) -> int:
        return self.P.numel() + sum(p.numel() for p in self.infer.parameters())

    def loss(self, batch: Batch) -> Tensor:
        if self.stage == "task-inference":  # no prompts yet: these are the frozen features
            logits = self.infer(batch.features)
            if not self.task.seen:
                logits = logits[:, -len(self.task.classes) :]
            return F.cross_entropy(logits, batch.labels)
        return super().loss(batch) + self.settings.contrast * self._contrast(
            self.whole(batch.features)
        )

    def observe(self, features: Tensor, labels: Tensor) -> None:
        self.seen.append((features.clone(), labels))

    @torch.no_grad()
    def end_stage(self, stage: Stage, end: StageEnd) -> None:
        if stage.name == "train":
            self.P.copy_(self._drawn())
        if not stage.observe:
            return
        features, labels = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        own = [
            describe(features[labels == c], self.settings.centroids, end.generator)
            for c in self.task.classes
        ]
        if stage.name == "statistics":
            self.prompted = torch.cat([self.prompted, *own])
            return
        self.frozen = torch.cat([self.frozen, *own])
        pairs = torch.arange(len(self.task_of)).to(self.task_of)
        self._train(self.infer, [*self.infer.parameters()], self.frozen, pairs, end.generator)

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        self.old_P = torch.cat([self.old_P, self.P[None]])
        self.stage, self.seen = "", []
        return {"prompts": self.P.detach().clone()}

    def correct_head(self, head: TrainedHead, generator: torch.Generator) -> None:
        """Train the head anew on samples of every class seen (task-adaptive prediction)."""
        rows = nn.Parameter(head.weight[head.known].clone())
        bias = nn.Parameter(head.bias[head.known].clone())
        logits = partial(head.logits, weight=rows, bias=bias)
        row_of = head.known.cumsum(0) - 1
        self._train(logits, [rows, bias], self.prompted, row_of[self.class_of], generator)
        head.weight[head.known], head.bias[head.known] = rows.detach(), bias.detach()

    def kept(self) -> int:
        parts = (self.old_P, self.frozen, self.prompted, *self.infer.parameters())
        return sum(part.numel() for part in parts)

    def _drawn(self) -> Tensor:
        """The task's prompt, drawn to the mean of the old ones."""
        m = self.settings.momentum
        return (1 - m) * self.P + m * self.old_P.mean(0) if len(self.old_P) else self.P

    def _contrast(self, features: Tensor) -> Tensor:
        """Cross-entropy of each old class mean and each feature against all of them."""
        means = self.prompted[:, : features.shape[1]]
        everything = torch.cat([means, features])
        similar = everything @ everything.T / CONTRAST_TEMPERATURE
        return F.cross_entropy(similar, torch.arange(len(everything), device=similar.device))

    def _train(self, classifier, parameters, statistics, labels, generator) -> None:
        s = self.settings
        how = s.correction_epochs, s.samples, s.correction_lr
        train_on_samples(classifier, parameters, statistics, labels, *how, generator)
