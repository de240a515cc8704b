"""How often two tasks' updates change the same numbers of a weight.

    rate(i, j) = #{(a, b): ΔW_i[a, b] ≠ 0 and ΔW_j[a, b] ≠ 0} / (d_out · d_in)

Source: Yang et al. 2025 (N-LoRA), COLING, arXiv 2410.10179. Updates without a common entry are
orthogonal; orthogonal ones may have all entries in common. A product of two factors that were
trained has no entry that is exactly zero, and from what on the paper counts one is not known; ours:
an entry is zero where it is at most a hundredth of the update's largest at that weight, so that the
rate asks for an update's form and not for its size. Two Gaussian updates have a rate of about 0.95.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fmlora_lab.analysis.overlap import weights
from fmlora_lab.analysis.updates import Array, Update, pairs
from fmlora_lab.config import BadInput
from fmlora_lab.runs.folder import Arrays
from fmlora_lab.runs.stored import Run

LEAST = 0.01
"""Share of an update's largest entry up to which an entry counts as zero."""


def touched(u: Update) -> NDArray[np.bool_]:
    """Which entries (d_out, d_in) of U Vᵀ are not zero; none of an update of zero."""
    sizes = np.abs(u[0] @ u[1].T)
    return sizes > LEAST * sizes.max()


def collision_rate(u: Update, w: Update) -> float:
    """Share of the entries that neither of two updates leaves at zero."""
    return _both(touched(u), touched(w))


def collide(run: Run) -> Arrays:
    """The rate of every two tasks (N, N) at each weight, float32; a task with itself has the share
    that it touches. BadInput as `updates`."""
    of = weights(run)
    return {
        weight: pairs([touched(task[weight]) for task in of], _both).astype(np.float32)
        for weight in of[0]
    }


@lru_cache(8)
def collision_rates(run: Run) -> Arrays:
    """`collide`, computed once and stored with the run. BadInput for a run that was shipped before
    this was measured."""
    return run.derived_arrays("collisions", lambda: collide(run))


def known_rates(run: Run, weight: str) -> Array:
    """The rates (N, N) at a weight that the run adapts; NaN for a run that was shipped before this
    was measured."""
    try:
        return collision_rates(run)[weight].astype(float)
    except BadInput:
        n = run.result["task_files"]
        return np.full((n, n), np.nan)


def mean_collision_rate(run: Run) -> float:
    """The mean over every two different tasks and over weights, each counted once."""
    every: Array = np.stack(list(collision_rates(run).values())).astype(float)
    return float(every[:, ~np.eye(every.shape[1], dtype=bool)].mean())


def _both(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return np.count_nonzero(a & b) / a.size
