"""A run's folder: written atomically, checked whenever it is read, and read without torch.

    runs/<run_id>/
      config.json            the resolved configuration
      environment.json       versions, device, fingerprints of data and weights
      progress.jsonl         one line an epoch
      tasks/NN.safetensors   what analysis needs of task NN
      checkpoint.safetensors what resuming needs (kept at the end: it is the trained state)
      result.json            written last; its presence means complete
      derived/NAME.json      what an analysis once computed of it (or NAME.safetensors)

A shipped run has the JSON files and `records.safetensors`: the small records of its tasks.

Every file is written beside its place, synced and moved over it, and carries a SHA-256 of its
content, so that a truncated or altered file is named and never silently used or recomputed.
Nothing is ever unpickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fmlora_lab.config import BadInput
from fmlora_lab.files import write_atomically

Arrays = dict[str, np.ndarray]

RESULTS = Path(str(files("fmlora_lab") / "results"))
"""The shipped runs, a folder a collection."""
EXAMPLES = Path(str(files("fmlora_lab") / "examples"))
"""Shipped runs with what the explorers show of them; `fmlora-lab examples` makes them."""
SMALL = 64
"""A shipped run keeps the records of at most this many numbers, and its prompts."""


class DamagedFile(BadInput):
    """A file of a run's folder is truncated or altered."""

    def __init__(self, file: Path, why: str):
        super().__init__(
            f"{file} is damaged ({why}); restore it, or compute the run anew after "
            "`fmlora-lab runs delete`"
        )


def runs_root(folder: Path | str | None = None) -> Path:
    """The folder of all runs: the one given, or $FMLORA_RUNS, or ./runs."""
    return Path(folder or os.environ.get("FMLORA_RUNS") or "runs")


