"""How far the meta-prompt moves from task to task: P (m, d) after each of N tasks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fmlora_lab.analysis.forgetting import lost
from fmlora_lab.analysis.updates import Array
from fmlora_lab.config import BadInput
from fmlora_lab.runs.stored import Run

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass
class Drift:
    """N tasks, m tokens."""

    path: Array
    """(N, m, 2): the tokens in one plane, that of the two directions along which all tokens of all
    tasks vary most (principal components), so that it is the same for every task."""
    shown: float
    """The share of that variation that lies in the plane."""
    to_previous: Array
    """(N, m): cosine of each token to itself after the task before; NaN for the first task."""
    to_first: Array
    """(N, m): cosine to itself after the first task."""
    norms: Array
    """(N, m)."""


def drift_of(prompts: Array) -> Drift:
    """Of P after each task (N, m, d)."""
    P = np.asarray(prompts, float)
    centred = P - P.mean(axis=(0, 1))
    _, sigma, directions = np.linalg.svd(centred.reshape(-1, P.shape[2]), full_matrices=False)
    energy = (sigma**2).sum()
    to_previous = np.full(P.shape[:2], np.nan)
    to_previous[1:] = _cosine(P[1:], P[:-1])
    return Drift(
        path=centred @ directions[:2].T,
        shown=float((sigma[:2] ** 2).sum() / energy) if energy else 1.0,
        to_previous=to_previous,
        to_first=_cosine(P, P[:1]),
        norms=np.linalg.norm(P, axis=2),
    )


def prompts_of(run: Run) -> Array:
    """P after each task (N, m, d); BadInput for a run without a meta-prompt."""
    if not run.config["method"].get("prompt", {}).get("tokens"):
        raise BadInput(
            f"run {run.id} has no meta-prompt; train one with `fmlora-lab run --method fm-lora "
            "--set method.prompt.tokens=8`"
        )
    tasks = range(run.result["task_files"])
    return np.stack([run.task(t)["prompts"].astype(float) for t in tasks])


def steps(run: Run) -> "DataFrame":
    """A row a task after the first: `drift`, ‖P_t − P_{t−1}‖ / ‖P_{t−1}‖ over all tokens, and
    `lost`, what the tasks before it lost on average while it was learned, in points. BadInput as
    `prompts_of`."""
    from pandas import DataFrame  # here, for explorers open sooner without it

    P = prompts_of(run)
    moved = np.linalg.norm(np.diff(P, axis=0), axis=(1, 2))
    earlier = np.nanmean(lost(run.accuracy_matrix)[1:], axis=1)
    return DataFrame({"drift": moved / np.linalg.norm(P[:-1], axis=(1, 2)), "lost": earlier})


def _cosine(P: Array, Q: Array) -> Array:
    """Cosines of tokens (..., d) to tokens (..., d); 0 where one of them is zero."""
    sizes = np.linalg.norm(P, axis=-1) * np.linalg.norm(Q, axis=-1)
    return (P * Q).sum(-1) / np.where(sizes, sizes, 1)
