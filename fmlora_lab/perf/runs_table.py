"""How long a kernel takes to show runs as a table, from the list to what a front end is sent."""

import time
from typing import Any

import numpy as np

from fmlora_lab.explorers.runs_table import RunsTable
from fmlora_lab.runs.archive import collections
from fmlora_lab.runs.stored import Runs, load_runs

COLLECTION = "glyphs-10"
"""Whose runs are shown, as often as it takes."""
COUNTS = (200, 10_000)
AIM_MS = 200.0
"""For 200 runs; of 10,000 it is enough that they open."""


def bench(repeats: int) -> list[dict[str, Any]]:
    """The objects that `--json` prints. The first table, which brings the libraries, is apart."""
    stored = load_runs(collections()[COLLECTION])
    first = _ms(Runs(stored))
    found = []
    for count in COUNTS:
        many = Runs((list(stored) * (1 + count // len(stored)))[:count])
        times = [_ms(many) for _ in range(repeats)]
        median, high = np.percentile(times, [50, 100])
        found.append({"runs": count, "median_ms": round(median, 1), "max_ms": round(high, 1)})
    return [{"runs": len(stored), "median_ms": first, "max_ms": first, "first": True}, *found]


def _ms(found: Runs) -> float:
    began = time.perf_counter()
    RunsTable(found).widget._repr_mimebundle_()
    return round(1000 * (time.perf_counter() - began), 1)


def to_text(found: list[dict[str, Any]]) -> str:
    """The measurements as a table."""
    lines = [f"{'runs':>8} {'median ms':>9} {'max ms':>7}"]
    lines += [
        f"{row['runs']:>8,} {row['median_ms']:>9,.0f} {row['max_ms']:>7,.0f}"
        + (" with the libraries" if row.get("first") else "")
        for row in found
    ]
    return "\n".join([*lines, f"aim: {COUNTS[0]} runs in {AIM_MS:.0f} ms"])
