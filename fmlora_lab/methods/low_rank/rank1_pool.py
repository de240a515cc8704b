"""Rank-1 Expert Pool (Fa et al., AAAI 2026, arXiv 2601.22828): one LoRA a site as a pool of rank-1
experts, of which each batch uses some and each task merges the most used.

    ΔW = 1/r Σ_{i∈S} u_i v_iᵀ          in training, S of the batch; U (d_out, r) from zero
    s = softmax(W_r x_cls + b_r)       an image's scores of the r experts, from [CLS] at the site
    S = the `top` experts that most images of the batch have among their own `top`
    W_t = W_{t-1} + 1/r Σ_{i∈M} u_i v_iᵀ    M: the `merged` experts most used over the task
    loss = CE + ago · mean over sites of Σ |U_M,tᵀ U_past|           (AGO, from task 2 on)

U_past (d_out, merged · t) are the most used columns of all earlier tasks, kept for this loss alone;
U_M,t are those of the present task, by its counts so far, the batch at hand included. A task's
pool, router and counts start anew; nothing of them is left at inference.

Source: Fa, Duan, Zhang, Qi, Yang and Shi 2026, "Decomposing and Composing: Towards Efficient
Vision-Language Continual Learning via Rank-1 Expert Pool in a Single LoRA", AAAI, as released
(Fazhan-cs/DAC at 38be3b5). There the scores only choose and weigh nothing, so that no gradient
reaches a router, and AdamW passes over what has none, weight decay included: a router stays as it
is drawn. That is `router="published"`; what it is made of is not counted as trained.

Published: both encoders of CLIP ViT-B/16, q, k, v, output and both layers of the MLP, r 12, top 8,
merged 4, ago 0.1, AdamW 2e-3, weight decay 0.01, batch 32, 500 steps a task of 5 images a class,
LoRA dropout 0.2; eleven data sets one after another. AGO's form here is the released code's, a sum
of absolute values at each layer and a mean over layers; the paper's, as reported, is the mean over
all pairs without absolute values. The code means to keep the 4 most used columns of earlier tasks
too, but looks for their counts where they are not and takes all 12.

Ours: the vision form, on cross-entropy instead of CLIP's contrastive loss; q, k and v are one site
with one pool. Past columns are the most used ones, as the paper says. There is no dropout (in the
code it also reaches what the router reads). Among equal counts the earlier expert comes first. In
evaluation, before the merge as after it, the update is that of M by the counts so far: what would
be merged now. `router="fixed"` uses the same `top` experts for every batch; as the pool is drawn
at random, its first ones are a random choice. `router="learned"` is straight-through: S is as above
in the forward pass, and the gradient of expert i's weight goes to the mean over the batch of
softmax(s / temperature)_i as if the weight were that.
"""

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
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


class Rank1PoolSettings(SiteSettings):
    name: Literal["rank1-pool"] = "rank1-pool"
    rank: int = Field(default=12, ge=1)
    """Experts r in a site's pool."""
    top: int = Field(default=8, ge=1)
    """Experts that an image votes for, and that a batch uses."""
    merged: int = Field(default=4, ge=1)
    """Experts that stay of a task: the most used ones."""
    ago: float = Field(default=0.1, ge=0)
    """Weight of the loss that keeps used columns orthogonal to those of earlier tasks."""
    router: Literal["published", "fixed", "learned"] = "published"
    """Who chooses: scores that get no gradient, nobody, or scores that learn (see above)."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the softmax that a learned router's gradient goes through."""
    lr: float = Field(default=1e-2, gt=0)
    """Learning rate of U, V and a router that learns."""

    @model_validator(mode="after")
    def _fewer_and_fewer(self) -> "Rank1PoolSettings":
        if not self.merged <= self.top <= self.rank:
            raise ValueError(
                "method.merged ≤ method.top ≤ method.rank is needed, and they are "
                f"{self.merged}, {self.top} and {self.rank}"
            )
        return self


