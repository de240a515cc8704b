"""Every two tasks' relation at every weight, small enough to be stored with a run.

A fused qkv site is split into the weights of q, k and v, whose updates share V and have rows of
U of their own. What is stored is a few hundred kilobytes where the factors are megabytes.
"""

from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fmlora_lab.analysis.updates import (
    LAYERS,
    Array,
    Update,
    cosines,
    directions,
    overlaps,
    place,
    spaces,
    updates,
)
from fmlora_lab.config import BadInput
from fmlora_lab.runs.folder import Arrays
from fmlora_lab.runs.stored import Run

QKV, WEIGHTS = LAYERS[1:4], LAYERS[1:]
"""A block's weights in the order of the model, and those that a fused site may hold."""


@dataclass
class Relation:
    """How N tasks' updates of one weight lie to each other."""

    overlap: Array
    """(N, N): ⟨ΔW_i, ΔW_j⟩_F / (‖ΔW_i‖ ‖ΔW_j‖)."""
    sigma: Array
    """(N, k): singular values of each update, falling; NaN beyond its rank."""
    outputs: Array
    """(N, N, k): cosines of the principal angles between what two tasks write to (their column
    spaces), falling; NaN beyond the smaller rank."""
    inputs: Array
    """(N, N, k): the same of what they read from (their row spaces)."""


def weights(run: Run) -> list[dict[str, Update]]:
    """`updates` with a qkv site split into the weights that it adapts."""
    layers = run.config["method"]["layers"]
    adapted = QKV if "attn.qkv" in layers else [part for part in QKV if part in layers]
    return [
        {name: u for site, whole in task.items() for name, u in _split(site, whole, adapted)}
        for task in updates(run)
    ]


def relate(run: Run) -> Arrays:
    """The fields of each weight's Relation, float32, named `field.weight`; of the cosines a row
    for every two tasks i < j. BadInput as `updates`."""
    of = weights(run)
    found = {}
    for weight, overlap in overlaps(of).items():
        own = [task[weight] for task in of]
        two = list(combinations(map(spaces, own), 2))
        found |= {
            f"overlap.{weight}": overlap.astype(np.float32),
            f"sigma.{weight}": _padded([singular_values(u) for u in own]),
            f"outputs.{weight}": _padded([cosines(P, Q) for (P, _), (Q, _) in two]),
            f"inputs.{weight}": _padded([cosines(P, Q) for (_, P), (_, Q) in two]),
        }
    return found


@lru_cache(8)
def related(run: Run) -> dict[str, Relation]:
    """Each weight's Relation in the order of the model, computed once and stored with the run."""
    stored = run.derived_arrays("relations", lambda: relate(run))
    names = [name.removeprefix("overlap.") for name in stored if name.startswith("overlap.")]
    found = {}
    for weight in sorted(names, key=place):
        arrays = {field.name: stored[f"{field.name}.{weight}"] for field in fields(Relation)}
        n = len(arrays["overlap"])
        for side in ("outputs", "inputs"):
            arrays[side] = _square(arrays[side], n)
        found[weight] = Relation(**arrays)
    return found


def relation(run: Run, weight: str) -> Relation:
    """Of one weight; BadInput where the run does not adapt it."""
    found = related(run)
    if weight not in found:
        raise BadInput(
            f"run {run.id} has no update at {weight}; it adapts "
            f"{', '.join(run.config['method']['layers'])} of blocks "
            f"{', '.join(sorted({name.split('.')[1] for name in found}, key=int))}"
        )
    return found[weight]


def singular_values(u: Update) -> Array:
    """Of U Vᵀ, from QR decompositions of both: falling, those that count as directions."""
    (_, Ru), (_, Rv) = np.linalg.qr(u[0]), np.linalg.qr(u[1])
    sigma = np.linalg.svd(Ru @ Rv.T, compute_uv=False)
    return sigma[directions(sigma)]


def _split(site: str, u: Update, adapted: list[str] | tuple[str, ...]):
    """(name, update) of each weight of a site."""
    if not site.endswith("attn.qkv"):
        return [(site, u)]
    block = site.removesuffix("attn.qkv")
    rows = np.split(u[0], len(adapted))
    return [(block + part, (own, u[1])) for part, own in zip(adapted, rows, strict=True)]


def _padded(rows: list[Array]) -> NDArray[np.float32]:
    """Rows of different lengths as one array, NaN where they end."""
    found = np.full((len(rows), max(map(len, rows), default=0)), np.nan, np.float32)
    for row, values in zip(found, rows, strict=True):
        row[: len(values)] = values
    return found


def _square(pairs: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """(N (N − 1) / 2, k) as (N, N, k), 1 for a task and itself."""
    found = np.ones((n, n, pairs.shape[1]), np.float32)
    for (i, j), row in zip(combinations(range(n), 2), pairs, strict=True):
        found[i, j] = found[j, i] = row
    return found
