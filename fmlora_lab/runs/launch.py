"""Who computes runs. A launcher takes configurations and yields their runs, in order."""

import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

from fmlora_lab import progress, threads
from fmlora_lab.config import RunConfig
from fmlora_lab.runs.run import find_stored, run
from fmlora_lab.runs.stored import Run


class Launcher(Protocol):
    """What is done stays done if it is interrupted; whatever is stored is loaded."""

    def __call__(
        self, configs: Iterable[RunConfig], runs_dir: Path | str | None, use_shipped: bool
    ) -> Iterator[Run]: ...


def here(
    configs: Iterable[RunConfig], runs_dir: Path | str | None, use_shipped: bool
) -> Iterator[Run]:
    """One after another in this process."""
    for config in configs:
        yield run(config, runs_dir, use_shipped)


def processes(workers: int) -> Launcher:
    """Shared out to worker processes, and the cores among them: steps of a small network gain
    little from a second core, two runs beside each other much."""

    def launch(
        configs: Iterable[RunConfig], runs_dir: Path | str | None, use_shipped: bool
    ) -> Iterator[Run]:
        configs = list(configs)
        one = partial(run, runs_dir=runs_dir, use_shipped=use_shipped)
        found = [find_stored(config, runs_dir, use_shipped) for config in configs]
        stored = [run for run in found if run is not None]
        if len(stored) == len(configs):
            yield from stored  # no process is begun for what is only read
            return
        with worker_pool(workers) as pool:
            begun = {i: pool.submit(one, configs[i]) for i, own in enumerate(found) if own is None}
            try:
                for i, own in enumerate(found):
                    yield begun[i].result() if own is None else own
            except BaseException:
                pool.shutdown(cancel_futures=True)  # else all others would be computed first
                raise

    return launch


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that share the cores out among them and do not write over each other's bars."""
    share = max(1, (os.cpu_count() or 1) // workers)
    how = {"mp_context": get_context("spawn"), "initializer": _begin}
    return ProcessPoolExecutor(workers, **how, initargs=(share,))


def _begin(share: int) -> None:
    # An interrupt goes to every process of a terminal or kernel; it is to end the work, not to be
    # the answer to one run before the next is begun.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threads.use(share)
    progress.beside_others()
