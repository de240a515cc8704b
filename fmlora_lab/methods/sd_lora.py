"""SD-LoRA: a task's update is a direction, which stays, and a magnitude, which goes on learning.

    W_t = W0 + Σ_{k≤t} α_k D_k,   D_k = U_k V_kᵀ / ‖U_k V_kᵀ‖_F        trained: α_1 … α_t, U_t, V_t

Source: Wu et al. 2025, "SD-LoRA: Scalable Decoupled Low-Rank Adaptation for Class Incremental
Learning", ICLR, arXiv 2501.13198. The present task's product is divided by its norm only when the
task ends, and its magnitude multiplied by it, so that U_t may begin at zero and nothing that the
model computes changes; hence one magnitude a site and direction.

Published: q and v of all blocks, rank 10, Adam 8e-3, batch 128, 10 to 30 epochs. Variants: RR,
smaller ranks for later tasks (10, from task 4 on 8, from task 8 on 6); KD, a direction that the
old ones span by all but 9e-4 is folded into their magnitudes.

The official code (WuYichen-97/SD-Lora-CL) differs: `form="code"` shares one magnitude among all
sites, begins each anew at 0.8 in every task (what the earlier tasks learned of them is lost) and
divides by ‖U_k‖ ‖V_k‖, not by the product's norm. Its optimiser is SGD with momentum; here as
everywhere AdamW.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.vit import AdaptedViT
from fmlora_lab.methods.method import Group, Method, SiteSettings, TaskInfo, register


class SDLoRASettings(SiteSettings):
    name: Literal["sd-lora"] = "sd-lora"
    rank: int = Field(8, ge=1)
    """Width r of each task's factors."""
    later_ranks: dict[int, int] = Field(default_factory=dict)
    """RR: from this task on (counted from 0) this rank, such as {4: 8, 8: 6}."""
    fold: float | None = Field(None, gt=0)
    """KD: fold a direction whose squared distance from the old ones' span is at most this."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of U_t and V_t."""
    lr_magnitudes: float = Field(1e-3, gt=0)
    """Learning rate of α."""
    form: Literal["paper", "code"] = "paper"
    """`code`: as released (see above)."""


