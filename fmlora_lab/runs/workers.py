"""Processes of this machine that compute runs, each in turn what it is given."""

import faulthandler
import os
import signal
import socket
import sys
import traceback
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from multiprocessing import connection, get_context
from pathlib import Path

import torch

from fmlora_lab import progress, signals
from fmlora_lab.config import BadInput, RunConfig, validated
from fmlora_lab.files import make_folder
from fmlora_lab.runs.own import modules_to_import
from fmlora_lab.runs.pool import begin, interrupts_wait
from fmlora_lab.runs.run import run
from fmlora_lab.runs.stored import run_folder
from fmlora_lab.runs.watch import State

LOG = "log.txt"
"""In a run's folder: what the processes that computed it said."""
LOOK = 1.0
"""Seconds from one look at what running runs say to the next."""


def visible_gpus() -> list[str]:
    """CUDA's devices as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(k) for k in range(torch.cuda.device_count())]


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
        self.modules = modules_to_import(new.values(), by_script=True)
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
                raise BadInput(
                    f"a worker process could not begin ({error}); in a script a sweep's call "
                    "stands under `if __name__ == '__main__':`"
                ) from None
        if worker.on is not None:
            self._note(worker.on, error)
            worker.on = None
        if error is None and self.left:
            name = self.left.popleft()
            self.states[name] = State("running")
            worker.take(name, self.new[name], self.runs_dir, self._log(name), self.modules)
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
        with interrupts_wait():
            self.process.start()
        theirs.close()

    def take(
        self,
        name: str,
        config: RunConfig,
        runs_dir: Path | str | None,
        log: Path,
        modules: list[str],
    ) -> None:
        self.on = name
        # As text: it is read when the modules are there that know its method.
        self.pipe.send((config.model_dump_json(), runs_dir, log, modules))

    def death(self) -> str:
        """What ended the process, for readers."""
        self.process.join()
        code = self.process.exitcode or 0
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _work(asks: connection.Connection, share: int, gpu: str | None) -> None:
    """What a worker does: each run it is sent, until one fails or no more comes."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    begin(share)
    asks.send(None)
    with suppress(EOFError):
        while True:
            error = compute(*asks.recv())
            asks.send(error)
            if error is not None:
                return


def compute(config: str, runs_dir: Path | str | None, log: Path, modules: list[str]) -> str | None:
    """Compute a run, given as JSON, for another process, in which these modules know its method:
    whatever is said from now on goes to its log, its traceback too. Returns the last line of its
    error, if it failed. AskedToStop passes."""
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
        for module in modules:
            import_module(module)
        run(validated(config), runs_dir)
    except signals.AskedToStop:
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
