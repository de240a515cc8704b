"""Who computes runs. A launcher takes configurations and yields their runs, in order."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

from fmlora_lab.config import RunConfig
from fmlora_lab.runs.run import run
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
    """Shared out to worker processes; on a CPU more than one a core gets in the others' way."""

    def launch(
        configs: Iterable[RunConfig], runs_dir: Path | str | None, use_shipped: bool
    ) -> Iterator[Run]:
        one = partial(run, runs_dir=runs_dir, use_shipped=use_shipped)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(one, configs)

    return launch