@register(SDLoRASettings)
class SDLoRA(Method):
    settings: SDLoRASettings
    published: ClassVar = {
        "method.layers": ["attn.q", "attn.v"],
        "method.rank": 10,
        "method.lr": 8e-3,
        "method.lr_magnitudes": 8e-3,
    }

    def __init__(self, settings: SDLoRASettings, model: AdaptedViT):
        super().__init__(settings, model)
        for s, site in enumerate(model.sites):  # the old directions, side by side
            self.register_buffer(f"U{s}", torch.zeros(site.d_out, 0))
            self.register_buffer(f"V{s}", torch.zeros(site.d_in, 0))
        self.register_buffer("owner", torch.zeros(0, dtype=torch.long))  # a column's direction
        rows = len(model.sites) if settings.form == "paper" else 1
        self.alpha = nn.Parameter(torch.zeros(rows, 0))
        self.U, self.V = nn.ParameterList(), nn.ParameterList()
        for site in model.sites:
            self.U.append(torch.zeros(site.d_out, 0))
            self.V.append(torch.zeros(site.d_in, 0))

    def begin_task(self, task: TaskInfo) -> None:
        later = [rank for start, rank in sorted(self.settings.later_ranks.items())]
        starts = [start for start in self.settings.later_ranks if start <= task.index]
        r = later[len(starts) - 1] if starts else self.settings.rank
        for s, site in enumerate(self.model.sites):
            draw = torch.randn(site.d_in, r, generator=task.generator) / site.d_in**0.5
            self.U[s] = nn.Parameter(self.alpha.new_zeros(site.d_out, r))
            self.V[s] = nn.Parameter(draw.to(self.alpha))
        old, begin = self.alpha.detach(), 1.0
        if self.settings.form == "code":
            old, begin = torch.full_like(old, 0.8), 0.8
        self.alpha = nn.Parameter(torch.cat([old, old.new_full((len(old), 1), begin)], dim=1))

    def factors(self) -> list[Factors]:
        r = self.U[0].shape[1]
        if r == 0:  # between tasks
            return [Factors(U, self._scale(s), V) for s, (U, V) in enumerate(self._old())]
        found = []
        for s, (U, V) in enumerate(self._old()):
            C = torch.cat([self._scale(s), self.alpha[s % len(self.alpha), -1:].expand(r)])
            U, V = torch.cat([U, self.U[s]], dim=1), torch.cat([V, self.V[s]], dim=1)
            found.append(Factors(U, C, V, fixed=len(self.owner)))
        return found

    def groups(self) -> list[Group]:
        magnitudes = Group([self.alpha], self.settings.lr_magnitudes, decay=False)
        return [Group([*self.U, *self.V], self.settings.lr), magnitudes]

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        record = {}
        for site, U, V in zip(self.model.sites, self.U, self.V, strict=True):
            record |= {f"U.{site.name}": U.clone(), f"V.{site.name}": V.clone()}
        record["alpha"] = self.alpha.detach().clone()
        record["folded"] = torch.tensor(self._keep_direction())
        for s in range(len(self.model.sites)):
            self.U[s] = nn.Parameter(self.U[s][:, :0])
            self.V[s] = nn.Parameter(self.V[s][:, :0])
        return record | {"magnitudes": self.alpha.detach().clone()}

    def kept(self) -> int:
        return self.alpha.numel() + sum(U.numel() + V.numel() for U, V in self._old())

    def _old(self) -> list[tuple[Tensor, Tensor]]:
        return [(getattr(self, f"U{s}"), getattr(self, f"V{s}")) for s in range(len(self.U))]

    def _scale(self, s: int) -> Tensor:
        """α of each old column at a site, (k,)."""
        return self.alpha[s % len(self.alpha), self.owner]

    def _keep_direction(self) -> bool:
        """D_t joins the old directions, or KD folds it into their α; True if it did."""
        norms, number = [], self.alpha.shape[1] - 1
        for U, V in zip(self.U, self.V, strict=True):
            if self.settings.form == "code":
                norms.append((U.norm() * V.norm()).clamp(min=1e-12))
            else:  # ‖U Vᵀ‖² = ⟨UᵀU, VᵀV⟩
                norms.append(((U.T @ U) * (V.T @ V)).sum().sqrt().clamp(min=1e-12))
        norm = torch.stack(norms)
        if self.settings.form == "paper":
            self.alpha[:, -1] *= norm
        if self.settings.fold is not None and number:
            fits = [self._fit(s, self.U[s] / norm[s], self.V[s]) for s in range(len(norm))]
            if torch.stack([left for _, left in fits]).mean() <= self.settings.fold:
                shares = torch.stack([share for share, _ in fits])
                if len(self.alpha) == 1:
                    shares = shares.mean(0, keepdim=True)
                old = self.alpha[:, :-1] + self.alpha[:, -1:] * shares
                self.alpha = nn.Parameter(old)
                return True
        for s, (U, V) in enumerate(self._old()):
            setattr(self, f"U{s}", torch.cat([U, self.U[s] / norm[s]], dim=1))
            setattr(self, f"V{s}", torch.cat([V, self.V[s]], dim=1))
        self.owner = torch.cat([self.owner, self.owner.new_full((self.U[0].shape[1],), number)])
        return False

    def _fit(self, s: int, U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
        """Least squares of U Vᵀ on the old directions: their shares, the squared distance left."""
        old_U, old_V = getattr(self, f"U{s}"), getattr(self, f"V{s}")
        of = nn.functional.one_hot(self.owner).to(U)  # (k, directions)
        gram = of.T @ ((old_U.T @ old_U) * (old_V.T @ old_V)) @ of
        inner = of.T @ ((old_U.T @ U) * (old_V.T @ V)).sum(1)
        shares = torch.linalg.lstsq(gram.double(), inner[:, None].double()).solution[:, 0]
        whole = ((U.T @ U) * (V.T @ V)).sum()
        return shares.to(U), (whole - inner @ shares.to(U)).clamp(min=0)
