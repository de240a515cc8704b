"""Sequential LoRA: one plain low-rank adapter a task, merged into the weight when the task ends.

    W_t = W_{t-1} + U_t V_tᵀ        U (d_out, r) from zero, V (d_in, r) Gaussian, std 1/√d_in

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", eq. 3, with the scale
α/r left at 1. Nothing protects earlier tasks. This page is also the one to copy for a method of
your own: settings, registration, parameters, factors.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.methods.method import HEAD_RATES, Group, Method, SiteSettings, TaskInfo, register
from fmlora_lab.methods.starts import STARTS, shares_of_starts


class LoRASettings(SiteSettings):
    name: Literal["lora"] = "lora"
    rank: int = Field(default=8, ge=1)
    """Width r of each task's adapter."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of U and V."""


@register(
    LoRASettings,
    title="sequential LoRA",
    family="low-rank",
    what="one adapter a task, merged into the weight",
    source="Hu et al. 2021, ICLR 2022, arXiv 2106.09685",
    since="2021-06",
    search={**HEAD_RATES, "method.lr": (5e-4, 1e-3, 2e-3, 4e-3), "method.rank": (4, 8, 16)},
    search_short={"method.lr": (1e-4, 3e-4, 1e-3)},
    updates="factors",
    ships=STARTS,
    alike=True,
)
class LoRA(Method):
    settings: LoRASettings

    def __init__(self, settings: LoRASettings, model: Tower):
        super().__init__(settings, model)
        self.weights = nn.ParameterList(site.weight for site in model.sites)
        self.U = nn.ParameterList(torch.zeros(s.d_out, settings.rank) for s in model.sites)
        self.V = nn.ParameterList(torch.zeros(s.d_in, settings.rank) for s in model.sites)

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        for U, V in zip(self.U, self.V, strict=True):
            U.zero_()
            V.copy_(torch.randn(V.shape, generator=task.generator) / len(V) ** 0.5)
        self.V_start = [V.clone() for V in self.V]  # drawn again if the task is resumed

    def factors(self, query: Tensor | None = None) -> list[Factors]:
        return [Factors(U, None, V) for U, V in zip(self.U, self.V, strict=True)]

    def groups(self) -> list[Group]:
        return [Group([*self.U, *self.V], self.settings.lr)]

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        record = self.merged(self.factors())
        for U in self.U:
            U.zero_()
        return record

    def merged(self, updates: list[Factors]) -> dict[str, Tensor]:
        """Sum every site's U Vᵀ into its weight; returns what the analysis of updates reads."""
        moved = zip(updates, self.V_start, strict=True)
        record = shares_of_starts(((u.U, None), (u.V, start)) for u, start in moved)
        for site, update in zip(self.model.sites, updates, strict=True):
            record |= {f"U.{site.name}": update.U.clone(), f"V.{site.name}": update.V.clone()}
            site.weight += site.full_rows(update).dense()
        return record
