"""Who computes runs. A launcher takes configurations and yields their runs, in order.

The run store is the result: whoever computes a run leaves it there, what it said in `log.txt`
beside it, and is asked for nothing else.
"""

import faulthandler
import os
import signal
import socket
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Protocol

import torch

from fmlora_lab import interrupts, progress, stopping, threads
from fmlora_lab.config import BadInput, RunConfig, validated
from fmlora_lab.files import check_writable, make_folder
from fmlora_lab.interrupts import Stopped
from fmlora_lab.runs.folder import runs_root
from fmlora_lab.runs.identity import identity
from fmlora_lab.runs.run import find_stored, run
from fmlora_lab.runs.stored import Run, run_folder
from fmlora_lab.runs.watch import Skipped, State, current

LOG = "log.txt"
"""In a run's folder: what the processes that computed it said."""
LOOK = 1.0
"""Seconds from one look at what running runs say to the next."""


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


def processes(workers: int | None = None, cores: int = 1, retry: int = 0) -> Launcher:
    """Shared out to worker processes: with CUDA one a GPU, on a CPU one for each `cores` of the
    machine's; or as many `workers` as are given, which share out GPUs and cores.

    A run that dies, by an exception or a signal, does not stop the others; it is begun again up to
    `retry` times, and goes on from its last checkpoint. Steps of a small network gain little from a
    second core, two runs beside each other much. BadInput for less than one worker or core.
    """
    for name, value in (("workers", workers), ("cores", cores)):
        if value is not None and value < 1:
            raise BadInput(f"{name} is {value}; at least 1 is needed")

    def begin(new: Mapping[str, RunConfig], runs_dir: Path | str | None) -> Workers:
        gpus, all_cores = visible_gpus(), os.cpu_count() or 1
        count = workers or len(gpus) or max(1, all_cores // cores)
        share = max(1, all_cores // count) if workers or gpus else cores
        return Workers(new, runs_dir, count, share, gpus, retry)

    return followed(begin)


def visible_gpus() -> list[str]:
    """CUDA's devices as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(k) for k in range(torch.cuda.device_count())]


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
        found = [find_stored(config, runs_dir, use_shipped) for config in configs]
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


class Workers:
    """Processes that take runs in turn. One that dies, or whose run fails, gives way to another."""

    def __init__(
        self,
        new: Mapping[str, RunConfig],
        runs_dir: Path | str | None,
        count: int,
        share: int,
        gpus: list[str],
        retry: int,
    ):
        """`count` of them at most, with `share` threads each; of the `gpus` one each in turn."""
        self.new, self.runs_dir, self.retry = new, runs_dir, retry
        self.slots = [(share, gpus[k % len(gpus)] if gpus else None) for k in range(count)]
        self.states = {name: State() for name in new}
        self.left, self.tried = deque(new), Counter[str]()
        self.at_work: dict[int, Worker] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.at_work.values():
            worker.process.kill()
            worker.process.join()

    def wait(self) -> None:
        for slot, (share, gpu) in enumerate(self.slots):
            if slot not in self.at_work and len(self.left) > self._beginning():
                self.at_work[slot] = Worker(share, gpu)
        ready = connection.wait([worker.pipe for worker in self.at_work.values()], LOOK)
        for slot, worker in [*self.at_work.items()]:
            if worker.pipe in ready:
                self._hear(slot, worker)
            elif worker.on is not None:
                self.states[worker.on].said = last_line(self._log(worker.on))

    def skip(self, name: str) -> None:
        if self.states[name].what not in ("queued", "running"):
            return
        self.states[name] = State("skipped", self.states[name].said)
        if name in self.left:
            self.left.remove(name)
        for slot, worker in [*self.at_work.items()]:
            if worker.on == name:
                del self.at_work[slot]
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()

    def _beginning(self) -> int:
        return sum(worker.on is None for worker in self.at_work.values())

    def _log(self, name: str) -> Path:
        return run_folder(name, self.runs_dir).path / LOG

    def _hear(self, slot: int, worker: "Worker") -> None:
        """A worker is ready for its first run, or has done one, or died."""
        try:
            error = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            error = worker.death()
            if worker.on is None:
                raise RuntimeError(
                    f"a worker process could not begin ({error}); in a script a sweep's call "
                    "stands under `if __name__ == '__main__':`"
                ) from None
        if worker.on is not None:
            self._note(worker.on, error)
            worker.on = None
        if error is None and self.left:
            name = self.left.popleft()
            self.states[name] = State("running")
            worker.take(name, self.new[name], self.runs_dir, self._log(name))
        else:
            del self.at_work[slot]
            worker.pipe.close()  # at which it ends
            worker.process.join()

    def _note(self, name: str, error: str | None) -> None:
        if error is None:
            self.states[name] = State("done")
            return
        progress.say(f"run {name} failed: {error}; log {self._log(name)}")
        self.tried[name] += 1
        again = self.tried[name] <= self.retry
        self.states[name] = State("queued" if again else "failed", error)
        if again:
            self.left.append(name)


class Worker:
    """A process and the run it is on; None until it is ready for its first."""

    def __init__(self, share: int, gpu: str | None):
        context = get_context("spawn")
        self.on: str | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, share, gpu), daemon=True)
        with _interrupts_wait():
            self.process.start()
        theirs.close()

    def take(self, name: str, config: RunConfig, runs_dir: Path | str | None, log: Path) -> None:
        self.on = name
        # As text: what a notebook defines for itself is not known to another process.
        self.pipe.send((config.model_dump_json(), runs_dir, log))

    def death(self) -> str:
        """What ended the process, for readers."""
        self.process.join()
        code = self.process.exitcode or 0
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _work(asks: connection.Connection, share: int, gpu: str | None) -> None:
    """What a worker does: each run it is sent, until one fails or no more comes."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    _begin(share)
    asks.send(None)
    with suppress(EOFError):
        while True:
            config, runs_dir, log = asks.recv()
            error = compute(config, runs_dir, log)
            asks.send(error)
            if error is not None:
                return


def compute(config: str, runs_dir: Path | str | None, log: Path) -> str | None:
    """Compute a run, given as JSON, for another process: whatever is said from now on goes to its
    log, its traceback too. Returns the last line of its error, if it failed. Stopped passes."""
    make_folder(log.parent)
    with log.open("ab", 0) as file:
        for standard in (1, 2):
            os.dup2(file.fileno(), standard)
    progress.into_a_file()
    faulthandler.enable()
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    where = f"process {os.getpid()} on {socket.gethostname()}"
    progress.say(f"-- {where}{f', GPU {gpu}' if gpu else ''}")
    try:
        run(validated(config), runs_dir)
    except stopping.Stopped:
        progress.say("asked to stop; what was learned is stored")
        raise
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}".rstrip().splitlines()[-1]
    finally:
        sys.stdout.flush()
    return None


def last_line(log: Path) -> str:
    """What stands at the end of a log; nothing where there is none."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 1000))
        return file.read().decode(errors="replace").strip().rpartition("\n")[2]
    return ""


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """What is started in here has interrupts wait. One goes to every process of a terminal or
    kernel, but it is for this one: the others have nothing to say to it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Pool(ProcessPoolExecutor):
    """Processes that share the cores out among them and do not write over each other's bars.

    What ends the `with` block early ends the work too: what was not begun never is, and an
    interrupt stops the others where they are.
    """

    def __init__(self, workers: int):
        share = max(1, (os.cpu_count() or 1) // workers)
        how = get_context("spawn")
        self._over = how.Event()
        super().__init__(workers, how, _begin_in_pool, (share, self._over))

    def submit(self, *what: Any, **how: Any) -> Future:
        with _interrupts_wait():  # processes are started here
            return super().submit(*what, **how)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self._over.set()
        self.shutdown(cancel_futures=kind is not None)


def _begin_in_pool(share: int, over: Event) -> None:
    _end_after(over.wait)
    _begin(share)


def _begin(share: int) -> None:
    if (parent := parent_process()) is not None:  # whoever kills it wants its cores back
        _end_after(parent.join)
    threads.use(share)
    progress.beside_others()


def _end_after(wait: Callable[[], object]) -> None:
    """End this process when `wait` returns, as if killed, which no run minds."""

    def end() -> None:
        wait()
        os._exit(1)

    Thread(target=end, daemon=True).start()
