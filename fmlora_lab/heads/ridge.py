"""Ridge regression on random features, as RanPAC has it.

    h = ReLU(f P)        G = Σ h hᵀ        Q = Σ h yᵀ        score = h (G + λ I)⁻¹ Q

P (d, M) is Gaussian and fixed, one for every run; f has length 1, y is one-hot. What is kept, G and
Q, is a sum over images, so nothing is lost by the order in which tasks come. λ, a share of G's mean
diagonal, has the least squared leave-one-out error on the features of the task that ended.
Source: McDonnell et al., "RanPAC", NeurIPS 2023, arXiv 2307.02251; their λ is the best of
10⁻⁸ … 10⁸ on a fifth of the task's images, and their features have the length that they have.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from fmlora_lab.config import Heads
from fmlora_lab.heads.drift import Drift
from fmlora_lab.heads.head import Bank
from fmlora_lab.heads.lda import LDA
from fmlora_lab.seeds import generator

SHARES = tuple(10 ** (p / 2) for p in range(-6, 3))
"""λ in units of G's mean diagonal, as far as it is chosen."""
AT_ONCE = 1024
"""Images whose random features are held at a time."""
NORMAL = torch.distributions.Normal(0.0, 1.0)
"""Φ and φ."""


class Ridge(Bank, name="ridge"):
    needs_gaussians = True
    projection: Tensor
    gram: Tensor
    targets: Tensor
    share: Tensor
    images: Tensor
    chosen_at: Tensor
    weight: Tensor

    def __init__(self, width: int, n_classes: int, settings: Heads):
        super().__init__(width, n_classes, settings)
        self.M, self.given = settings.random_features, settings.ridge
        P = torch.randn(width, self.M, generator=generator(0, "random features"))
        self.register_buffer("projection", P, persistent=False)
        double = torch.float64
        self.register_buffer("gram", torch.zeros(self.M, self.M, dtype=double))
        self.register_buffer("targets", torch.zeros(self.M, n_classes, dtype=double))
        self.register_buffer("share", torch.tensor(torch.nan, dtype=double))
        self.register_buffer("images", torch.tensor(0))
        self.register_buffer("chosen_at", torch.tensor(0))
        self.register_buffer("weight", torch.zeros(self.M, n_classes))

    def add(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"]) -> None:
        for f, y in zip(features.split(AT_ONCE), labels.split(AT_ONCE), strict=True):
            h = self.random(f.double())
            self.gram += h.T @ h
            self.targets.index_add_(1, y, h.T)
        self.images += len(labels)

    def settle(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"]) -> None:
        """Solve, with the λ that is given or chosen: at first among every second share, then among
        the last one's neighbours each time that the images have doubled."""
        if self.given is not None:
            self.share.fill_(self.given)
        elif self.images >= 2 * self.chosen_at:
            h = self.random(features.double())
            losses = {
                share: self.left_out(h, labels, share).square().sum() for share in self._near()
            }
            self.share.fill_(min(losses, key=lambda share: float(losses[share])))
            self.chosen_at.copy_(self.images)
        self.weight = torch.cholesky_solve(self.targets, self._factor(float(self.share))).float()

    def forward(self, features: Float[Tensor, "B d"]) -> Float[Tensor, "B K"]:
        scores = self.random(features) @ self.weight.to(features)
        return scores.masked_fill(~self.known, -torch.inf)

    @property
    def known(self) -> Tensor:
        """(K,): a class that was seen has random features that are not all zero."""
        return self.targets.any(0)

    def random(self, f: Float[Tensor, "n d"]) -> Float[Tensor, "n M"]:
        """h, in the type of f."""
        return (f @ self.projection.to(f)).relu_()

    def carry(self, drift: Drift, plain: Bank, gaussians: Bank) -> None:
        """h is not linear in f, so what moves are class means of h: by the difference of a
        Gaussian's mean of h before and after the drift. Their scatter about the means stays, and λ
        is the plain ridge's.
        """
        assert isinstance(gaussians, LDA) and isinstance(plain, Ridge)
        for mine, its in ((self.share, plain.share), (self.chosen_at, plain.chosen_at)):
            mine.copy_(its)
        P, n, K = self.projection.double(), gaussians.counts, self.targets.shape[1]
        mu, S = gaussians.means(), gaussians.scatter() / gaussians.free()
        moved = mean_of_h(drift.points(mu), drift.scatter(S), P) - mean_of_h(mu, S, P)
        of_class = torch.arange(len(n), device=n.device) % K
        images = n.new_zeros(K).index_add_(0, of_class, n).clamp(min=1)
        means = self.targets / images
        self.targets.index_add_(1, of_class, (moved * n[:, None]).T)
        self.gram += self.targets @ (self.targets / images).T - (means * images) @ means.T

    def finish(self) -> None:
        self.gram = self.gram[:0, :0].clone()

    def kept(self) -> int:
        return self.M * self.M + self.M * int(self.known.sum())

    def _factor(self, share: float) -> Float[Tensor, "M M"]:
        """Cholesky factor of G + λ I."""
        diagonal = self.gram.diagonal()
        system = self.gram.clone()
        system.diagonal().add_(share * diagonal.mean())
        return torch.linalg.cholesky(system)

    def left_out(
        self, h: Float[Tensor, "n M"], labels: Int64[Tensor, "n"], share: float
    ) -> Float[Tensor, "n K"]:
        """y − score of images of the task at hand with each left out of G and Q at a given λ.

        With s_i = h_iᵀ (G + λ I)⁻¹ h_i it is e_i / (1 − s_i), e_i with the image in them.
        """
        factor = self._factor(share)
        Z = torch.linalg.solve_triangular(factor, h.T, upper=False)
        y = F.one_hot(labels, self.targets.shape[1]).double()
        residual = y - h @ torch.cholesky_solve(self.targets, factor)
        return residual / (1 - (Z**2).sum(0)).clamp(min=1e-12)[:, None]

    def _near(self) -> tuple[float, ...]:
        if self.share.isnan():
            return SHARES[::2]
        at = SHARES.index(float(self.share))
        return SHARES[max(at - 1, 0) : at + 2]


def mean_of_h(
    mu: Float[Tensor, "G d"], covariance: Float[Tensor, "d d"], P: Float[Tensor, "d M"]
) -> Float[Tensor, "G M"]:
    """E ReLU(f P) of Gaussian f: with a = p·μ and s² = pᵀ Σ p it is a Φ(a / s) + s φ(a / s)."""
    a, s = mu @ P, (P * (covariance @ P)).sum(0).clamp(min=1e-20).sqrt()
    return a * NORMAL.cdf(a / s) + s * NORMAL.log_prob(a / s).exp()
