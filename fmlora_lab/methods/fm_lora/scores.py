"""The score of a candidate rank, on torch's tensors in training and NumPy's arrays in the explorer.

One function for both, so that what a slider shows is what training does; it needs only operators
that both libraries have, and this file imports neither.
"""

from typing import Any


def scores(H: Any, w: Any, ranks: Any, tau: Any, cost: Any) -> Any:
    """score_r = ( w_r · H − λ · r / r_max ) / τ, docs/method.md, section 3: arrays (..., c).

    Complexity H (scalar or (..., 1)), weights w (..., c), candidates `ranks` (c,), rising;
    `cost` λ = 0 is the paper's form.
    """
    return (w * H - cost * ranks / ranks[-1]) / tau
