"""Class means: score = cos(f, μ_k), μ_k the mean of class k's features, each of length 1.

It keeps K d sums and K counts. A class that comes again in another domain keeps the mean over all
its images, or with `heads.per_domain` a mean of each domain, of which the nearest counts.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from fmlora_lab.config import Heads
from fmlora_lab.heads.drift import Drift
from fmlora_lab.heads.head import Bank


class ClassMeans(Bank, name="means"):
    """Rows of `sums` (G, d) are Gaussians' or means' own: one a class, or with `per_domain` one a
    class and domain, K at a time, so that row g belongs to class g mod K."""

    sums: Tensor
    counts: Tensor

    def __init__(self, width: int, n_classes: int, settings: Heads):
        super().__init__(width, n_classes, settings)
        self.n_classes, self.per_domain = n_classes, settings.per_domain
        self.register_buffer("sums", torch.zeros(n_classes, width, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(n_classes, dtype=torch.float64))

    def add(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"]) -> None:
        rows = self.rows(labels)
        self.sums.index_add_(0, rows, features.double())
        self.counts.index_add_(0, rows, torch.ones_like(rows, dtype=torch.float64))

    def settle(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"]) -> None:
        if self.per_domain:  # the next domain's rows
            self.sums = torch.cat([self.sums, torch.zeros_like(self.sums[: self.n_classes])])
            self.counts = torch.cat([self.counts, torch.zeros_like(self.counts[: self.n_classes])])

    def rows(self, labels: Int64[Tensor, "n"]) -> Int64[Tensor, "n"]:
        """Rows of the images that arrive now: those of the newest domain."""
        return labels + len(self.counts) - self.n_classes

    def means(self) -> Float[Tensor, "G d"]:
        return self.sums / self.counts.clamp(min=1)[:, None]

    def carry(self, drift: Drift, plain: Bank, gaussians: Bank) -> None:
        self.sums = drift.points(self.means()) * self.counts[:, None]

    def forward(self, features: Float[Tensor, "B d"]) -> Float[Tensor, "B K"]:
        return self.by_class(F.linear(features.double(), F.normalize(self.means())))

    def by_class(self, scores: Float[Tensor, "B G"]) -> Float[Tensor, "B K"]:
        """The best of each class's rows, −∞ where it has none yet."""
        scores = scores.masked_fill(self.counts == 0, -torch.inf)
        return scores.unflatten(1, (-1, self.n_classes)).amax(1)

    def kept(self) -> int:
        return int((self.counts > 0).sum()) * (self.sums.shape[1] + 1)
