"""DRS, the dynamic rank selector (docs/method.md, section 3).

    p(r | T_t) = softmax_r( score_r )        r_t = argmax_r score_r

    "paper":       score_r = w_r · H / τ
    "calibrated":  score_r = ( w_r · H − λ · r / r_max ) / τ

H > 0, so the argmax of the paper's form is argmax_r w_r whatever H is: the chosen rank cannot
depend on the task unless w changes. The calibrated form adds a cost λ of capacity, and a harder
task then gets a larger rank. Shape letters: n choices at once, c candidates.
"""

import itertools
import math
from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field, field_validator
from torch import Tensor, nn

from fmlora_lab.backbone.device import onto
from fmlora_lab.config import Settings
from fmlora_lab.methods.fm_lora.scores import scores


class DRSSettings(Settings):
    enabled: bool = True
    """False: every task gets the fixed `method.rank`."""
    form: Literal["calibrated", "paper"] = "calibrated"
    candidates: tuple[int, ...] = Field(default=(2, 4, 8, 16), min_length=1)
    """Task ranks to choose from, rising; those above R are left out."""
    tau: float = Field(default=1.0, gt=0)
    """Temperature of the choice."""
    tau_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on τ after each task (1: no annealing)."""
    cost: float | None = Field(default=None, ge=0)
    """λ; by default set once, so that the first task's H lies on the border of the two middle
    candidates."""
    learn_w: bool = True
    """Whether w learns through Gumbel-Softmax during the preliminary epoch."""
    lr: float = Field(default=1e-2, gt=0)
    """Learning rate of w."""
    per_site: bool = False
    """One choice a site instead of one a task."""
    hold_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of the task's training images on which H is measured."""
    estimates: bool = False
    """Also measure what might stand in for the preliminary epoch (`estimates.py`)."""
    keep_warmup: bool = False
    """Keep the first r_t columns, prompts and head of the preliminary epoch; else start anew."""

    @field_validator("candidates")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value[0] < 1 or any(a >= b for a, b in itertools.pairwise(value)):
            raise ValueError("candidates are whole numbers from 1, each larger than the last")
        return value


