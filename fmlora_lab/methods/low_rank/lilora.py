"""LiLoRA: a LoRA whose one side all tasks share, and whose other side is a shared basis and a small
LoRA of the task's own (Che et al. 2026, AAAI, arXiv 2508.06202).

    W_t = W0 + U_t Vᵀ       U_t = σ(g_t) U_0 + (1 − σ(g_t)) P_t N_tᵀ
    shared: V (d_in, r), and U_0 (d_out, r), which the first task learns and which then is frozen
    own:    P_t (d_out, s) from zero, N_t (r, s), a gate g_t for each site
    L = CE + λ mean_sites (1 − cos(V, V as the task found it))
    t at prediction: the task of the nearest class Gaussian of frozen features (`task_gaussians`)

Their A is our Vᵀ, their B_0 our U_0, their B'_t A'_t our P_t N_tᵀ. Every task has an update of its
own: they are not added up, and nothing is merged. At prediction each image has the columns of its
task, [U_0 | P_1 … P_t], weighed by σ(g), 1 − σ(g) and 0.

Published: LLaVA-1.5-7B on six tasks, r = 128, s = 64, α/r = 2, AdamW 2e-5, one epoch. Made for
instructions whose task is known. The released code (chanceche/LiLoRA) has g_t from a standard
normal draw, A Kaiming-uniform, P_t and U_0 zero, and goes on training V with every task.

Ours: the task is inferred, from one pass over a task's images through the frozen backbone; what
that keeps is counted. Results say how often it is right (`task_inferred`) and what is right with
the task given (`task_given`). The paper's stability loss is not known to us but for its being
regularised by a cosine, and the released code has none: λ and its form are ours (0: as released).
α/r is 1; V and N_t start Gaussian, std 1/√d_in and 1/√r; what tasks share does not decay.
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.methods.method import (
    HEAD_RATES,
    Batch,
    Group,
    Method,
    SiteSettings,
    Stage,
    StageEnd,
    TaskInfo,
    register,
)
from fmlora_lab.methods.starts import STARTS, shares_of_starts
from fmlora_lab.methods.task_gaussians import TaskGaussians


class LiLoRASettings(SiteSettings):
    name: Literal["lilora"] = "lilora"
    rank: int = Field(default=8, ge=1)
    """Width r of the shared V and U_0."""
    own_rank: int = Field(default=4, ge=1)
    """Width s of a task's own P_t and N_t."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of all of them and of the gates."""
    stability: float = Field(default=1.0, ge=0)
    """λ, of how far V turns from where the task found it."""


