"""What InfLoRA keeps of earlier tasks: a basis of their inputs, or of what they left free.

A memory M (d, m) is orthonormal. While it is the smaller of the two it spans the directions that
earlier tasks' inputs use; once these are more than d/2, it spans the directions left `free`.

Source: Liang and Li 2023, "Adaptive Plasticity Improvement for Continual Learning", CVPR (DualGPM),
as InfLoRA uses it. All in float64, since thresholds of 0.98 and more cut small singular values.
"""

import torch
from jaxtyping import Float
from torch import Tensor

NOTHING = 1e-6
"""Share of the inputs' largest moment below which a direction counts as rounding: it is neither
free nor in use, where the official code takes whatever direction an SVD returns."""


def without(
    R: Float[Tensor, "d d"], memory: Float[Tensor, "d m"], free: bool
) -> Float[Tensor, "d d"]:
    """R without what the earlier tasks use: (I - M Mᵀ) R, or M Mᵀ R for a free memory."""
    M = memory.to(R)
    inside = M @ (M.T @ R)
    return inside if free else R - inside


def free_vectors(
    R: Float[Tensor, "d d"], memory: Float[Tensor, "d m"], free: bool
) -> tuple[Float[Tensor, "d n"], Float[Tensor, "n"]]:
    """Left singular vectors and values of `without`, largest first, NOTHING left out.

    By the eigenvectors of R Rᵀ, several times quicker than an SVD; values under 1e-8 of the
    largest are lost in rounding, and none of these is asked for.
    """
    part = without(R, memory, free)
    squares, vectors = torch.linalg.eigh(part @ part.T)
    sigma, vectors = squares.clamp(min=0).sqrt().flip(0), vectors.flip(1)
    n = int((sigma > NOTHING * torch.linalg.matrix_norm(R, 2)).sum())
    return vectors[:, :n], sigma[:n]


def extend(
    memory: Float[Tensor, "d m"], free: bool, R: Float[Tensor, "d d"], threshold: float
) -> tuple[Float[Tensor, "d _"], bool]:
    """The memory after a task with input moments R, and whether it now spans what is free.

    Directions are added (or taken from the free ones), largest first, until the share `threshold`
    of R's energy Σσ² lies in the directions in use.
    """
    d, M = len(R), memory.to(R)
    total = R.square().sum()
    left, sigma = free_vectors(R, memory, free)
    energy = sigma.square() / total
    outside = energy.sum()  # the share of R's energy that is not in use yet
    # Direction j is taken while the share in use before it is below the threshold; a first task
    # stops one earlier, but takes at least one.
    before = 1 - outside + energy.cumsum(0) - energy
    new = int((before < threshold).sum())
    if not free and M.shape[1] == 0:
        new = max(int((energy.cumsum(0) < threshold).sum()), 1)
    if threshold == 1:  # all of it, whatever rounding makes of the sums
        new = len(sigma)
    if free:
        used = left[:, :new]
        rest = torch.linalg.svd(M - used @ (used.T @ M), full_matrices=False)[0]
        return rest[:, : M.shape[1] - new].to(memory), True
    M = torch.cat([M, left[:, :new]], dim=1)
    if M.shape[1] > d / 2:
        return torch.linalg.svd(M)[0][:, M.shape[1] :].to(memory), True
    return M.to(memory), False
