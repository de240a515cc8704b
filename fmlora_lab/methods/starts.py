"""What of a task's low-rank update is learned, and what was there when the task began.

ΔW = U Vᵀ writes into the column space of U and reads from that of V. Where one of them starts as
given columns, drawn or designed, the share of its space that lies in their span tells how far it
has moved: 1 for not at all, k/d for k columns of d numbers and a space that has nothing to do
with them. Where one starts at zero, nothing is given, and all of it is learned.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from fmlora_lab.methods.fm_lora.factorized import Side, thin_svd

STARTS = ("start_share", "start_chance")
"""Of what is recorded, as a task's record has it."""
TINY = 1e-6
"""Directions with a singular value below this share of the largest are no directions."""


@torch.no_grad()
def shares_of_starts(sites: Iterable[tuple[Side, Side]]) -> dict[str, Tensor]:
    """Of the sides U and V of every site, in float32, output side first:

    `start_share` (S, 2), the mean over directions of the update's own column and row space of
    their squared part in the start's span (NaN for an update of zero, 0 for a start of zero), and
    `start_chance` (S, 2), what a space at random has of it on average.
    """
    rows = []
    for (U, U_start), (V, V_start) in sites:
        A, sigma, B = thin_svd(U.double(), V.double())
        used = sigma.diagonal() > TINY * sigma.diagonal()[:1]
        rows.append([_share(A[:, used], U_start), _share(B[:, used], V_start)])
    both = torch.tensor(rows)
    return dict(zip(STARTS, both.unbind(-1), strict=True))


def _share(space: Float[Tensor, "d n"], start: Float[Tensor, "d k"] | None) -> tuple[float, float]:
    """Of an orthonormal `space`: share and chance."""
    if start is None:
        return (0.0, 0.0) if space.shape[1] else (float("nan"), 0.0)
    left, sigma, _ = torch.linalg.svd(start.double(), full_matrices=False)
    span = left[:, sigma > TINY * sigma[:1]]
    inside = (span.T @ space).square().sum(0).mean()  # NaN of no directions
    return float(inside), span.shape[1] / len(span)
