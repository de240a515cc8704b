"""XGBLoRA: a task's update is a sum of rank-1 boosters, each merged before the next begins.

    for b = 1 … T:   W ← W + α u_b v_bᵀ          at a random share of the sites, α = 1
    L_b = L_task + λ Σ (‖u_b‖² + ‖v_b‖²)         u_b from zero, v_b Gaussian with std 1/√d_in

Source: Zhang et al. 2024, "Less is More: Extreme Gradient Boost Rank-1 Adaption for Efficient
Finetuning of LLMs", arXiv 2410.19694, eq. 7 and 8. Each booster trains against what the weights say
by then, as gradient boosting does with residuals; T of them have rank T together and cost what one
of rank 1 costs to train.

Published: made for one task of language. A booster is trained for κ steps on L_s random layers,
11 of the 32 of LLaMA3-8B on MMLU, at rank 1, which was best; α = 1. κ, rates and λ were not to be
had, nor code of the authors.

Ours: new boosters for each task, merged into the weight as everything before. They share the
task's epochs evenly, the first ones with one more where that does not come out, so κ is a number
of whole epochs and every method sees the same images; there are never more boosters than epochs.
Each is a training of its own with a fresh optimiser and a rate that falls to zero, for the head
too, whose rows go on. Sites are drawn one by one, about a third of them, since L_s of 32 is that.
Of eq. 7 only the words are known: the plainest norm penalty, on the present booster.
"""

from collections.abc import Iterator
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
    Stage,
    StageEnd,
    TaskInfo,
    register,
)
from fmlora_lab.methods.starts import STARTS, shares_of_starts


class XGBLoRASettings(SiteSettings):
    name: Literal["xgb-lora"] = "xgb-lora"
    boosters: int = Field(default=4, ge=1)
    """T, the boosters of a task; at most as many as it has epochs."""
    share: float = Field(default=1 / 3, gt=0, le=1)
    """Share of the sites that a booster adapts, drawn anew for each; one site at least."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of u and v."""
    norm: float = Field(default=1e-4, ge=0)
    """λ, the weight of the squared norms."""


@register(
    XGBLoRASettings,
    title="XGBLoRA",
    family="low-rank",
    what="rank-1 boosters on random layers, merged one after another",
    source="Zhang et al. 2024, arXiv 2410.19694",
    since="2024-10",
    search={
        **HEAD_RATES,
        "method.lr": (5e-4, 1e-3, 2e-3, 4e-3),
        "method.boosters": (2, 4, 8),
        "method.share": (1 / 3, 2 / 3, 1.0),
    },
    search_short={"method.lr": (1e-4, 3e-4, 1e-3)},
    updates="factors",
    ships=STARTS,
)
class XGBLoRA(Method):
    settings: XGBLoRASettings

    def __init__(self, settings: XGBLoRASettings, model: Tower):
        super().__init__(settings, model)
        self.weights = nn.ParameterList(site.weight for site in model.sites)
        self.u = nn.ParameterList(torch.zeros(s.d_out, 1) for s in model.sites)
        self.v = nn.ParameterList(torch.zeros(s.d_in, 1) for s in model.sites)
        self.chosen: list[int] = []  # sites of the present booster; drawn again on resuming
        self._forget()

    def begin_task(self, task: TaskInfo) -> None:
        self._forget()

    def stages(self, epochs: int) -> Iterator[Stage]:
        T = min(self.settings.boosters, epochs)
        for b in range(T):
            name = "train" if b == 0 else f"booster {b + 1}"
            yield Stage(name, epochs // T + (b < epochs % T))

    @torch.no_grad()
    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        S = len(self.v)
        number = max(1, round(self.settings.share * S))
        self.chosen = torch.randperm(S, generator=generator)[:number].sort().values.tolist()
        for s in self.chosen:
            self.u[s].zero_()
            draw = torch.randn(self.v[s].shape, generator=generator)
            self.v[s].copy_(draw / len(draw) ** 0.5)
        self.start = {s: self.v[s].detach().clone() for s in self.chosen}

    def factors(self, query: Tensor | None = None) -> list[Factors | None]:
        found: list[Factors | None] = [None] * len(self.u)
        for s in self.chosen:
            found[s] = Factors(self.u[s], None, self.v[s])
        return found

    def groups(self) -> list[Group]:
        return [Group([p[s] for p in (self.u, self.v) for s in self.chosen], self.settings.lr)]

    def loss(self, batch: Batch) -> Tensor:
        booster = torch.cat([p[s].flatten() for p in (self.u, self.v) for s in self.chosen])
        return super().loss(batch) + self.settings.norm * booster.square().sum()

    @torch.no_grad()
    def end_stage(self, stage: Stage, end: StageEnd) -> None:
        for s in self.chosen:
            site, u, v = self.model.sites[s], self.u[s], self.v[s]
            site.weight += site.full_rows(Factors(u, None, v)).dense()  # α = 1
            for name, column in (("U", u), ("V", v), ("start", self.start[s])):
                columns = torch.cat([getattr(self, f"{name}{s}"), column.detach()], dim=1)
                setattr(self, f"{name}{s}", columns)
            u.zero_()
        self.chosen = []

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        sums = [[getattr(self, f"{n}{s}") for n in ("U", "V", "start")] for s in range(len(self.u))]
        record = shares_of_starts(((U, None), (V, start)) for U, V, start in sums)
        for site, (U, V, _) in zip(self.model.sites, sums, strict=True):
            record |= {f"U.{site.name}": U, f"V.{site.name}": V}
        self._forget()
        return record

    def _forget(self) -> None:
        """Begin the sums of a task, the boosters' columns side by side, for its record alone."""
        for s, (u, v) in enumerate(zip(self.u, self.v, strict=True)):
            for name, like in (("U", u), ("V", v), ("start", v)):
                self.register_buffer(f"{name}{s}", like.detach().new_zeros(len(like), 0))
