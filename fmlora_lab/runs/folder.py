"""A run's folder: written atomically, checked whenever it is read, without torch.

    runs/<run_id>/
      config.json            the resolved configuration
      environment.json       versions, device, the method's title, class names, fingerprints
      progress.jsonl         one line an epoch
      tasks/NN.safetensors   what analysis needs of task NN
      features/NN.safetensors  test images' features after task NN, where they were asked for
      checkpoint.safetensors what resuming needs (kept at the end: it is the trained state)
      result.json            written last; its presence means complete
      derived/NAME.json      what an analysis once computed of it (or NAME.safetensors)

Every file is written beside its place, synced and moved over it, and carries a SHA-256 of its
content, so that a truncated or altered file is named and never silently used or recomputed.
Nothing is ever unpickled.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fmlora_lab.config import BadInput
from fmlora_lab.files import TEMPORARY, write_atomically

Arrays = dict[str, np.ndarray]

RECORDS = "records.safetensors"
"""Of a shipped run, in the place of checkpoint and tasks: what readers open of these."""


class DamagedFile(BadInput):
    """A file of a run's folder is truncated or altered."""

    def __init__(self, file: Path, why: str):
        self.file, self.why = file, why
        super().__init__(
            f"{file} is damaged ({why}); restore it, or compute the run anew after "
            "`fmlora-lab runs delete`"
        )

    def __reduce__(self) -> tuple:
        return type(self), (self.file, self.why)  # as another process hands it on


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

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock, and give it back whatever ends the block: a traceback that a notebook
        keeps would otherwise keep it too. Says so where it has to wait for another process."""
        lock = self.lock()
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(f"another process is computing run {self.run_id}; waiting", file=sys.stderr)
                lock.acquire()
            yield
        finally:
            lock.release(force=True)

    @property
    def complete(self) -> bool:
        return self.has("result.json")

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return (self.path / name).exists()

    def derived_files(self) -> list[str]:
        """Names of what was derived, as this class takes them."""
        return sorted(f"derived/{path.name}" for path in self.path.glob("derived/*"))

    def read_json(self, name: str) -> dict[str, Any]:
        return _unseal(self.path / name, self._bytes(name))

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        self._write(name, sealed(content))

    def read_progress(self) -> list[dict[str, Any]]:
        """One dictionary an epoch, in order."""
        if not self.has("progress.jsonl"):
            return []
        file = self.path / "progress.jsonl"
        return [_unseal(file, line) for line in self._bytes("progress.jsonl").splitlines()]

    def write_progress(self, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps({"sha256": _digest(line), **line}) + "\n" for line in lines)
        self._write("progress.jsonl", text.encode())

    def read_arrays(self, name: str) -> tuple[Arrays, dict[str, Any]]:
        """Arrays by name, and the JSON notes kept with them."""
        file = self.path / name
        if not self.has(name):
            raise DamagedFile(file, "it is missing")
        try:
            arrays, metadata = self._opened(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise DamagedFile(file, str(error)) from error
        notes = metadata.get("notes", "")
        if metadata.get("sha256") != _array_digest(arrays, notes):
            raise DamagedFile(file, "its content does not match its checksum")
        return arrays, json.loads(notes)

    def write_arrays(self, name: str, arrays: Arrays, notes: dict[str, Any]) -> None:
        self._write(name, sealed_arrays(arrays, notes))

    def _opened(self, name: str) -> tuple[Arrays, dict[str, str]]:
        """Arrays and metadata of a safetensors file."""
        with safe_open(self.path / name, framework="numpy") as opened:
            arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            return arrays, opened.metadata() or {}

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
        """The state to go on from, or None; progress after it is forgotten, and so is what a
        killed process had begun to write."""
        for begun in self.folder.path.rglob(f"{TEMPORARY}*"):
            begun.unlink()
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

    def save_features(self, index: int, features: Arrays) -> None:
        self.folder.write_arrays(features_file(index), features, {})

    def log(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self.folder.write_progress(self.lines)


def sealed(content: dict[str, Any]) -> bytes:
    """JSON with the checksum of its content in it."""
    return (json.dumps({"sha256": _digest(content), **content}, indent=1) + "\n").encode()


def sealed_arrays(arrays: Arrays, notes: dict[str, Any]) -> bytes:
    """A safetensors file with the checksum of arrays and notes in its metadata; the same arrays
    and notes give the same bytes."""
    arrays = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    text = json.dumps(notes)
    content = save(arrays, {"notes": text, "sha256": _array_digest(arrays, text)})
    # The library writes the metadata in an order that changes from call to call.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def task_file(index: int) -> str:
    return f"tasks/{index:02d}.safetensors"


def features_file(index: int) -> str:
    return f"features/{index:02d}.safetensors"


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
