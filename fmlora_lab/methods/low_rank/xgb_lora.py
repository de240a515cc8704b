"""XGBLoRA: a task's update is a sum of rank-1 boosters, each merged before the next begins.

    every κ steps:   W ← W + α u_b v_bᵀ          at a random share of the sites, α = 1; then b + 1
    L_b = L_task + λ Σ (‖u_b‖² + ‖v_b‖²)         u_b from zero, v_b Gaussian with std 1/√d_in

Source: Zhang et al. 2024, "Less is More: Extreme Gradient Boost Rank-1 Adaption for Efficient
Finetuning of LLMs", arXiv 2410.19694, eq. 7 and 8. Each booster trains against what the weights say
by then, as gradient boosting does with residuals; T of them have rank T together and cost what one
of rank 1 costs to train.

Published: made for one task of language. A booster is trained for κ steps on L_s random layers,
11 of the 32 of LLaMA3-8B on MMLU, at rank 1, which was best; α = 1. κ, rates and λ were not to be
had, nor code of the authors.

Ours: new boosters for each task, the last one merged with as many steps as are left for it. Epochs
and images are those of every method, and so is the one rate that falls to zero along a task: later
boosters learn less, while the head, which boosting leaves alone, goes on through all of them. A new
booster has no memory in the optimiser. Sites are drawn one by one, about a third of them, since 11
of 32 is that. Of eq. 7 only the words are known: the plainest norm penalty, on the present booster.
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
    Stage,
    StepBatch,
    TaskInfo,
    register,
)
from fmlora_lab.methods.starts import STARTS, shares_of_starts


class XGBLoRASettings(SiteSettings):
    name: Literal["xgb-lora"] = "xgb-lora"
    steps: int = Field(default=12, ge=1)
    """κ, the steps that a booster is trained for."""
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
        "method.steps": (6, 12, 24),
        "method.share": (1 / 3, 2 / 3, 1.0),
    },
    search_short={"method.lr": (1e-4, 3e-4, 1e-3)},
    updates="factors",
    ships=STARTS,
)
class XGBLoRA(Method):
    settings: XGBLoRASettings
    chosen: Tensor
    taken: Tensor

    def __init__(self, settings: XGBLoRASettings, model: Tower):
        super().__init__(settings, model)
        self.weights = nn.ParameterList(site.weight for site in model.sites)
        self.u = nn.ParameterList(torch.zeros(s.d_out, 1) for s in model.sites)
        self.v = nn.ParameterList(torch.zeros(s.d_in, 1) for s in model.sites)
        self.register_buffer("chosen", torch.zeros(len(model.sites), dtype=torch.bool))
        self.register_buffer("taken", torch.tensor(0))
        # Both are read where a stage begins, so that no step waits for the device.
        self.adapted: list[int] = []
        self.steps, self.recalled, self.fresh = 0, True, False
        self._forget()

    def begin_task(self, task: TaskInfo) -> None:
        self._forget()
        self._begin_booster(task.generator)

    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        self.recalled = False  # on resuming, the stopped run's state comes after this

    def on_step(self, generator: torch.Generator) -> None:
        if not self.recalled:
            self.steps, self.recalled = int(self.taken), True
            self.adapted = self.chosen.nonzero().flatten().tolist()
        self.fresh = self.steps == self.settings.steps
        if self.fresh:
            self._merge()
            self._begin_booster(generator)

    def step(self, batch: StepBatch) -> Tensor:
        if self.fresh and batch.optimizer is not None:
            for p in (*self.u, *self.v):
                batch.optimizer.state.pop(p, None)
        loss = super().step(batch)
        self.steps += 1
        self.taken += 1
        return loss

    def factors(self, query: Tensor | None = None) -> list[Factors | None]:
        found: list[Factors | None] = [None] * len(self.u)
        for s in self.adapted:
            found[s] = Factors(self.u[s], None, self.v[s])
        return found

    def groups(self) -> list[Group]:
        return [Group([*self.u, *self.v], self.settings.lr)]  # those without a gradient stay

    def trained(self) -> int:
        return sum(self.u[s].numel() + self.v[s].numel() for s in self.adapted)

    def loss(self, batch: Batch) -> Tensor:
        booster = torch.cat([side[s].flatten() for side in (self.u, self.v) for s in self.adapted])
        return super().loss(batch) + self.settings.norm * booster.square().sum()

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        self._merge()
        sums = [[getattr(self, f"{n}{s}") for n in ("U", "V", "start")] for s in range(len(self.u))]
        record = shares_of_starts(((U, None), (V, start)) for U, V, start in sums)
        for site, (U, V, _) in zip(self.model.sites, sums, strict=True):
            record |= {f"U.{site.name}": U, f"V.{site.name}": V}
        self._forget()
        return record

    @torch.no_grad()
    def _begin_booster(self, generator: torch.Generator) -> None:
        S = len(self.v)
        number = max(1, round(self.settings.share * S))
        self.adapted = torch.randperm(S, generator=generator)[:number].sort().values.tolist()
        self.chosen.fill_(False)
        self.chosen[self.adapted] = True
        self.steps = 0
        self.taken.zero_()
        for s in self.adapted:
            draw = torch.randn(self.v[s].shape, generator=generator)
            self.u[s].zero_()
            self.v[s].copy_(draw / len(draw) ** 0.5)
            setattr(self, f"begun{s}", self.v[s].detach().clone())

    @torch.no_grad()
    def _merge(self) -> None:
        """Sum the booster into the weights; its columns join the task's."""
        for s in self.adapted:
            site, u, v = self.model.sites[s], self.u[s], self.v[s]
            site.weight += site.full_rows(Factors(u, None, v)).dense()  # α = 1
            for name, column in (("U", u), ("V", v), ("start", getattr(self, f"begun{s}"))):
                columns = torch.cat([getattr(self, f"{name}{s}"), column.detach()], dim=1)
                setattr(self, f"{name}{s}", columns)
            u.zero_()
        self.adapted = []
        self.chosen.fill_(False)

    def _forget(self) -> None:
        """Begin a task's sums, the boosters' columns side by side, which are for its record."""
        for s, (u, v) in enumerate(zip(self.u, self.v, strict=True)):
            for name, like in (("U", u), ("V", v), ("start", v)):
                self.register_buffer(f"{name}{s}", like.detach().new_zeros(len(like), 0))
            self.register_buffer(f"begun{s}", torch.zeros_like(v.detach()))