@register(
    Rank1PoolSettings,
    title="Rank-1 Expert Pool",
    family="low-rank",
    what="a pool of rank-1 experts a task, of which the most used are merged",
    source="Fa et al. 2026, AAAI, arXiv 2601.22828",
    since="2026-01",
    paper={
        "method.rank": 12,
        "method.top": 8,
        "method.merged": 4,
        "method.ago": 0.1,
        "method.lr": 2e-3,
    },
    search={
        **HEAD_RATES,
        "method.lr": (5e-3, 1e-2, 2e-2, 4e-2),
        "method.merged": (2, 4, 8),
        "method.ago": (0.01, 0.1, 1.0),
    },
    search_short={"method.lr": (1e-3, 3e-3, 1e-2)},
    updates="factors",
    ships=(*STARTS, "counts"),
    alike=True,
)
class Rank1Pool(Method):
    settings: Rank1PoolSettings
    counts: Int64[Tensor, "sites r"]

    def __init__(self, settings: Rank1PoolSettings, model: Tower):
        super().__init__(settings, model)
        r, sites = settings.rank, model.sites
        self.weights = nn.ParameterList(site.weight for site in sites)
        self.U = nn.ParameterList(torch.zeros(s.d_out, r) for s in sites)
        self.V = nn.ParameterList(torch.zeros(s.d_in, r) for s in sites)
        self.routers = nn.ModuleList()
        if settings.router != "fixed":
            self.routers.extend(nn.utils.skip_init(nn.Linear, s.d_in, r) for s in sites)
        for n, site in enumerate(sites):
            self.register_buffer(f"past{n}", torch.zeros(site.d_out, 0))
        self.register_buffer("counts", torch.zeros(len(sites), r, dtype=torch.long))

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        self.counts.zero_()
        for U, V in zip(self.U, self.V, strict=True):
            U.zero_()
            V.copy_(uniform(V, len(V), task.generator))
        for router, V in zip(self.routers, self.V, strict=False):
            for parameter in router.parameters():
                parameter.copy_(uniform(parameter, len(V), task.generator))
        self.V_start = [V.clone() for V in self.V]  # drawn again if the task is resumed

    def factors(self, query: Tensor | None = None) -> list[Factors]:
        sites, r = enumerate(zip(self.U, self.V, strict=True)), self.settings.rank
        if self.training:
            return [Factors(U, None, V, columns=partial(self._composed, n)) for n, (U, V) in sites]
        used = self._most_used()
        return [Factors(U[:, used[n]] / r, None, V[:, used[n]]) for n, (U, V) in sites]

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        return loss + self.settings.ago * self.overlap() if self._past(0).shape[1] else loss

    def overlap(self) -> Float[Tensor, ""]:
        """AGO: Σ |U_Mᵀ U_past| of the columns most used so far, the mean over sites."""
        used = self._most_used()
        found = [(U[:, used[n]].T @ self._past(n)).abs().sum() for n, U in enumerate(self.U)]
        return torch.stack(found).mean()

    def groups(self) -> list[Group]:
        learned = self.routers.parameters() if self.settings.router == "learned" else ()
        return [Group([*self.U, *self.V, *learned], self.settings.lr)]

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        updates, used = self.factors(), self._most_used()
        starts = zip(updates, self.V_start, strict=True)
        record = shares_of_starts(((u.U, None), (u.V, start)) for u, start in starts)
        record["counts"] = self.counts.clone()
        for n, (site, update) in enumerate(zip(self.model.sites, updates, strict=True)):
            record |= {f"U.{site.name}": update.U.clone(), f"V.{site.name}": update.V.clone()}
            site.weight += site.full_rows(update).dense()
            if self.settings.ago:
                columns = [self._past(n), self.U[n][:, used[n]]]
                setattr(self, f"past{n}", torch.cat(columns, dim=1))
            self.U[n].zero_()
        return record

    def kept(self) -> int:
        return sum(self._past(n).numel() for n in range(len(self.U)))

    def _past(self, n: int) -> Tensor:
        """The most used columns (d_out, merged · t) of earlier tasks at site n."""
        return getattr(self, f"past{n}")

    def _most_used(self) -> Int64[Tensor, "sites merged"]:
        return most(self.counts, self.settings.merged)

    def _composed(self, n: int, x: Float[Tensor, "B tokens i"]) -> Float[Tensor, "r"]:
        """What the batch chooses at site n by its inputs: 1/r for each expert in use, else 0."""
        r, top = self.settings.rank, self.settings.top
        if self.settings.router == "fixed":
            return F.pad(self.U[n].new_full((top,), 1 / r), (0, r - top))
        scores = self.whole(self.routers[n](x[:, 0].to(self.U[n])).to(self.U[n]))
        votes = torch.zeros_like(scores).scatter_(1, scores.topk(top).indices, 1).sum(0).long()
        self.counts[n] += votes
        chosen = torch.zeros_like(self.U[n][0]).index_fill(0, most(votes, top), 1)
        if self.settings.router == "learned":
            soft = F.softmax(scores / self.settings.temperature, dim=-1).mean(0)
            chosen = chosen + soft - soft.detach()  # straight-through
        return chosen / r


def most(counts: Int64[Tensor, "... r"], k: int) -> Int64[Tensor, "... k"]:
    """The k experts of the highest counts, of equal ones the earlier first, on every device."""
    return counts.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def uniform(like: Tensor, d_in: int, generator: torch.Generator) -> Tensor:
    """A draw from ±1/√d_in, as PyTorch begins a linear layer and LoRA its down-projection."""
    return ((2 * torch.rand(like.shape, generator=generator) - 1) / d_in**0.5).to(like)