class RunFolder:
    """One run's folder. Reading checks each file; writing replaces it in one step."""

    def __init__(self, root: Path, run_id: str):
        self.root, self.run_id, self.path = root, run_id, root / run_id

    def lock(self) -> FileLock:
        """Held by the one process that writes this run."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / f"{self.run_id}.lock")

    @property
    def complete(self) -> bool:
        return (self.path / "result.json").exists()

    def read_json(self, name: str) -> dict[str, Any]:
        return _unseal(self.path / name, self._bytes(name))

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps({"sha256": _digest(content), **content}, indent=1) + "\n"
        self._write(name, text.encode())

    def read_progress(self) -> list[dict[str, Any]]:
        """One dictionary an epoch, in order."""
        if not (self.path / "progress.jsonl").exists():
            return []
        file = self.path / "progress.jsonl"
        return [_unseal(file, line) for line in self._bytes("progress.jsonl").splitlines()]

    def write_progress(self, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps({"sha256": _digest(line), **line}) + "\n" for line in lines)
        self._write("progress.jsonl", text.encode())

    def read_arrays(self, name: str) -> tuple[Arrays, dict[str, Any]]:
        """Arrays by name, and the JSON notes kept with them."""
        file = self.path / name
        if not file.exists():
            raise DamagedFile(file, "it is missing")
        try:
            with safe_open(file, framework="numpy") as opened:
                arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
                metadata = opened.metadata() or {}
        except (SafetensorError, OSError, ValueError) as error:
            raise DamagedFile(file, str(error)) from error
        notes = metadata.get("notes", "")
        if metadata.get("sha256") != _array_digest(arrays, notes):
            raise DamagedFile(file, "its content does not match its checksum")
        return arrays, json.loads(notes)

    def write_arrays(self, name: str, arrays: Arrays, notes: dict[str, Any]) -> None:
        arrays = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
        text = json.dumps(notes)
        metadata = {"notes": text, "sha256": _array_digest(arrays, text)}
        self._write(name, save(arrays, metadata))

    def _write(self, name: str, content: bytes) -> None:
        write_atomically(self.path / name, lambda file: file.write(content))

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError as error:
            raise DamagedFile(self.path / name, "it is missing") from error


class FolderKeeper:
    """Keeps a run in training in its folder (the `Keeper` of the training loop)."""

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.lines: list[dict[str, Any]] = []

    def load_checkpoint(self) -> tuple[Arrays, dict[str, Any]] | None:
        """The state to go on from, or None; progress after it is forgotten."""
        self.lines = self.folder.read_progress()
        if not (self.folder.path / "checkpoint.safetensors").exists():
            self.lines = []
            return None
        arrays, notes = self.folder.read_arrays("checkpoint.safetensors")
        self.lines = self.lines[: notes["lines"]]
        return arrays, notes["position"]

    def save_checkpoint(self, tensors: Arrays, position: dict[str, Any]) -> None:
        notes = {"position": position, "lines": len(self.lines)}
        self.folder.write_arrays("checkpoint.safetensors", tensors, notes)

    def save_task(self, index: int, tensors: Arrays) -> None:
        self.folder.write_arrays(task_file(index), tensors, {})

    def log(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self.folder.write_progress(self.lines)


class Run:
    """A complete run, as it is on disk. Nothing of it needs torch."""

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.id = folder.run_id
        self.config: dict[str, Any] = folder.read_json("config.json")
        self.result: dict[str, Any] = folder.read_json("result.json")

    def __repr__(self) -> str:
        return f"Run({self.id}: {self.config['method']['name']}, Acc {self.result['acc']:.1f})"

    @property
    def accuracy_matrix(self) -> np.ndarray:
        """a (N, N) in percent of the head that ranks this run; NaN where not measured."""
        return np.array(self.result["accuracy_matrix"], dtype=float)

    @property
    def environment(self) -> dict[str, Any]:
        return self.folder.read_json("environment.json")

    def progress(self) -> list[dict[str, Any]]:
        """One dictionary an epoch: task, stage, epoch, loss, seconds."""
        return self.folder.read_progress()

    def task(self, index: int) -> Arrays:
        """What the method recorded of task `index` (from 0), by name; of a shipped run only what
        is small."""
        if not self.shipped:
            return self.folder.read_arrays(task_file(index))[0]
        records, prefix = self.folder.read_arrays(RECORDS)[0], f"{index:02d}."
        return {k.removeprefix(prefix): a for k, a in records.items() if k.startswith(prefix)}

    @property
    def shipped(self) -> bool:
        """Whether this run came with the lab, so that only its small files are here."""
        return (self.folder.path / RECORDS).exists()

    def derived(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `compute` gives, kept with the run under `name` and read from there afterwards."""
        file = f"derived/{name}.json"
        if (self.folder.path / file).exists():
            return self.folder.read_json(file)
        self._needs_factors(name)
        found = compute()
        self.folder.write_json(file, found)
        return found

    def derived_arrays(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """`derived`, for arrays by name."""
        file = f"derived/{name}.safetensors"
        if (self.folder.path / file).exists():
            return self.folder.read_arrays(file)[0]
        self._needs_factors(name)
        found = compute()
        self.folder.write_arrays(file, found, {})
        return found

    def _needs_factors(self, name: str) -> None:
        if self.shipped:
            raise BadInput(
                f"run {self.id} came with the lab without its trained factors, which {name!r} "
                "needs; compute it anew with --fresh"
            )

    def check(self) -> None:
        """Read every file once; DamagedFile names the first that is not as it was written."""
        if self.shipped:
            self.environment, self.folder.read_arrays(RECORDS)
            return
        self.environment, self.progress()
        for index in range(self.result["task_files"]):
            self.task(index)
        self.folder.read_arrays("checkpoint.safetensors")


RECORDS = "records.safetensors"


def task_file(index: int) -> str:
    return f"tasks/{index:02d}.safetensors"


def runs(runs_dir: Path | str | None = None) -> list[Run]:
    """All complete runs, by name. BadInput names a damaged file."""
    root = runs_root(runs_dir)
    return [Run(RunFolder(root, path.parent.name)) for path in sorted(root.glob("*/result.json"))]


def find(run_id: str, runs_dir: Path | str | None = None) -> RunFolder:
    """The one run whose name begins with `run_id`, complete or not. BadInput if none or several."""
    root = runs_root(runs_dir)
    found = [p.parent.name for p in root.glob("*/config.json") if p.parent.name.startswith(run_id)]
    if len(found) != 1:
        known = (
            "no run's name begins so" if not found else f"it could be {', '.join(sorted(found))}"
        )
        raise BadInput(f"run {run_id!r} in {root}: {known}; `fmlora-lab runs` lists them")
    return RunFolder(root, found[0])


def stored_run(folder: RunFolder) -> Run:
    """The run in a folder; BadInput while it is not complete."""
    if not folder.complete:
        raise BadInput(f"run {folder.run_id} is not complete; the command that began it resumes it")
    return Run(folder)


def use_shipped() -> bool:
    """Whether studies take the runs that came with the lab; FMLORA_FRESH=1 says no."""
    return not os.environ.get("FMLORA_FRESH")


def shipped(run_id: str) -> Run | None:
    """The run of that name that came with the lab, if it did."""
    for path in sorted(RESULTS.glob(f"*/{run_id}")):
        return Run(RunFolder(path.parent, run_id))
    return None


def ship(run: Run, root: Path) -> None:
    """Put a run's small files into another root, where `runs` finds them.

    Configuration, environment, result, what was derived, and of each task's record the arrays of
    at most SMALL numbers and the prompts; of paths only the last part is kept.
    """
    folder = RunFolder(root, run.id)
    config = json.loads(json.dumps(run.config))
    for part, name in (("benchmark", "data"), ("backbone", "weights")):
        if config[part].get(name):
            config[part][name] = Path(config[part][name]).name
    folder.write_json("config.json", config)
    folder.write_json("environment.json", run.environment)
    records = {
        f"{index:02d}.{name}": array.astype(np.float16) if name == "prompts" else array
        for index in range(run.result["task_files"])
        for name, array in run.task(index).items()
        if array.size <= SMALL or name == "prompts"
    }
    folder.write_arrays(RECORDS, records, {})
    for path in sorted(run.folder.path.glob("derived/*.json")):
        folder.write_json(f"derived/{path.name}", run.folder.read_json(f"derived/{path.name}"))
    folder.write_json("result.json", run.result)


def delete(folder: RunFolder) -> None:
    """Remove a run from disk, when no process is writing it."""
    with folder.lock():
        shutil.rmtree(folder.path)
    Path(folder.lock().lock_file).unlink(missing_ok=True)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _unseal(file: Path, text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
        seal = content.pop("sha256")
    except (ValueError, KeyError, AttributeError) as error:
        raise DamagedFile(file, "it is no whole JSON") from error
    if seal != _digest(content):
        raise DamagedFile(file, "its content does not match its checksum")
    return content


def _array_digest(arrays: Arrays, notes: str) -> str:
    digest = hashlib.sha256(notes.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
