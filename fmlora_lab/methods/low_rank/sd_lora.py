"""SD-LoRA: a task's update is a direction, which stays, and a magnitude, which goes on learning.

    W_t = W0 + Σ_{k≤t} α_k D_k,   D_k = U_k V_kᵀ / ‖U_k V_kᵀ‖_F        trained: α_1 … α_t, U_t, V_t

Source: Wu et al. 2025, "SD-LoRA: Scalable Decoupled Low-Rank Adaptation for Class Incremental
Learning", ICLR, arXiv 2501.13198. The present task's product is divided by its norm only when the
task ends, and its magnitude multiplied by it, so that U_t may begin at zero and nothing that the
model computes changes; hence one magnitude a direction and adapted weight. `attn.q`, `attn.k` and
`attn.v` are weights of their own here, though rows of one site.

Published: q and v of all blocks, rank 10, Adam 8e-3, batch 128, 10 to 30 epochs. Variants: RR,
smaller ranks for later tasks (10, from task 4 on 8, from task 8 on 6); KD, a direction that the
old ones span by all but 9e-4 is folded into their magnitudes.

The official code (WuYichen-97/SD-Lora-CL) differs: `form="code"` shares one magnitude among all
weights, and when the next task begins, each starts anew at 0.8 (what the tasks before learned of
it is lost) and the last product is divided by ‖U_k‖ ‖V_k‖, not by its own norm. Its optimiser is
SGD with momentum; here as everywhere AdamW.
"""

from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.methods.method import HEAD_RATES, Group, Method, SiteSettings, TaskInfo, register
from fmlora_lab.methods.starts import STARTS, shares_of_starts


class SDLoRASettings(SiteSettings):
    name: Literal["sd-lora"] = "sd-lora"
    rank: int = Field(default=8, ge=1)
    """Width r of each task's factors."""
    later_ranks: dict[NonNegativeInt, PositiveInt] = Field(default_factory=dict)
    """RR: from this task on (counted from 0) this rank, such as {4: 8, 8: 6}."""
    fold: float | None = Field(default=None, gt=0)
    """KD: fold a direction whose squared distance from the old ones' span is at most this."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of U_t and V_t."""
    lr_magnitudes: float = Field(default=8e-3, gt=0)
    """Learning rate of α; at 1e-3 it hardly moves in a short training."""
    form: Literal["paper", "code"] = "paper"
    """`code`: as released (see above)."""

    @model_validator(mode="after")
    def _no_fold_as_released(self) -> "SDLoRASettings":
        if self.fold is not None and self.form == "code":
            raise ValueError('method.fold needs method.form "paper": the released code has no fold')
        return self


