"""Who computes runs. A launcher takes configurations and yields their runs, in order."""

import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Protocol

from fmlora_lab import progress, threads
from fmlora_lab.config import RunConfig
from fmlora_lab.interrupts import Stopped
from fmlora_lab.runs.run import find_stored, run
from fmlora_lab.runs.stored import Run


class Launcher(Protocol):
    """What is done stays done if it is interrupted, which is `Stopped`; whatever is stored is
    loaded."""

    def __call__(
        self, configs: Iterable[RunConfig], runs_dir: Path | str | None, use_shipped: bool
    ) -> Iterator[Run]: ...


def here(
    configs: Iterable[RunConfig], runs_dir: Path | str | None, use_shipped: bool
) -> Iterator[Run]:
    """One after another in this process."""
    configs = list(configs)
    for number, config in enumerate(configs, 1):
        try:
            own = run(config, runs_dir, use_shipped)
        except Stopped as stopped:
            where = f"in run {number} of {len(configs)}, {stopped.where}"
            raise Stopped(where) from stopped
        yield own


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
        with Workers(workers) as pool:
            begun: dict[int, Future] = {}
            try:
                for i, own in enumerate(found):
                    if own is None:
                        begun[i] = pool.submit(one, configs[i])
                for i, own in enumerate(found):
                    yield begun[i].result() if own is None else own
            except KeyboardInterrupt as interrupt:
                done = len(stored) + sum(map(_has_a_result, begun.values()))
                raise Stopped(f"after {done} of {len(configs)} runs") from interrupt

    return launch


def _has_a_result(one: Future) -> bool:
    return one.done() and not one.cancelled() and one.exception() is None


class Workers(ProcessPoolExecutor):
    """Processes that share the cores out among them and do not write over each other's bars.

    What ends the `with` block early ends the work too: what was not begun never is, and an
    interrupt stops the others where they are.
    """

    def __init__(self, workers: int):
        share = max(1, (os.cpu_count() or 1) // workers)
        how = get_context("spawn")
        self._over = how.Event()
        super().__init__(workers, how, _begin, (share, self._over))

    def submit(self, *what: Any, **how: Any) -> Future:
        # Processes are started here and inherit that interrupts wait. One goes to every process of
        # a terminal or kernel, but it is for this one: the others have nothing to say to it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(*what, **how)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self._over.set()
        self.shutdown(cancel_futures=kind is not None)


def _begin(share: int, over: Event) -> None:
    Thread(target=_end_when, args=(over,), daemon=True).start()
    threads.use(share)
    progress.beside_others()


def _end_when(over: Event) -> None:
    over.wait()
    os._exit(1)  # as if killed, which no run minds
