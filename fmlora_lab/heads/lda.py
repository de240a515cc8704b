"""LDA: Gaussian classes with one shared covariance.

    Σ = (1 − s) S / (n − K) + s mean(diag) I       score_k = w_k · f + b_k
    w_k = Σ⁻¹ μ_k                                   b_k = −½ μ_kᵀ Σ⁻¹ μ_k

S is the scatter of features (at length 1) about their class means, pooled over all n images of all
K classes so far. Source: streaming LDA, Hayes and Kanan, CVPR workshops 2020, arXiv 1909.01520,
there with s = 1e-4 added to a running covariance; here s has the least leave-one-out
log-loss on the features of the task that ended. It keeps K d sums, K counts and one d × d moment.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from fmlora_lab.config import Heads
from fmlora_lab.heads.drift import Drift
from fmlora_lab.heads.head import Bank
from fmlora_lab.heads.means import ClassMeans

SHRINKAGES = (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


class LDA(ClassMeans, name="lda"):
    moment: Tensor
    shrinkage: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, n_classes: int, settings: Heads):
        super().__init__(width, n_classes, settings)
        self.given = settings.shrinkage
        self.register_buffer("moment", torch.zeros(width, width, dtype=torch.float64))
        self.register_buffer("shrinkage", torch.tensor(torch.nan, dtype=torch.float64))
        self.register_buffer("weight", torch.zeros_like(self.sums))
        self.register_buffer("bias", torch.zeros_like(self.counts))

    def add(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"]) -> None:
        super().add(features, labels)
        self.moment += features.double().T @ features.double()

    def scatter(self) -> Float[Tensor, "d d"]:
        """S, about the means: Σ f fᵀ − Σ_k n_k μ_k μ_kᵀ."""
        return self.moment - self.sums.T @ self.means()

    def free(self) -> float:
        """n − K, at least 1."""
        return max(float(self.counts.sum() - (self.counts > 0).sum()), 1.0)

    def carry(self, drift: Drift, plain: Bank, gaussians: Bank) -> None:
        S = drift.scatter(self.scatter())
        super().carry(drift, plain, gaussians)
        self.moment = S + self.sums.T @ self.means()

    def settle(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"]) -> None:
        """Choose s by leave-one-out log-loss on the task's images, unless it is given; solve."""
        f, spectrum = features.double(), self._spectrum()
        if self.given is not None:
            self.shrinkage.fill_(self.given)
        elif self.free() > 1 and (self.counts[self.rows(labels)] > 1).any():
            losses = [F.cross_entropy(*self.left_out(f, labels, s, spectrum)) for s in SHRINKAGES]
            self.shrinkage.fill_(SHRINKAGES[int(torch.stack(losses).argmin())])
        elif self.shrinkage.isnan():  # no class has two images: there is no scatter to shrink
            self.shrinkage.fill_(1.0)
        values, directions = spectrum
        level = (1 - self.shrinkage) * values + self.shrinkage * values.mean()
        if not values.any():  # one image a class: nothing is known of their scatter
            level = torch.ones_like(values)
        means = self.means()
        self.weight = ((means @ directions) / level) @ directions.T
        self.bias = -0.5 * (self.weight * means).sum(1)
        super().settle(features, labels)

    def forward(self, features: Float[Tensor, "B d"]) -> Float[Tensor, "B K"]:
        scores = F.linear(features.double(), self.weight, self.bias)
        return self.by_class(F.pad(scores, (0, len(self.counts) - len(self.bias))))

    def kept(self) -> int:
        return super().kept() + self.moment.numel()

    def left_out(
        self,
        f: Float[Tensor, "n d"],
        labels: Int64[Tensor, "n"],
        s: float,
        spectrum: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "m K"], Int64[Tensor, "m"]]:
        """Scores of images of the task at hand with each left out of what is kept, and its label;
        without those that are the only one of their class. `spectrum` is S's, where it is known.

        Without image i of row k: μ_k loses it, S loses c v vᵀ with v = f_i − μ_k and
        c = n_k / (n_k − 1), n − K loses 1. All is written in S's eigenvectors, where what is left
        of Σ is diagonal but for v, which Sherman and Morrison's formula takes out.
        """
        rows = self.rows(labels)
        several = self.counts[rows] > 1
        values, directions = spectrum or self._spectrum()
        f, rows, means = f[several] @ directions, rows[several], self.means() @ directions
        n, free = self.counts[rows], self.free() - 1
        v, c = f - means[rows], n / (n - 1)
        own = means[rows] - v / (n - 1)[:, None]
        scatter = values * self.free()
        level = s * (scatter.sum() - c * (v**2).sum(1)) / len(values)  # s tr(S − c v vᵀ) / d
        inverse = free / ((1 - s) * scatter + level[:, None])
        v_in, cut = v * inverse, c * (1 - s) / free
        gain = cut / (1 - cut * (v * v_in).sum(1))
        along = v_in @ means.T  # vᵀ Λ μ of every row
        scores = (f * inverse) @ means.T + (gain * (f * v_in).sum(1))[:, None] * along
        scores -= 0.5 * (inverse @ (means**2).T + gain[:, None] * along**2)
        own_along = (v_in * own).sum(1)
        own_score = ((f - own / 2) * inverse * own).sum(1)
        own_score += gain * own_along * ((f * v_in).sum(1) - own_along / 2)
        scores.scatter_(1, rows[:, None], own_score[:, None])
        return self.by_class(scores), rows % self.n_classes

    def _spectrum(self) -> tuple[Float[Tensor, "d"], Float[Tensor, "d d"]]:
        """Eigenvalues and eigenvectors of S / (n − K)."""
        values, directions = torch.linalg.eigh(self.scatter() / self.free())
        return values.clamp(min=0), directions
