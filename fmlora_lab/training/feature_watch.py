"""How far the features of earlier tasks have moved since they were learned, by their test images.

    drift       1 − linear CKA(F_then, F_now)       (Kornblith et al., ICML 2019, arXiv 1905.00414)
    explained   1 − ‖F_now − F_carried‖² / ‖F_now − F_then‖²

F_then are features (at length 1) when the task was learned, F_carried the same moved along the
linear maps by which heads carry their statistics. They serve to measure, and nothing learns from
them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmlora_lab.heads.drift import Drift

WATCHED = 512
"""Test images of a task that are followed; of more, every so many."""


class FeatureWatch(nn.Module):
    """Followed features of all tasks learned, one under the other; `sizes` says how many each."""

    then: Tensor
    carried: Tensor
    sizes: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("then", torch.zeros(0, width))
        self.register_buffer("carried", torch.zeros(0, width))
        self.register_buffer("sizes", torch.zeros(0, dtype=torch.int64))

    def carry(self, drift: Drift | None) -> None:
        if drift is not None:
            self.carried = drift.points(self.carried).to(self.carried)

    def learned(self, features: Tensor) -> None:
        """The test features (n, d) of a task that was just learned."""
        own = followed(features)
        self.then, self.carried = torch.cat([self.then, own]), torch.cat([self.carried, own])
        self.sizes = torch.cat([self.sizes, torch.tensor([len(own)]).to(self.sizes)])

    def moved(self, task: int, features: Tensor) -> tuple[float, float | None]:
        """Drift and the part explained, of an earlier task's test features as they are now; None
        where nothing moved."""
        now = followed(features)
        then, carried = (
            part.split(self.sizes.tolist())[task] for part in (self.then, self.carried)
        )
        change = float(((now - then) ** 2).sum())
        left = float(((now - carried) ** 2).sum())
        return 1 - linear_cka(then, now), 1 - left / change if change else None


def followed(features: Tensor) -> Tensor:
    return F.normalize(features[:: -(-len(features) // WATCHED)])


def linear_cka(X: Tensor, Y: Tensor) -> float:
    """‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) of centred features (n, d) of the same images; 1 where none of
    them varies."""
    X, Y = ((part.double() - part.double().mean(0)) for part in (X, Y))
    scale = torch.linalg.norm(X.T @ X) * torch.linalg.norm(Y.T @ Y)
    return float((Y.T @ X).square().sum() / scale) if scale > 0 else 1.0