def gumbel_softmax(
    logits: Float[Tensor, "... c"], tau: float | Float[Tensor, ""], generator: torch.Generator
) -> Float[Tensor, "... c"]:
    """One-hot draws whose gradient is that of softmax((logits + Gumbel noise) / τ).

    Jang et al. 2017, straight-through; the noise comes from `generator`.
    """
    uniform = torch.rand(logits.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
    uniform = onto(logits.device, uniform).to(logits.dtype)
    soft = ((logits - uniform.log().neg().log()) / tau).softmax(-1)
    hard = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
    return hard + (soft - soft.detach())


class RankSelector(nn.Module):
    """Scores, draws and choices, for `n` choices at once (1, or one a site).

    In the calibrated form w rises and is concave in r: positive slopes per unit of rank that do
    not increase (sums of softplus), anchored at the smallest candidate's w. Both forms start from
    w_r = log2(1 + r / r_min).
    """

    ranks: Tensor
    anchor: Tensor
    cost: Tensor
    cost_is_set: Tensor
    tau: Tensor
    loss_sum: Tensor

    def __init__(self, settings: DRSSettings, basis_rank: int, n: int):
        super().__init__()
        self.settings = settings
        candidates = [r for r in settings.candidates if r <= basis_rank] or [basis_rank]
        self.r_max = candidates[-1]
        self.register_buffer("ranks", torch.tensor([float(r) for r in candidates]))
        start = torch.log2(1 + self.ranks / self.ranks[0])
        self.register_buffer("anchor", start[:1].clone())
        if settings.form == "paper":
            theta = start
        else:
            slopes = start.diff() / self.ranks.diff()
            theta = inverse_softplus(slopes - torch.cat([slopes[1:], slopes.new_zeros(1)]))
        self.theta = nn.Parameter(theta.repeat(n, 1), requires_grad=settings.learn_w)
        self.register_buffer("cost", torch.tensor(settings.cost or 0.0))
        self.register_buffer("cost_is_set", torch.tensor(settings.cost is not None))
        self.register_buffer("tau", torch.tensor(settings.tau))
        self.register_buffer("loss_sum", torch.zeros(2))

    def w(self) -> Float[Tensor, "n c"]:
        if self.settings.form == "paper":
            return self.theta
        slopes = nn.functional.softplus(self.theta).flip(-1).cumsum(-1).flip(-1)
        rise = (slopes * self.ranks.diff()).cumsum(-1)
        return torch.cat([self.anchor.expand(len(rise), 1), self.anchor + rise], dim=-1)

    def complexity(self, loss: float | Float[Tensor, ""], n_classes: int) -> Float[Tensor, ""]:
        """H of a mean loss: the loss itself (paper), or divided by ln K (calibrated)."""
        scale = 1.0 if self.settings.form == "paper" else math.log(max(n_classes, 2))
        return torch.as_tensor(loss).to(self.ranks) / scale

    def scores(self, H: Float[Tensor, ""]) -> Float[Tensor, "n c"]:
        """score_r at the selector's present w, λ and τ."""
        cost = 0.0 if self.settings.form == "paper" else self.cost
        return scores(H, self.w(), self.ranks, self.tau, cost)

    def begin_task(self) -> None:
        self.loss_sum.zero_()

    def observe(self, loss: Float[Tensor, ""]) -> None:
        """Take a training loss into the running estimate of H."""
        self.loss_sum += torch.stack([loss.detach(), torch.ones_like(loss)]).to(self.loss_sum)

    def draw(self, n_classes: int, generator: torch.Generator) -> Float[Tensor, "n {self.r_max}"]:
        """Column weights s of one nested-rank step: s_j = Σ_{r ≥ j} g_r.

        Column j is used exactly when the drawn rank is at least j. Before the first loss is
        known, H is 1 in units of ln K.
        """
        total, n = self.loss_sum
        loss = torch.where(n > 0, total / n, math.log(max(n_classes, 2)))
        H = self.complexity(loss, n_classes)
        g = gumbel_softmax(self.scores(H), self.tau, generator)
        uses_column = torch.arange(self.r_max, device=g.device) < self.ranks[:, None]  # (c, r_max)
        return g @ uses_column.to(g)

    @torch.no_grad()
    def choose(self, H: Float[Tensor, ""]) -> tuple[Int64[Tensor, "n"], Float[Tensor, "n c"]]:
        """Chosen ranks and probabilities at complexity H, without noise.

        The first call with H > 0 sets λ where the settings left it open: the border between the
        two middle candidates a < b lies at H = λ (b − a) / (r_max (w_b − w_a)), and of the two the
        smaller is chosen. A first task of a single class has H = 0, which says nothing of what is
        hard.
        """
        sets_cost = bool(not self.cost_is_set and H > 0 and len(self.ranks) > 1)
        a = (len(self.ranks) - 1) // 2
        if sets_cost:
            w = self.w().mean(0)
            rise = (w[a + 1] - w[a]) / (self.ranks[a + 1] - self.ranks[a])
            self.cost.copy_(H * rise * self.ranks[-1])
            self.cost_is_set.fill_(True)
        score = self.scores(H)
        best = score.argmax(-1)
        if sets_cost:  # H lies on that border, where rounding would choose
            level = torch.isclose(score[:, a], score[:, a + 1]) & (best == a + 1)
            best[level] = a
        return self.ranks[best].long(), score.softmax(-1)

    def end_task(self) -> None:
        self.tau.mul_(self.settings.tau_decay)


def inverse_softplus(y: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """x with softplus(x) = y, for y > 0."""
    return y + torch.log(-torch.expm1(-y))
