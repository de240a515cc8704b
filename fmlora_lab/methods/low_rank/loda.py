"""LoDA (He et al., ICML 2026, arXiv 2603.00191): each task learns in directions that its inputs
share with earlier tasks' and in directions that are its own.

    S_old = Σ of earlier tasks' x xᵀ, S_new = Σ of this one's x xᵀ     at each site, (d_in, d_in)
    V_G = top r eigenvectors of S_old + S_new                          general
    V_I = Q of L⁻ᵀ · top r eigenvectors of L⁻¹ S_new L⁻ᵀ, L Lᵀ = S_old + εI     isolated: the most
          of tr(Vᵀ S_new V) beside tr(Vᵀ S_old V)
    ΔW = w U_G V_Gᵀ + U_I V_Iᵀ          trained: U_G, U_I (d_out, r), from zero
    step: g = ∇L₁(U − ρ ∇L₂(U) / ‖∇L₂(U)‖), ρ from [0, rho]     of the two halves of a batch
    Λ = S_new,G (S_old,G + S_new,G)⁻¹, S_·,G = V_Gᵀ S_· V_G
    W_t = W_{t-1} + w U_G Λ V_Gᵀ + U_I V_Iᵀ

Λ is the least-squares optimum of features: of all M it makes ‖(M − U_G) V_Gᵀ X_new‖² +
‖M V_Gᵀ X_old‖² least, where the new task's images see the learned update and the old ones' none.

Source: He, Cheng, Wang, Yang, Wang and Gao 2026, "Task-Driven Subspace Decomposition for Knowledge
Sharing and Isolation in LoRA-based Continual Learning". A pass over the task's images before it is
trained, without gradients, is part of the method and of its time.

Published: 90.47 last accuracy on CIFAR-100, 81.93 on ImageNet-R, ten tasks each. Rank, w, rho and
the rate were not to be had, nor was the code.

Ours: the formula of Λ, which the paper has in closed form, and w, which it names. The step's sign
goes down the other half's gradient, so that L₁ there is less the more the two gradients agree; the
gradient's length is divided out, as in sharpness-aware training, and rho 0 is a plain step. Halves
do not change places, since images come in a new order in every epoch. The head is not moved with U
and learns from the first half. S_new is gathered once, before the task's training, and added to
S_old as it is. ε is `ridge` times the mean eigenvalue of S_old + S_new. The first task, which has
no S_old, takes the r eigenvectors after the general ones as its own, and its Λ changes nothing.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from fmlora_lab.backbone.tower import Tower
from fmlora_lab.methods.input_moments import InputMoments
from fmlora_lab.methods.low_rank.lora import LoRA, LoRASettings
from fmlora_lab.methods.method import (
    HEAD_RATES,
    Group,
    Stage,
    StageEnd,
    StepBatch,
    TaskInfo,
    register,
)
from fmlora_lab.methods.starts import STARTS


class LoDASettings(LoRASettings):
    name: Literal["loda"] = "loda"  # type: ignore[assignment]
    rank: int = Field(default=8, ge=1)
    """Width r of the general and of the isolated branch, at most half a site's d_in."""
    general: float = Field(default=1.0, gt=0)
    """Weight w of the general branch."""
    rho: float = Field(default=0.05, ge=0)
    """Longest step against the other half's gradient; 0 for a plain step on the whole batch."""
    ridge: float = Field(default=1e-3, gt=0)
    """ε, as a share of the mean energy of a direction."""