@register(
    SDLoRASettings,
    title="SD-LoRA",
    family="low-rank",
    what="a direction a task, which stays, and magnitudes, which go on learning",
    source="Wu et al. 2025, ICLR, arXiv 2501.13198",
    since="2025-01",
    paper={
        "method.layers": ["attn.q", "attn.v"],
        "method.rank": 10,
        "method.lr": 8e-3,
        "method.lr_magnitudes": 8e-3,
    },
    search={
        **HEAD_RATES,
        "method.lr": (5e-4, 1e-3, 2e-3, 4e-3),
        "method.lr_magnitudes": (1e-3, 8e-3, 3e-2),
        "method.rank": (4, 8, 16),
    },
    search_short={"method.lr": (1e-4, 3e-4, 1e-3)},
    updates="factors",
    ships=STARTS,
    alike=True,
)
class SDLoRA(Method):
    settings: SDLoRASettings

    def __init__(self, settings: SDLoRASettings, model: Tower):
        super().__init__(settings, model)
        self.weights: list[range] = []  # each site's, by their numbers
        self.U, self.V = nn.ParameterList(), nn.ParameterList()
        for site in model.sites:
            parts = 1 if site.rows is None else 3 * site.d_out // site.out_features  # of q, k, v
            self.weights.append(range(len(self.U), len(self.U) + parts))
            for n in self.weights[-1]:  # the old directions, side by side
                self.register_buffer(f"U{n}", torch.zeros(site.d_out // parts, 0))
                self.register_buffer(f"V{n}", torch.zeros(site.d_in, 0))
                self.U.append(torch.zeros(site.d_out // parts, 0))
                self.V.append(torch.zeros(site.d_in, 0))
        self.register_buffer("owner", torch.zeros(0, dtype=torch.long))  # a column's direction
        rows = len(self.U) if settings.form == "paper" else 1
        self.alpha = nn.Parameter(torch.zeros(rows, 0))

    def begin_task(self, task: TaskInfo) -> None:
        begun = [start for start in self.settings.later_ranks if start <= task.index]
        r = self.settings.later_ranks[max(begun)] if begun else self.settings.rank
        for n in range(len(self.U)):
            (d_out, _), (d_in, _) = self.U[n].shape, self.V[n].shape
            draw = torch.randn(d_in, r, generator=task.generator) / d_in**0.5
            self.U[n] = nn.Parameter(self.alpha.new_zeros(d_out, r))
            self.V[n] = nn.Parameter(draw.to(self.alpha))
        self.V_start = [V.detach().clone() for V in self.V]  # drawn again if the task is resumed
        old, begin = self.alpha.detach(), 1.0
        if self.settings.form == "code":
            self._divide_last_direction()
            old, begin = torch.full_like(old, 0.8), 0.8
        self.alpha = nn.Parameter(torch.cat([old, old.new_full((len(old), 1), begin)], dim=1))

    def factors(self, query: Tensor | None = None) -> list[Factors]:
        alpha = self.alpha.expand(len(self.U), -1)
        r = self.U[0].shape[1]  # 0 between tasks
        found = []
        for numbers in self.weights:
            old = [self._old(n) for n in numbers]
            C = [alpha[n, self.owner] for n in numbers] + [alpha[n, -1:].expand(r) for n in numbers]
            U = [blocks([U for U, _ in old]), blocks([self.U[n] for n in numbers])]
            V = [V for _, V in old] + [self.V[n] for n in numbers]
            fixed = len(numbers) * len(self.owner)
            found.append(Factors(torch.cat(U, dim=1), torch.cat(C), torch.cat(V, dim=1), fixed))
        return found

    def groups(self) -> list[Group]:
        magnitudes = Group([self.alpha], self.settings.lr_magnitudes, decay=False)
        return [Group([*self.U, *self.V], self.settings.lr), magnitudes]

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        record, sides = {}, []
        for site, numbers in zip(self.model.sites, self.weights, strict=True):
            record[f"U.{site.name}"] = blocks([self.U[n].clone() for n in numbers])
            record[f"V.{site.name}"] = torch.cat([self.V[n] for n in numbers], dim=1)
            start = torch.cat([self.V_start[n] for n in numbers], dim=1)
            sides.append(((record[f"U.{site.name}"], None), (record[f"V.{site.name}"], start)))
        record |= shares_of_starts(sides)
        record["alpha"] = self.alpha.detach().clone()
        record["folded"] = torch.tensor(self._keep_direction())
        for n in range(len(self.U)):
            self.U[n] = nn.Parameter(self.U[n][:, :0])
            self.V[n] = nn.Parameter(self.V[n][:, :0])
        return record | {"magnitudes": self.alpha.detach().clone()}

    def kept(self) -> int:
        old = [self._old(n) for n in range(len(self.U))]
        return self.alpha.numel() + sum(U.numel() + V.numel() for U, V in old)

    def _old(self, n: int) -> tuple[Tensor, Tensor]:
        """The old directions of a weight, side by side."""
        return getattr(self, f"U{n}"), getattr(self, f"V{n}")

    def _keep_direction(self) -> bool:
        """D_t joins the old directions, or KD folds it into their α; True if it did."""
        number = self.alpha.shape[1] - 1
        D = [U.detach() for U in self.U]
        if self.settings.form == "paper":
            # ‖U Vᵀ‖² = ⟨UᵀU, VᵀV⟩
            squares = [((U.T @ U) * (V.T @ V)).sum() for U, V in zip(D, self.V, strict=True)]
            norm = torch.stack(squares).sqrt().clamp(min=1e-12)
            self.alpha[:, -1] *= norm
            D = [U / length for U, length in zip(D, norm, strict=True)]
        if self.settings.fold is not None and number:
            fits = [self._fit(n, U, self.V[n]) for n, U in enumerate(D)]
            if torch.stack([left for _, left in fits]).mean() <= self.settings.fold:
                shares = torch.stack([share for share, _ in fits])
                self.alpha = nn.Parameter(self.alpha[:, :-1] + self.alpha[:, -1:] * shares)
                return True
        for n, U in enumerate(D):
            old_U, old_V = self._old(n)
            setattr(self, f"U{n}", torch.cat([old_U, U], dim=1))
            setattr(self, f"V{n}", torch.cat([old_V, self.V[n]], dim=1))
        self.owner = torch.cat([self.owner, self.owner.new_full((D[0].shape[1],), number)])
        return False

    @torch.no_grad()
    def _divide_last_direction(self) -> None:
        """Divide by ‖U‖ ‖V‖, as released; twice is as once."""
        last = self.owner == self.alpha.shape[1] - 1
        for n in range(len(self.U)):
            U, V = self._old(n)
            norm = (U[:, last].norm() * V[:, last].norm()).clamp(min=1e-12)
            setattr(self, f"U{n}", torch.where(last, U / norm, U))

    def _fit(self, n: int, U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
        """Least squares of U Vᵀ on the old directions: their shares, the squared distance left."""
        old_U, old_V = self._old(n)
        of = nn.functional.one_hot(self.owner).to(U)  # (k, directions)
        gram = of.T @ ((old_U.T @ old_U) * (old_V.T @ old_V)) @ of
        inner = of.T @ ((old_U.T @ U) * (old_V.T @ V)).sum(1)
        # Old directions may depend on one another at one weight while they differ at the others.
        shares = torch.linalg.pinv(gram.double(), rtol=1e-6, hermitian=True) @ inner.double()
        whole = ((U.T @ U) * (V.T @ V)).sum()
        return shares.to(U), (whole - inner @ shares.to(U)).clamp(min=0)


def blocks(parts: list[Tensor]) -> Tensor:
    """Matrices (o, k) as blocks of a diagonal: each adapts rows of its own with its own V."""
    return parts[0] if len(parts) == 1 else torch.block_diag(*parts)
