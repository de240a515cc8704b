"""Who computes runs. A launcher takes configurations and yields their runs, in order.

The run store is the result: whoever computes a run leaves it there, what it said in `log.txt`
beside it, and is asked for nothing else.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fmlora_lab import interrupts, progress, threads
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.files import check_writable
from fmlora_lab.interrupts import Stopped
from fmlora_lab.runs.folder import runs_root
from fmlora_lab.runs.identity import identity
from fmlora_lab.runs.run import find_stored, run
from fmlora_lab.runs.stored import Run, run_folder
from fmlora_lab.runs.watch import Skipped, State, current
from fmlora_lab.runs.workers import LOG, Workers, visible_gpus


@dataclass(frozen=True)
class Failed:
    """In the place of a run that died: its name, the last line of its error, and its log."""

    run_id: str
    why: str
    log: Path


class Launcher(Protocol):
    """What is done stays done if it is interrupted, which is `Stopped`; whatever is stored is
    loaded. A run that dies raises, which ends the others too, or comes as `Failed`; one that
    somebody skips comes as `Skipped`. Whoever watches is told by `watch.current()`."""

    def __call__(
        self, configs: Iterable[RunConfig], runs_dir: Path | str | None, use_shipped: bool
    ) -> Iterator[Run | Failed | Skipped]: ...


def here(
    configs: Iterable[RunConfig], runs_dir: Path | str | None, use_shipped: bool
) -> Iterator[Run | Skipped]:
    """One after another in this process; one that fails ends the sweep."""
    configs, watch = list(configs), current()
    for number, config in enumerate(configs):
        own: Run | Skipped | None
        try:
            with interrupts.stopping("at its end"), watch.at_work(number):
                own = run(config, runs_dir, use_shipped)
        except Stopped as stopped:
            own = watch.skipped(number)
            if own is None:
                where = f"in run {number + 1} of {len(configs)}, {stopped.where}"
                raise Stopped(where) from stopped
        yield own


def processes(workers: int | None = None, cores: int | None = None, retry: int = 0) -> Launcher:
    """Shared out to worker processes: with CUDA one a GPU, on a CPU one for each `cores`, by
    default one, of those that this process may use; or as many `workers` as are given. They share
    out GPUs and, where `cores` does not say how many each has, cores.

    A run that dies, by an exception or a signal, does not stop the others; it is begun again up to
    `retry` times, and goes on from its last checkpoint. Steps of a small network gain little from a
    second core, two runs beside each other much. BadInput for less than one worker or core.
    """
    for name, value in (("workers", workers), ("cores", cores)):
        if value is not None and value < 1:
            raise BadInput(f"{name} is {value}; at least 1 is needed")

    def begin(new: Mapping[str, RunConfig], runs_dir: Path | str | None) -> Workers:
        gpus, all_cores = visible_gpus(), threads.cores()
        count = workers or len(gpus) or max(1, all_cores // (cores or 1))
        share = cores or (max(1, all_cores // count) if workers or gpus else 1)
        return Workers(new, runs_dir, count, share, gpus, retry)

    return followed(begin)


class Going(AbstractContextManager, Protocol):
    """Runs that are computed elsewhere, by name."""

    states: dict[str, State]

    def wait(self) -> None:
        """Until something may have changed; then `states` say what is known."""

    def skip(self, name: str) -> None:
        """Compute that run no further."""


def followed(
    begin: Callable[[Mapping[str, RunConfig], Path | str | None], Going],
) -> Launcher:
    """A launcher that gives what is not stored to `begin`, each name once, and shows how it goes
    until all runs are done or dead."""

    def launch(
        configs: Iterable[RunConfig], runs_dir: Path | str | None, use_shipped: bool
    ) -> Iterator[Run | Failed | Skipped]:
        configs, watch = list(configs), current()
        asked = progress.bar(configs, desc="stored runs", unit="run", delay=2, leave=False)
        found = [find_stored(config, runs_dir, use_shipped) for config in asked]
        names = [
            identity(config) if own is None else own.id
            for config, own in zip(configs, found, strict=True)
        ]
        new = {n: c for n, c, own in zip(names, configs, found, strict=True) if own is None}
        if not new:
            yield from filter(None, found)  # no process is begun for what is only read
            return
        for name in new:
            run_folder(name, runs_dir).lock()  # an archive refuses
        check_writable(runs_root(runs_dir))
        with begin(new, runs_dir) as going, _telling(going, len(configs)):
            for name, config, own in zip(names, configs, found, strict=True):
                while own is None and going.states[name].what in ("queued", "running"):
                    watch.stand(names, going.states)
                    going.wait()
                    for unwanted in watch.to_skip():
                        going.skip(unwanted)
                if own is not None:
                    yield own
                elif going.states[name].what == "done":
                    yield run(config, runs_dir, use_shipped)
                elif going.states[name].what == "skipped":
                    yield Skipped(name)
                else:
                    log = run_folder(name, runs_dir).path / LOG
                    yield Failed(name, going.states[name].said, log)

    return launch


@contextmanager
def _telling(going: Going, runs: int) -> Iterator[None]:
    """An interrupt in here is `Stopped` after so many of the runs."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        left = sum(state.what != "done" for state in going.states.values())
        raise Stopped(f"after {runs - left} of {runs} runs") from interrupt
