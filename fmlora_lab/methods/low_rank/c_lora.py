"""C-LoRA: one LoRA for all tasks, whose small routing matrix takes in each task's part (Zhang et
al. 2025, arXiv 2502.17920).

    W = W0 + U (R_old + R_t) Vᵀ          U (d_out, r), V (d_in, r), R_old and R_t (r, r)
    ∂L/∂U = G V R_tᵀ,  ∂L/∂V = Gᵀ U R_t,  ∂L/∂R_t = Uᵀ G V          G = ∂L/∂W;  R_old is stopped
    L = CE + λ Σ_sites ‖Q_oldᵀ R_t‖²_F   Q_old: an orthonormal basis of R_old's columns
    after task t: R_old ← R_old + R_t

Their A is our U, their B our Vᵀ. U and V are shared by all tasks and go on learning, but through
R_t alone: what earlier tasks put into R_old is used, asks for no gradient and is never changed.

The nearest published relative of FM-LoRA's factorisation (`fm_lora.factorized`): there too every
task's update is U C_t Vᵀ in shared bases. F-LoRA freezes U and V after the first task, makes them
orthonormal and gives a task a low-rank M_t N_tᵀ; C-LoRA goes on training them, with a full R_t held
orthogonal to the old. Notebook 26 compares both at equal r.

Published: ViT on four datasets in 5, 10 and 20 steps. The rank, λ, rates, the head and the layers
are not known to us, nor any code.

Ours: R_t starts at zero, U and V Gaussian with columns of about length 1, so that a task begins
where the last one ended. R_old has rank r after the first task, and all of its columns' space would
leave R_t nothing but to be small: Q_old are the left singular vectors that hold `energy` of R_old's
squared singular values. U and V do not decay, which would take from earlier tasks. A task's
recorded update is all that it changed, the moves of U and V under R_old among it, and has up to 2 r
columns; how far it left its start is said of U R_t Vᵀ.
"""

from typing import Literal

import torch
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
    TaskInfo,
    register,
)
from fmlora_lab.methods.starts import STARTS, shares_of_starts


class CLoRASettings(SiteSettings):
    name: Literal["c-lora"] = "c-lora"
    rank: int = Field(default=16, ge=1)
    """Width r of U and V, the side of the routing matrix; capped by the smallest side of a site."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of R_t, U and V."""
    orthogonality: float = Field(default=1.0, ge=0)
    """λ, of what R_t shares with the old routing's columns."""
    energy: float = Field(default=0.9, ge=0, le=1)
    """Share of R_old's squared singular values that Q_old holds."""


@register(
    CLoRASettings,
    title="C-LoRA",
    family="low-rank",
    what="one adapter for all tasks, with a routing matrix that takes in each task's part",
    source="Zhang et al. 2025, arXiv 2502.17920",
    since="2025-02",
    search={
        **HEAD_RATES,
        "method.lr": (5e-4, 1e-3, 2e-3, 4e-3),
        "method.rank": (8, 16, 32),
        "method.orthogonality": (0.1, 1.0, 10.0),
    },
    search_short={"method.lr": (3e-4, 1e-3, 3e-3)},
    updates="factors",
    ships=STARTS,
    alike=True,
)
class CLoRA(Method):
    settings: CLoRASettings
    old: Tensor
    Q: Tensor

    def __init__(self, settings: CLoRASettings, model: Tower):
        super().__init__(settings, model)
        sites = model.sites
        r = min(settings.rank, *(min(site.d_out, site.d_in) for site in sites))
        self.U = nn.ParameterList(torch.zeros(site.d_out, r) for site in sites)
        self.V = nn.ParameterList(torch.zeros(site.d_in, r) for site in sites)
        for s, site in enumerate(sites):  # as the task found them
            self.register_buffer(f"U_start{s}", torch.zeros(site.d_out, r))
            self.register_buffer(f"V_start{s}", torch.zeros(site.d_in, r))
        self.R = nn.Parameter(torch.zeros(len(sites), r, r))
        self.register_buffer("old", torch.zeros(len(sites), r, r))
        self.register_buffer("Q", torch.zeros(len(sites), r, r))  # zero beyond Q_old's columns

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        if task.index == 0:
            for side in (*self.U, *self.V):
                side.copy_(torch.randn(side.shape, generator=task.generator) / len(side) ** 0.5)
        for s, (U, V) in enumerate(zip(self.U, self.V, strict=True)):
            getattr(self, f"U_start{s}").copy_(U)
            getattr(self, f"V_start{s}").copy_(V)

    def factors(self, query: Tensor | None = None) -> list[Factors]:
        found = []
        for U, V, R, old in zip(self.U, self.V, self.R, self.old, strict=True):
            # U (R_old + R_t) Vᵀ = [U R_old | U R_t] [V | V]ᵀ, and no gradient for the first half
            left = torch.cat([U.detach() @ old, U @ R], dim=1)
            right = torch.cat([V.detach(), V], dim=1)
            found.append(Factors(left, None, right, fixed=len(old)))
        return found

    def groups(self) -> list[Group]:
        lr = self.settings.lr
        return [Group([self.R], lr), Group([*self.U, *self.V], lr, decay=False)]

    def loss(self, batch: Batch) -> Tensor:
        shared = (self.Q.mT @ self.R).square().sum()  # Σ ‖Q_oldᵀ R_t‖²
        return super().loss(batch) + self.settings.orthogonality * shared

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        record, sides = {}, []
        for s, site in enumerate(self.model.sites):
            U, V, R, old = self.U[s], self.V[s], self.R[s], self.old[s]
            starts = getattr(self, f"U_start{s}"), getattr(self, f"V_start{s}")
            # U (R_old + R_t) Vᵀ − U_0 R_old V_0ᵀ
            own = torch.cat([U @ (old + R), -starts[0] @ old], dim=1)
            read = torch.cat([V, starts[1]], dim=1)
            record |= {f"U.{site.name}": own, f"V.{site.name}": read}
            sides.append(((U @ R, starts[0]), (V, starts[1])))
        record |= {"routing": self.R.detach().clone()}
        self.old += self.R
        self.R.zero_()
        left, sigma, _ = torch.linalg.svd(self.old.double())
        rest = sigma.square().flip(1).cumsum(1).flip(1)  # what is left where each vector comes
        needed = rest > (1 - self.settings.energy) * rest[:, :1]
        self.Q = (left * needed[:, None, :]).to(self.old)
        return record | shares_of_starts(sides)

    def kept(self) -> int:
        return self.old.numel() + sum(p.numel() for p in (*self.U, *self.V))
