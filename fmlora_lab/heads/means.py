"""Class means: score = cos(f, μ_k), μ_k the mean of class k's adapted features.

It keeps K d sums and K counts. A class that comes again in another domain keeps the mean over all.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from fmlora_lab.heads.head import Bank


class ClassMeans(Bank, name="prototype", part="means"):
    sums: Tensor
    counts: Tensor

    def __init__(self, width: int, n_classes: int):
        super().__init__(width, n_classes)
        self.register_buffer("sums", torch.zeros(n_classes, width))
        self.register_buffer("counts", torch.zeros(n_classes))

    def add(self, features: Float[Tensor, "B d"], labels: Int64[Tensor, "B"]) -> None:
        self.sums.index_add_(0, labels, features)
        self.counts += torch.bincount(labels, minlength=len(self.counts)).to(self.counts)

    def forward(self, features: Float[Tensor, "B d"]) -> Float[Tensor, "B K"]:
        means = self.sums / self.counts.clamp(min=1)[:, None]
        cosines = F.linear(F.normalize(features), F.normalize(means))
        return cosines.masked_fill(self.counts == 0, -torch.inf)

    def kept(self) -> int:
        return int((self.counts > 0).sum()) * (self.sums.shape[1] + 1)
