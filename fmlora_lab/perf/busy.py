"""How long a small run takes beside others: a notebook's kernel beside a command line, say.

Every run has a process of its own; those that run at once begin at the same moment.
"""

import os
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch

from fmlora_lab import progress, threads
from fmlora_lab.config import RunConfig
from fmlora_lab.profiles import configure
from fmlora_lab.runs.run import run

AIMS = {"alone_ratio": 1.05, "two_ratio": 3.0, "four_ratio": 6.0}
"""At most: alone, of what torch takes as it comes; several at once, of one alone."""

AT_ONCE = {"two": 2, "four": 4}
TURNS = 2

AS_IT_COMES = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}
"""What OpenMP's threads wait for where nobody says anything, and as many of them as torch has."""

PATIENCE = 600
"""Seconds until processes that do not come to the start are an error."""

_start: Barrier
"""Where processes of one measurement wait for one another."""


def bench(repeats: int) -> dict[str, Any]:
    """Seconds of a smoke run alone, two at once and four at once, until the last has ended: of the
    quickest of `repeats` rounds, after one that is not counted. Alone also with the threads that
    torch has by itself, in turns."""
    plain = {"OMP_NUM_THREADS": str(torch.get_num_threads()), **os.environ, **AS_IT_COMES}
    unbounded, alone, found = [], [], {}
    for _ in progress.bar(range(TURNS), desc="alone", unit="turn", leave=False):
        unbounded.append(seconds(1, repeats, plain))
        alone.append(seconds(1, repeats))
    found |= {"unbounded": min(unbounded), "alone": min(alone)}
    for name in progress.bar(list(AT_ONCE), desc="at once", unit="number", leave=False):
        found[name] = seconds(AT_ONCE[name], repeats)
    ratios = {name: found[name] / found["alone"] for name in AT_ONCE}
    ratios["alone"] = found["alone"] / found["unbounded"]
    return {
        "repeats": repeats,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "spin": {name: os.environ.get(name) for name in threads.SPIN},
        **{f"{name}_seconds": round(value, 3) for name, value in found.items()},
        **{f"{name}_ratio": round(value, 3) for name, value in ratios.items()},
        "aims": AIMS,
    }


def to_text(found: dict[str, Any]) -> str:
    """The measurement in a few lines, each beside its aim."""
    spin = ", ".join(f"{name} {value}" for name, value in found["spin"].items())
    lines = [
        f"A smoke run on {found['cores']} cores, {found['threads']} threads, {spin}; least of "
        f"{found['repeats']} rounds",
        f"{'':<22} {'seconds':>8} {'times':>6} {'aim':>6}",
        f"{'alone, as torch comes':<22} {found['unbounded_seconds']:>8.2f} {1:>6.2f}",
    ]
    for name in ("alone", "two", "four"):
        aim, ratio = found["aims"][f"{name}_ratio"], found[f"{name}_ratio"]
        title = name if name == "alone" else f"{name} at once"
        lines.append(f"{title:<22} {found[f'{name}_seconds']:>8.2f} {ratio:>6.2f} {aim:>6.2f}")
    return "\n".join([*lines, "times: of alone as torch comes; those at once, of one alone"])


def work() -> RunConfig:
    """What is run: seconds of steps of the lab's own backbone, with little else."""
    return configure("lora", "glyphs", "smoke")


def seconds(count: int, repeats: int, environment: Mapping[str, str] = os.environ) -> float:
    """Of the quickest round of `count` runs that begin at once, until the last of them ends."""
    context = get_context("spawn")
    quiet = {**environment, progress.TOLD: "none"}
    with (
        TemporaryDirectory() as folder,
        patch.dict(os.environ, quiet),
        ProcessPoolExecutor(count, context, _begin, (context.Barrier(count),)) as pool,
    ):
        places = [str(Path(folder, str(number))) for number in range(count)]
        jobs = [pool.submit(_rounds, work(), place, repeats + 1) for place in places]
        took = zip(*(job.result() for job in jobs), strict=True)
    return min([max(together) for together in took][1:])


def _begin(start: Barrier) -> None:
    global _start
    _start = start


def _rounds(config: RunConfig, place: str, rounds: int) -> list[float]:
    """Seconds of each of so many runs, alike but for their seed."""
    took = []
    for seed in range(rounds):
        _start.wait(PATIENCE)
        began = time.perf_counter()
        run(config.model_copy(update={"seed": seed}), place)
        took.append(time.perf_counter() - began)
    return took
