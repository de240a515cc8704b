"""SoRA: a LoRA whose directions each have a gate, and gates near zero become zero at every step.

    W_t = W_{t-1} + U_t diag(g_t) V_tᵀ        U from zero, V Gaussian with std 1/√d_in, g ~ N(0, 1)
    L = L_task + λ mean |g|                   the mean over the gates of all sites
    g ← sign(g) max(|g| - ξ, 0)               after each step of the optimiser; ξ is not times lr

Source: Ding et al. 2023, "Sparse Low-rank Adaptation of Pre-trained Language Models", EMNLP,
arXiv 2311.11696, eq. 4 to 7; code TsinghuaC3I/SoRA. When the task ends the directions whose gate
is zero leave, and those that stay are merged into the weight: a site's rank is chosen by training,
with no preliminary epoch, where the rank selector of FM-LoRA chooses it before. The task's record
has how many stay, as `rank` (S,).

Published: made for one task of language, DeBERTaV3-base: r = 8, α/r = 2, q, k, v, the attention's
output and both layers of the MLP; AdamW, g with the rate of the others and no decay; ξ = 3e-4,
λ = 10, rate 8e-4, 20 epochs of batch 8 on STS-B; layer norms learn too. Optionally a dense training
first, after which ξ rises in further stages.

Ours: a new gated pair for each task. α/r is left at 1 and V drawn as `lora` has it; a Kaiming V
times α/r = 2 is as large but for 15%. Layer norms stay frozen, ξ is constant. Gates have a rate of
their own: a task here is some tens of steps, not 14,000, in which ξ = 3e-4 takes nothing away and
a gate at the rate of the others ends where it was drawn. The defaults keep the published ratio of
the gates' rate to ξ, near 3. λ = 10 would give each gate fifty times the gradient that the task's
own loss gives it here, so that the draw alone would choose; λ = 0.1 gives half of it. The released
code sets to zero what is below ξ *after* it has subtracted ξ, so that a gate in (ξ, 2 ξ) is zero at
once, where the paper's operator leaves what is above ξ; here it is the paper's.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.methods.low_rank.lora import LoRA, LoRASettings
from fmlora_lab.methods.method import HEAD_RATES, Batch, Group, StepBatch, TaskInfo, register
from fmlora_lab.methods.starts import STARTS


class SoRASettings(LoRASettings):
    name: Literal["sora"] = "sora"  # type: ignore[assignment]
    rank: int = Field(default=8, ge=1)
    """r, the most directions that a task may have at a site."""
    lr_gate: float = Field(default=3e-2, gt=0)
    """Learning rate of g."""
    threshold: float = Field(default=1e-2, ge=0)
    """ξ, by which every gate shrinks after each step."""
    penalty: float = Field(default=0.1, ge=0)
    """λ, the weight of mean |g| in the loss."""


@register(
    SoRASettings,
    title="SoRA",
    family="low-rank",
    what="a gate for each direction, thresholded at every step; those at zero leave",
    source="Ding et al. 2023, EMNLP, arXiv 2311.11696",
    since="2023-11",
    paper={
        "method.rank": 8,
        "method.lr": 8e-4,
        "method.lr_gate": 8e-4,
        "method.threshold": 3e-4,
        "method.penalty": 10.0,
    },
    search={
        **HEAD_RATES,
        "method.lr": (5e-4, 1e-3, 2e-3, 4e-3),
        "method.rank": (4, 8, 16),
        "method.threshold": (3e-3, 1e-2, 3e-2),
    },
    search_short={"method.lr": (1e-4, 3e-4, 1e-3)},
    updates="factors",
    ships=("rank", *STARTS),
    alike=True,
)
class SoRA(LoRA):
    settings: SoRASettings

    def __init__(self, settings: SoRASettings, model: Tower):
        super().__init__(settings, model)
        self.gate = nn.Parameter(torch.zeros(len(model.sites), settings.rank))

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.gate.copy_(torch.randn(self.gate.shape, generator=task.generator))

    def factors(self, query: Tensor | None = None) -> list[Factors]:
        gated = zip(super().factors(), self.gate.unbind(), strict=True)
        return [update._replace(C=g) for update, g in gated]

    def groups(self) -> list[Group]:
        return [*super().groups(), Group([self.gate], self.settings.lr_gate, decay=False)]

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) + self.settings.penalty * self.gate.abs().mean()

    def step(self, batch: StepBatch) -> Tensor:
        loss = super().step(batch)
        if batch.optimizer is not None:
            with torch.no_grad():
                self.gate.copy_(soft_threshold(self.gate, self.settings.threshold))
        return loss

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        rank = (self.gate != 0).sum(1)
        record = self.merged([pruned(update) for update in self.factors()])
        for U in self.U:
            U.zero_()
        return record | {"rank": rank, "gate": self.gate.detach().clone()}


def soft_threshold(g: Tensor, xi: float) -> Tensor:
    """sign(g) max(|g| - ξ, 0): the proximal step of ξ |g|."""
    return g.sign() * (g.abs() - xi).clamp(min=0)


def pruned(update: Factors) -> Factors:
    """The same update of the directions whose gate is not zero, as U g and V alone."""
    U, g, V, *_ = update
    assert g is not None
    stays = g != 0
    return Factors(U[:, stays] * g[stays], None, V[:, stays])
