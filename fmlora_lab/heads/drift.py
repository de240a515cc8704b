"""How features moved while a task was learned, as a linear map that carries statistics along.

    f⁺ ≈ f⁻ + [f⁻, 1] D        D (d + 1, d) by ridge regression, shrunk towards no change

f⁻ are the task's images under the weights from before the task, f⁺ under those after it; no image
of an earlier task is read. The penalty is the one with the least squared leave-one-out error.
Source: learnable drift compensation (Gomez-Villa et al., ECCV 2024), there a linear layer without
bias trained by Adam, here in closed form. docs/method.md, section 10.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

PENALTIES = [10.0**p for p in range(-9, 3)]
"""Tried, as shares of the mean square of [f⁻, 1]'s columns."""


class Drift(NamedTuple):
    D: Float[Tensor, "d1 d"]

    def points(self, f: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Where the map sends features or means: f + [f, 1] D."""
        return f + with_one(f.to(self.D)) @ self.D

    def scatter(self, S: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        """Aᵀ S A of a scatter about means, A = I + D without its last row."""
        A = self.D[:-1] + torch.eye(len(S)).to(S)
        return A.T @ S @ A


def with_one(f: Float[Tensor, "n d"]) -> Float[Tensor, "n d1"]:
    return F.pad(f, (0, 1), value=1.0)


def fit(before: Float[Tensor, "n d"], after: Float[Tensor, "n d"]) -> Drift:
    """The map of a task's features from before (f⁻) to after (f⁺) its training, in float64.

    With X = [f⁻, 1] = Q diag(σ) Rᵀ and residual e_i of image i, leaving it out gives
    e_i / (1 − Σ_j q_ij² σ_j² / (σ_j² + λ)).
    """
    X, Y = with_one(before.double()), (after - before).double()
    Q, sigma, Rt = torch.linalg.svd(X, full_matrices=False)
    QtY = Q.T @ Y
    errors, shrunk = [], []
    for penalty in PENALTIES:
        energy = sigma**2
        share = energy / (energy + penalty * energy.sum() / X.shape[1])
        left_out = (Y - Q @ (share[:, None] * QtY)) / (1 - Q**2 @ share).clamp(min=1e-12)[:, None]
        errors.append((left_out**2).sum())
        shrunk.append(share)
    share = shrunk[int(torch.stack(errors).argmin())]
    return Drift(Rt.T @ ((share / sigma.clamp(min=1e-150))[:, None] * QtY))
