"""Processes beside each other: how one begins, and a pool of them."""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from types import TracebackType
from typing import Any

from fmlora_lab import progress, signals, threads


class Pool(ProcessPoolExecutor):
    """Processes that share the cores out among them and do not write over each other's bars.

    What ends the `with` block early, an error or an interrupt, ends the work too: what was not
    begun never is, and what was stops where it is.
    """

    def __init__(self, workers: int, modules: Sequence[str] = ()):
        """Each process imports the `modules` first."""
        share = max(1, threads.cores() // workers)
        how = get_context("spawn")
        self._over = how.Event()
        super().__init__(workers, how, _begin_in_pool, (share, modules, self._over))

    def submit(self, *what: Any, **how: Any) -> Future:
        with interrupts_wait():  # processes are started here
            return super().submit(*what, **how)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._over.set()
        self.shutdown(cancel_futures=kind is not None)


def _begin_in_pool(share: int, modules: Sequence[str], over: Event) -> None:
    signals.end_after(over.wait)
    begin(share)
    for module in modules:
        import_module(module)


def begin(share: int) -> None:
    if (parent := parent_process()) is not None:  # whoever kills it wants its cores back
        signals.end_after(parent.join)
    threads.use(share)
    progress.beside_others()


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """What is started in here has interrupts wait. One goes to every process of a terminal or
    kernel, but it is for this one: the others have nothing to say to it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