@register(
    LoDASettings,
    title="LoDA",
    family="low-rank",
    what="each task learns in directions shared with earlier tasks and in its own",
    source="He et al. 2026, ICML, arXiv 2603.00191",
    since="2026-02",
    search={
        **HEAD_RATES,
        "method.lr": (5e-4, 1e-3, 2e-3, 4e-3),
        "method.rank": (4, 8, 16),
        "method.general": (0.3, 1.0, 3.0),
    },
    search_short={"method.lr": (1e-4, 3e-4, 1e-3)},
    updates="factors",
    ships=STARTS,
)
class LoDA(LoRA):
    settings: LoDASettings

    def __init__(self, settings: LoDASettings, model: Tower):
        super().__init__(settings, model)
        self.U, self.V = nn.ParameterList(), nn.ParameterList()
        for n, site in enumerate(model.sites):
            r = min(settings.rank, site.d_in // 2)
            self.U.append(torch.zeros(site.d_out, 2 * r))
            self.V.append(nn.Parameter(torch.zeros(site.d_in, 2 * r), requires_grad=False))
            self.register_buffer(f"moments{n}", torch.zeros(site.d_in, site.d_in))
            self.register_buffer(f"recalibration{n}", torch.eye(r))
        self.gathering: InputMoments | None = None
        self.length = 0.0  # of this step's way against the other half's gradient

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        for U in self.U:
            U.zero_()
        self.V_start = [*self.V]  # designed, then frozen

    def stages(self, epochs: int) -> Iterator[Stage]:
        yield Stage("inputs", 1, observe=True)
        yield Stage("train", epochs)

    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        if stage.observe:
            self.gathering = InputMoments(self.model.sites, exact=True)

    @torch.no_grad()
    def end_stage(self, stage: Stage, end: StageEnd) -> None:
        if self.gathering is None:
            return
        means, counts = self.gathering.take(self.add_up), self.gathering.counts
        self.gathering = None
        for n, (count, mean, V) in enumerate(zip(counts, means, self.V, strict=True)):
            moments, new = getattr(self, f"moments{n}"), count * mean
            old, r = moments.to(new), V.shape[1] // 2
            general, isolated = bases(old, new, r, self.settings.ridge)
            V.copy_(torch.cat([self.settings.general * general, isolated], dim=1))
            getattr(self, f"recalibration{n}").copy_(recalibration(old, new, general))
            moments += new

    def groups(self) -> list[Group]:
        return [Group([*self.U], self.settings.lr)]

    def on_step(self, generator: torch.Generator) -> None:
        self.length = self.settings.rho * torch.rand((), generator=generator).item()

    def step(self, batch: StepBatch) -> Tensor:
        n = len(batch.images)
        if not self.settings.rho or n == 1 or batch.optimizer is None:
            return super().step(batch)
        U, before = [*self.U], [U.detach().clone() for U in self.U]
        halves = torch.arange(n, device=batch.images.labels.device).tensor_split(2)
        first, second = (
            (batch.images[half], None if batch.query is None else batch.query[half])
            for half in halves
        )
        other = batch.loss(*second)
        gradients = torch.autograd.grad(other, U)
        batch.add_up([other := other.detach(), *gradients])
        with torch.no_grad():
            size = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
            for parameter, g in zip(U, gradients, strict=True):
                parameter -= self.length / size.clamp(min=1e-12) * g
        loss = batch.loss(*first)
        batch.optimizer.zero_grad()
        (loss,) = batch.backward(loss)
        with torch.no_grad():
            for parameter, start in zip(U, before, strict=True):
                parameter.copy_(start)
        batch.optimizer.step()
        return (len(halves[0]) * loss + len(halves[1]) * other) / n

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        for n, U in enumerate(self.U):
            r = U.shape[1] // 2
            U[:, :r] = U[:, :r] @ getattr(self, f"recalibration{n}")
        return super().end_task()

    def kept(self) -> int:
        return sum(getattr(self, f"moments{n}").numel() for n in range(len(self.U)))


def bases(
    old: Float[Tensor, "d d"], new: Float[Tensor, "d d"], r: int, ridge: float
) -> tuple[Float[Tensor, "d r"], Float[Tensor, "d r"]]:
    """Orthonormal V_G and V_I of the moments S_old and S_new."""
    both = torch.linalg.eigh(old + new)
    by_energy = both.eigenvectors.flip(1)
    if not old.any():
        return by_energy[:, :r], by_energy[:, r : 2 * r]
    eps = ridge * both.eigenvalues.mean()
    L = torch.linalg.cholesky(old + eps * torch.eye(len(old)).to(old))
    inner = torch.linalg.solve_triangular(L, new, upper=False)  # L⁻¹ S_new
    inner = torch.linalg.solve_triangular(L, inner.T, upper=False)  # L⁻¹ S_new L⁻ᵀ
    top = torch.linalg.eigh(inner).eigenvectors.flip(1)[:, :r]
    isolated = torch.linalg.solve_triangular(L.T, top, upper=True)
    return by_energy[:, :r], torch.linalg.qr(isolated).Q


def recalibration(
    old: Float[Tensor, "d d"], new: Float[Tensor, "d d"], general: Float[Tensor, "d r"]
) -> Float[Tensor, "r r"]:
    """Λ; directions without any energy are left out of it."""
    inside_old, inside_new = (general.T @ S @ general for S in (old, new))
    return inside_new @ torch.linalg.pinv(inside_old + inside_new, hermitian=True)
