"""How long lists of many stored runs take: on the command line, as a table, for an explorer.

The first time each run is read and noted (`runs/index.py`), from then on the notes are. The runs
are copies of those that came with the lab, under names of their own.
"""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fmlora_lab import progress
from fmlora_lab.runs.archive import collections
from fmlora_lab.runs.folder import sealed
from fmlora_lab.runs.stored import load_runs

AIMS = {"seconds": 2.0, "memory_mb": 500}
"""At most, of each list."""


def bench(count: int) -> dict[str, Any]:
    """Seconds of each list over so many runs, and MB of memory at most. `list` is the command, from
    its start to its end, at `first` when nothing is noted; of the others, each in a process of its
    own, what comes after the imports, and what memory it takes beyond them. `explorer` is that of
    all explorers whose list takes longest."""
    with TemporaryDirectory() as folder:
        many(Path(folder), count)
        found = {name: commanded(folder) for name in ("first", "list")}
        for name, each in LISTS.items():
            found[name] = max((alone(one, folder) for one in each), key=lambda own: own["seconds"])
    return {"runs": count, "lists": found, "aims": AIMS}


def to_text(found: dict[str, Any]) -> str:
    """A line a list, each beside its aim."""
    aims = found["aims"]
    lines = [f"{'list of ' + format(found['runs'], ',') + ' runs':<22} {'seconds':>8} {'MB':>6}"]
    for name, own in found["lists"].items():
        lines.append(f"{name:<22} {own['seconds']:>8.2f} {own['memory_mb']:>6.0f}")
    return "\n".join([*lines, f"{'aim':<22} {aims['seconds']:>8.2f} {aims['memory_mb']:>6.0f}"])


def many(folder: Path, count: int) -> None:
    """Fill `folder` with so many runs: those that came with the lab, with other seeds."""
    came = [run for path in collections().values() for run in load_runs(path)]
    for k in progress.bar(range(count), desc="runs", unit="run", leave=False):
        seed, which = divmod(k, len(came))
        run, own = came[which], hashlib.sha256(f"{k}".encode()).hexdigest()[:16]
        files = {
            "config.json": {**run.config, "seed": seed},
            "environment.json": run.environment,
            "result.json": {**run.result, "run_id": own},
        }
        (folder / own).mkdir()
        for name, content in files.items():
            (folder / own / name).write_bytes(sealed(content, f"{own}/{name}"))


def commanded(folder: str) -> dict[str, float]:
    """Of `fmlora-lab runs list`."""
    words = [sys.executable, "-m", "fmlora_lab", "runs", "list", "--runs-dir", folder]
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return _told(time.perf_counter() - began, _megabytes(usage.ru_maxrss))


def alone(bring: Callable[[], Callable[[Path], Any]], folder: str) -> dict[str, float]:
    """`measured`, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(measured, bring, folder).result()


def measured(bring: Callable[[], Callable[[Path], Any]], folder: str) -> dict[str, float]:
    """Of one list in this process."""
    import resource  # which Windows has not

    call = bring()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    call(Path(folder))
    seconds = time.perf_counter() - began
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _told(seconds, _megabytes(most - before))


def _told(seconds: float, megabytes: float) -> dict[str, float]:
    return {"seconds": round(seconds, 3), "memory_mb": round(megabytes)}


def _megabytes(most: int) -> float:
    """Of what the system says, kB or, on a Mac, bytes."""
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def _table() -> Callable[[Path], Any]:
    from fmlora_lab.runs.sweep import load_frame

    return load_frame


def _offered(explorer: str) -> Callable[[Path], Any]:
    from fmlora_lab.explorers.offer import dropdown, offered

    suits = import_module(f"fmlora_lab.explorers.{explorer}").suits
    return lambda folder: dropdown("run", offered(folder, suits), "fm-lora")


EXPLORERS = ("experts", "features", "forgotten", "overlap", "prompt_drift", "rank_choice")
"""Modules, each of which says which runs it offers (`suits`)."""
LISTS = {"table": [_table], "explorer": [partial(_offered, name) for name in EXPLORERS]}
"""What brings each, imports and all, to be called with a folder."""
