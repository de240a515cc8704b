"""InfLoRA: each task learns in input directions that earlier tasks did not use.

    W_t = W_{t-1} + U_t V_tᵀ         trained: U_t, from zero; V_t is designed, then frozen
    V_t = top r left singular vectors of (I - M Mᵀ) R_t, times 1/√3

R_t (d_in, d_in) is the second moment of the site's inputs on the new task's images, M an
orthonormal basis of the inputs of earlier tasks, kept by `dual_gpm` as they pass.

Source: Liang and Li 2024, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning",
CVPR, arXiv 2404.00228 (their B is our U, their A our Vᵀ). Two passes over a task's images without
gradients, one before it and one after, are part of the method and of its time; here the images
pass as they are, in the official code augmented.

Published: k and v of all blocks, rank 10, Adam 5e-4, batch 128, 5 to 50 epochs; threshold 0.98
rising to 1 (ImageNet-R), 0.95 rising to 1 (CIFAR-100) along the tasks.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.methods.input_moments import InputMoments
from fmlora_lab.methods.low_rank.dual_gpm import extend, free_vectors
from fmlora_lab.methods.method import (
    HEAD_RATES,
    Group,
    Method,
    SiteSettings,
    Stage,
    StageEnd,
    TaskInfo,
    register,
)
from fmlora_lab.methods.starts import STARTS, shares_of_starts


class InfLoRASettings(SiteSettings):
    name: Literal["inflora"] = "inflora"
    rank: int = Field(default=8, ge=1)
    """Width r of each task's factors."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of U."""
    threshold: float = Field(default=0.98, gt=0, le=1)
    """Share of the inputs' energy that the memory keeps from later tasks."""
    last_threshold: float | None = Field(default=None, gt=0, le=1)
    """Where given, the threshold rises linearly to this over `tasks`."""
    tasks: int | None = Field(default=None, ge=1)
    """How many tasks will come; needed for a rising threshold alone."""

    @model_validator(mode="after")
    def _tasks_with_schedule(self) -> "InfLoRASettings":
        if (self.last_threshold is None) != (self.tasks is None):
            raise ValueError("method.tasks and method.last_threshold are given together or not")
        return self


@register(
    InfLoRASettings,
    title="InfLoRA",
    family="low-rank",
    what="each task learns in input directions that earlier tasks did not use",
    source="Liang and Li 2024, CVPR, arXiv 2404.00228",
    since="2024-04",
    paper={"method.layers": ["attn.k", "attn.v"], "method.rank": 10, "method.lr": 5e-4},
    search={
        **HEAD_RATES,
        "method.lr": (5e-4, 1e-3, 2e-3, 4e-3),
        "method.rank": (4, 8, 16),
        "method.threshold": (0.9, 0.95, 0.98),
    },
    search_short={"method.lr": (1e-4, 3e-4, 1e-3)},
    updates="factors",
    ships=STARTS,
    alike=True,
)
class InfLoRA(Method):
    settings: InfLoRASettings
    free: Tensor

    def __init__(self, settings: InfLoRASettings, model: Tower):
        super().__init__(settings, model)
        self.weights = nn.ParameterList(site.weight for site in model.sites)
        self.U = nn.ParameterList()
        for s, site in enumerate(model.sites):
            r = min(settings.rank, site.d_in)
            self.U.append(torch.zeros(site.d_out, r))
            self.register_buffer(f"V{s}", torch.zeros(site.d_in, r))
            self.register_buffer(f"memory{s}", torch.zeros(site.d_in, 0))
        # Whether a memory holds the directions left free, not those in use: the smaller is kept.
        self.register_buffer("free", torch.zeros(len(model.sites), dtype=torch.bool))
        self.moments: InputMoments | None = None

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        self.task = task
        for U in self.U:
            U.zero_()

    def stages(self, epochs: int) -> Iterator[Stage]:
        yield Stage("inputs", 1, observe=True)
        yield Stage("train", epochs)
        yield Stage("memory", 1, observe=True)

    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        if stage.observe:
            self.moments = InputMoments(self.model.sites)

    @torch.no_grad()
    def end_stage(self, stage: Stage, end: StageEnd) -> None:
        if self.moments is None:
            return
        found = self.moments.take(self.add_up)
        self.moments = None
        for s, R in enumerate(found):
            memory, free = getattr(self, f"memory{s}"), bool(self.free[s])
            if stage.name == "inputs":
                V = torch.zeros_like(getattr(self, f"V{s}"))  # zero where too little is free
                left = free_vectors(R, memory, free)[0][:, : V.shape[1]]
                V[:, : left.shape[1]] = left / 3**0.5
                setattr(self, f"V{s}", V)
            else:
                memory, self.free[s] = extend(memory, free, R, self._threshold())
                setattr(self, f"memory{s}", memory)

    def factors(self, query: Tensor | None = None) -> list[Factors]:
        return [Factors(U, None, getattr(self, f"V{s}")) for s, U in enumerate(self.U)]

    def groups(self) -> list[Group]:
        return [Group([*self.U], self.settings.lr)]

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        updates = self.factors()
        record = shares_of_starts(((u.U, None), (u.V, u.V)) for u in updates)
        for s, (site, update) in enumerate(zip(self.model.sites, updates, strict=True)):
            record |= {f"U.{site.name}": update.U.clone(), f"V.{site.name}": update.V.clone()}
            record[f"memory.{site.name}"] = getattr(self, f"memory{s}").clone()
            site.weight += site.full_rows(update).dense()
            update.U.zero_()
        return record | {"free": self.free.clone()}

    def kept(self) -> int:
        return sum(getattr(self, f"memory{s}").numel() for s in range(len(self.U)))

    def _threshold(self) -> float:
        first, last = self.settings.threshold, self.settings.last_threshold
        if last is None or self.settings.tasks is None:  # given together or not
            return first
        return first + (last - first) * self.task.index / self.settings.tasks
