"""What of a run's updates is their start, and what is learned (docs/method.md, section 7).

A factor that starts as given columns and hardly moves spans what it was given. Output and input
sides are apart, as updates write to the one and read from the other.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fmlora_lab.analysis.updates import Array, place
from fmlora_lab.config import BadInput
from fmlora_lab.runs.stored import Run

if TYPE_CHECKING:
    from pandas import DataFrame

SIDES = ("outputs", "inputs")
HEADINGS = {
    "share_outputs": ("written to: in its start (%)", "{:.1f}"),
    "chance_outputs": ("written to: chance (%)", "{:.1f}"),
    "share_inputs": ("read from: in its start (%)", "{:.1f}"),
    "chance_inputs": ("read from: chance (%)", "{:.1f}"),
}
"""What readers see of `starts_table`, for `tables.formatted`."""


def starts(run: Run) -> tuple[Array, Array]:
    """The `share` of each task's column and row space that lies in its start, and what `chance`
    gives: (N, S, 2) each, `SIDES` last; 0 of both where a side starts at zero, and a share of NaN
    where a task changed nothing.

    BadInput for a run without low-rank updates, and one of before this was recorded.
    """
    records = [run.task(t) for t in range(run.result["task_files"])]
    if not all("start_share" in record for record in records):
        raise BadInput(
            f"run {run.id} does not say where its updates started: {run.method_name} has no "
            "low-rank updates, or the run is older than this is recorded"
        )
    share, chance = (
        np.stack([record[name] for record in records]).astype(float)
        for name in ("start_share", "start_chance")
    )
    return share, chance


def at_weight(run: Run, weight: str, every: Iterable[str]) -> tuple[Array, Array]:
    """`starts` (N, 2) at the site of one weight, of `every` weight that the run adapts; NaN where
    nothing was recorded. A site of q, k and v reads from one space."""
    sites = sorted({_site(name) for name in every}, key=place)
    number, found = sites.index(_site(weight)), _known(run)
    if found is None:
        unknown = np.full((run.result["task_files"], 2), np.nan)
        return unknown, unknown
    share, chance = found
    return share[:, number], chance[:, number]


def said(share: float, chance: float) -> str:
    """One share in words."""
    if np.isnan(share):
        return "–"
    return f"{100 * share:.1f}% (chance {100 * chance:.1f}%)" if chance else "began at zero"


def starts_table(runs: Mapping[str, Iterable[Run]]) -> "DataFrame":
    """Two rows a name, its first task and its later ones: in percent the share of what is written
    to and of what is read from that lies in the start, and the chance of it, as means over sites,
    tasks and runs; NaN where a side starts at zero."""
    from pandas import DataFrame  # here, for explorers open sooner without it

    rows = {}
    for name, own in runs.items():
        share, chance = (np.stack(part) for part in zip(*map(starts, own), strict=True))
        share = np.where(chance > 0, share, np.nan)
        chance = np.where(chance > 0, chance, np.nan)
        for which, tasks in (("task 1", slice(1)), ("later tasks", slice(1, None))):
            rows[f"{name}, {which}"] = {
                f"{kind}_{side}": 100 * _mean(of[:, tasks, :, n])
                for n, side in enumerate(SIDES)
                for kind, of in (("share", share), ("chance", chance))
            }
    return DataFrame(rows).T


@lru_cache(8)
def _known(run: Run) -> tuple[Array, Array] | None:
    """`starts`, read once while an explorer moves; None where nothing was recorded."""
    try:
        return starts(run)
    except BadInput:
        return None


def _mean(values: Array) -> float:
    """Of what is known; NaN of nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _site(weight: str) -> str:
    """The site that a weight is part of."""
    head, layer = weight.rsplit(".", 1)
    return f"{head}.qkv" if layer in ("q", "k", "v") else weight