@register(
    LiLoRASettings,
    title="LiLoRA",
    family="low-rank",
    what="a shared adapter with a small one in it for each task; the image's task is inferred",
    source="Che et al. 2026, AAAI, arXiv 2508.06202",
    since="2025-08",
    paper={"method.rank": 128, "method.own_rank": 64, "method.lr": 2e-5},
    search={
        **HEAD_RATES,
        "method.lr": (5e-4, 1e-3, 2e-3, 4e-3),
        "method.rank": (8, 16, 32),
        "method.stability": (0.0, 1.0, 10.0),
    },
    search_short={"method.lr": (1e-4, 3e-4, 1e-3)},
    updates="factors",
    ships=STARTS,
    alike=True,
)
class LiLoRA(Method):
    settings: LiLoRASettings
    infers_tasks = True
    old_g: Tensor

    def __init__(self, settings: LiLoRASettings, model: Tower):
        super().__init__(settings, model)
        r, s = settings.rank, settings.own_rank
        self.V = nn.ParameterList(torch.zeros(site.d_in, r) for site in model.sites)
        self.U = nn.ParameterList(torch.zeros(site.d_out, r) for site in model.sites)  # U_0
        self.P = nn.ParameterList(torch.zeros(site.d_out, s) for site in model.sites)
        self.N = nn.ParameterList(torch.zeros(r, s) for _ in model.sites)
        self.g = nn.Parameter(torch.zeros(len(model.sites)))
        for n, site in enumerate(model.sites):
            self.register_buffer(f"V_start{n}", torch.zeros(site.d_in, r))
            self.register_buffer(f"P{n}", torch.zeros(site.d_out, 0))  # of tasks that ended
            self.register_buffer(f"N{n}", torch.zeros(r, 0))
        self.register_buffer("old_g", torch.zeros(len(model.sites), 0))
        self.gaussians = TaskGaussians(model.width)
        self.stage, self.seen = "", []

    @property
    def needs_query(self) -> bool:
        """At prediction alone: in training a task's own columns are used."""
        return not self.training and not self.stage and self.ended > 0

    @property
    def ended(self) -> int:
        """How many tasks have ended."""
        return self.old_g.shape[1]

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        draw = task.generator
        for n, (V, P, N) in enumerate(zip(self.V, self.P, self.N, strict=True)):
            if task.index == 0:
                V.copy_(torch.randn(V.shape, generator=draw) / len(V) ** 0.5)
            getattr(self, f"V_start{n}").copy_(V)
            P.zero_()
            N.copy_(torch.randn(N.shape, generator=draw) / len(N) ** 0.5)
        self.g.copy_(torch.randn(self.g.shape, generator=draw))

    def stages(self, epochs: int) -> Iterator[Stage]:
        yield Stage("frozen-statistics", 1, observe=True)
        yield Stage("train", epochs)

    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        self.stage, self.seen = stage.name, []

    def observe(self, features: Tensor, labels: Tensor) -> None:
        self.seen.append((features.clone(), labels))

    def end_stage(self, stage: Stage, end: StageEnd) -> None:
        if stage.observe:
            features, labels = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
            self.gaussians.add(self.ended, features, labels)

    def factors(self, query: Tensor | None = None) -> list[Factors | None]:
        if self.stage == "frozen-statistics":
            return [None] * len(self.V)
        if query is None or not self.needs_query:
            return [Factors(self._own(n), None, V) for n, V in enumerate(self.V)]
        of = F.one_hot(self.tasks_in_use(query, self.ended), self.ended).to(self.old_g)
        return [self._of_images(n, of) for n in range(len(self.V))]

    def tasks_of(self, query: Tensor) -> Tensor:
        """That of the nearest class Gaussian."""
        return self.gaussians(query, self.ended)

    def groups(self) -> list[Group]:
        shared = [*self.V] if self.ended else [*self.V, *self.U]
        lr = self.settings.lr
        return [Group([*self.P, *self.N], lr), Group([*shared, self.g], lr, decay=False)]

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        if not self.settings.stability or not self.ended:
            return loss
        alike = [
            F.cosine_similarity(V.flatten(), getattr(self, f"V_start{n}").flatten(), dim=0)
            for n, V in enumerate(self.V)
        ]
        return loss + self.settings.stability * (1 - torch.stack(alike)).mean()

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        record, sides = {}, []
        for n, (site, V) in enumerate(zip(self.model.sites, self.V, strict=True)):
            own, V_start = self._own(n), getattr(self, f"V_start{n}")
            record |= {f"U.{site.name}": own, f"V.{site.name}": V.detach().clone()}
            U_start = self.U[n] if self.ended else None
            sides.append(((own, U_start), (V, V_start)))
            for name, part in ((f"P{n}", self.P[n]), (f"N{n}", self.N[n])):
                setattr(self, name, torch.cat([getattr(self, name), part], dim=1))
        self.old_g = torch.cat([self.old_g, self.g[:, None]], dim=1)
        self.stage, self.seen = "", []
        return record | shares_of_starts(sides) | {"gates": self.g.detach().sigmoid()}

    def kept(self) -> int:
        own = [getattr(self, f"{name}{n}") for name in "PN" for n in range(len(self.V))]
        tensors = (*self.V, *self.U, *own, self.old_g)
        return sum(t.numel() for t in tensors) + self.gaussians.kept()

    def _own(self, n: int) -> Tensor:
        """U_t = σ(g_t) U_0 + (1 − σ(g_t)) P_t N_tᵀ of the present task."""
        gate = self.g[n].sigmoid()
        basis = self.U[n].detach() if self.ended else self.U[n]
        return gate * basis + (1 - gate) * self.P[n] @ self.N[n].T

    def _of_images(self, n: int, of: Tensor) -> Factors:
        """Every task's columns side by side, for images of these tasks, one-hot (B, tasks)."""
        P, N, gates = getattr(self, f"P{n}"), getattr(self, f"N{n}"), self.old_g[n].sigmoid()
        r, s = self.settings.rank, self.settings.own_rank
        basis, own = (of @ gates)[:, None].expand(-1, r), (of * (1 - gates)).repeat_interleave(s, 1)
        # U_t Vᵀ = σ U_0 Vᵀ + (1 − σ) P_t (V N_t)ᵀ
        U, V = torch.cat([self.U[n], P], dim=1), torch.cat([self.V[n], self.V[n] @ N], dim=1)
        return Factors(U, None, V, columns=torch.cat([basis, own], dim=1))
