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

Every file is written beside its place, synced and moved over it, and carries a seal: which file of
which run it is, and a SHA-256 of that and its content. So a truncated or altered file, or one in
another's place, is named and never silently used or recomputed. Seals of older runs, and those in
an archive, whose list of entries has a seal of its own, are of the content alone; of these a file
is known for another by what it says. Nothing is ever unpickled.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fmlora_lab import progress
from fmlora_lab.config import BadInput
from fmlora_lab.files import TEMPORARY, naming, there, write_atomically
from fmlora_lab.runs.claim import Claim

Arrays = dict[str, np.ndarray]

PROGRESS, FEATURES = "progress.jsonl", "features"
RECORDS = "records.safetensors"
"""Of a shipped run, in the place of checkpoint and tasks: what readers open of these."""
PLACE = "file_of_run"
"""Under which a seal says what file of which run it is of."""
SAYS = {"config.json": "training", "environment.json": "device", "result.json": "acc"}
"""By what a file whose seal does not say it is known for what it is."""


class DamagedFile(BadInput):
    """A file of a run's folder is lost, truncated, altered or another's."""

    def __init__(self, file: Path, why: str):
        self.file, self.why = file, why
        anew = ", or compute the run anew after `fmlora-lab runs delete`"
        in_archive = any(part.endswith(".zip") for part in file.parts)
        super().__init__(f"{file} is damaged ({why}); restore it{'' if in_archive else anew}")

    def __reduce__(self) -> tuple:
        return type(self), (self.file, self.why)  # as another process hands it on


def runs_root(folder: Path | str | None = None) -> Path:
    """The folder of all runs: the one given, or $FMLORA_RUNS, or ./runs. BadInput for what is no
    path."""
    if not isinstance(folder, Path | str | None):
        raise BadInput(f"a runs folder is a path; this is a {type(folder).__name__}: {folder!r}")
    return Path(folder or os.environ.get("FMLORA_RUNS") or "runs")


class RunFolder:
    """One run's folder. Reading checks each file; writing replaces it in one step."""

    def __init__(self, root: Path, run_id: str):
        self.root, self.run_id, self.path = root, run_id, root / run_id
        self.held: Claim | None = None

    def lock(self) -> Claim:
        """Held by the one process that writes this run."""
        return Claim(self.path / "claim")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock, and give it back whatever ends the block: a traceback that a notebook
        keeps would otherwise keep it too. Says so where it has to wait for another process.
        What is written in the block, is written while it is held, or `Lost` is raised."""
        self.held = self.lock()
        try:
            with naming(self.held.path):
                try:
                    self.held.acquire(timeout=0)
                except TimeoutError:
                    said = f"another process is computing run {self.run_id}; waiting"
                    progress.say(said)
                    self.held.acquire()
            yield
        finally:
            self.held.release()
            self.held = None

    @property
    def complete(self) -> bool:
        return self.has("result.json")

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return there(self.path / name)

    def derived_files(self) -> list[str]:
        """Names of what was derived, as this class takes them."""
        return sorted(f"derived/{path.name}" for path in self.path.glob("derived/*"))

    def read_json(self, name: str) -> dict[str, Any]:
        return self._unsealed(name, self._bytes(name))

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        self._write(name, sealed(content, self._place(name)))

    def read_progress(self) -> list[dict[str, Any]]:
        """One dictionary an epoch, in order."""
        if not self.has(PROGRESS):
            return []
        lines = self._bytes(PROGRESS).splitlines()
        return [self._unsealed(PROGRESS, line, f":{i}") for i, line in enumerate(lines, 1)]

    def write_progress(self, lines: list[dict[str, Any]]) -> None:
        sealed_ones = (
            sealed(line, self._place(f"{PROGRESS}:{i}"), None) for i, line in enumerate(lines, 1)
        )
        self._write(PROGRESS, b"".join(sealed_ones))

    def progress_at(self, checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
        """The epochs up to a checkpoint of these notes. DamagedFile where there are fewer."""
        lines = self.read_progress()
        if len(lines) < checkpoint["lines"]:
            why = f"{checkpoint['lines'] - len(lines)} of {checkpoint['lines']} epochs are missing"
            raise DamagedFile(self.path / PROGRESS, why)
        return lines[: checkpoint["lines"]]

    def read_arrays(self, name: str) -> tuple[Arrays, dict[str, Any]]:
        """Arrays by name, and the JSON notes kept with them."""
        file = self.path / name
        try:
            arrays, metadata = self._opened(name)
        except FileNotFoundError as error:
            raise DamagedFile(file, "it is missing") from error
        except (SafetensorError, ValueError) as error:
            raise DamagedFile(file, str(error)) from error
        notes, own = metadata.get("notes", ""), metadata.get(PLACE)
        if metadata.get("sha256") != _array_digest(arrays, notes, own):
            raise DamagedFile(file, "its content does not match its checksum")
        self._check_place(name, own)
        return arrays, json.loads(notes)

    def write_arrays(self, name: str, arrays: Arrays, notes: dict[str, Any]) -> None:
        self._write(name, sealed_arrays(arrays, notes, self._place(name)))

    def _place(self, name: str) -> str:
        """What a seal says of a file."""
        return f"{self.run_id}/{name}"

    def _check_place(self, name: str, own: str | None, line: str = "") -> None:
        if own not in (None, self._place(name) + line):
            raise DamagedFile(self.path / name, f"it is {own}")

    def _unsealed(self, name: str, text: bytes, line: str = "") -> dict[str, Any]:
        """The content of a file of JSON, or of a line of it."""
        try:
            content = json.loads(text)
            seal = content.pop("sha256")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DamagedFile(self.path / name, "it is no whole JSON") from error
        if seal != _digest(content):
            raise DamagedFile(self.path / name, "its content does not match its checksum")
        own = content.pop(PLACE, None)
        self._check_place(name, own, line)
        known = SAYS.get(name) in (None, *content)
        if own is None and not (known and content.get("run_id", self.run_id) == self.run_id):
            raise DamagedFile(self.path / name, "it is another file")
        return content

    def _opened(self, name: str) -> tuple[Arrays, dict[str, str]]:
        """Arrays and metadata of a safetensors file."""
        with naming(self.path / name), (self.path / name).open("rb"):
            pass  # what the system refuses, the library would say in words of its own
        with safe_open(self.path / name, framework="numpy") as opened:
            arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            return arrays, opened.metadata() or {}

    def _write(self, name: str, content: bytes) -> None:
        if self.held is not None:
            self.held.check()
        write_atomically(self.path / name, lambda file: file.write(content))

    def _bytes(self, name: str) -> bytes:
        try:
            with naming(self.path / name):
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
        killed process had begun to write. DamagedFile where a task's file is lost or damaged:
        better now than after all the others."""
        for begun in self.folder.path.rglob(f"{TEMPORARY}*"):
            begun.unlink(missing_ok=True)  # of others that ask for this run, too
        self.lines = []
        if not self.folder.has("checkpoint.safetensors"):
            return None
        arrays, notes = self.folder.read_arrays("checkpoint.safetensors")
        self.lines = self.folder.progress_at(notes)
        for index in range(notes["position"]["task"]):
            self.folder.read_arrays(task_file(index))
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


def sealed(content: dict[str, Any], place: str | None, indent: int | None = 1) -> bytes:
    """JSON with its seal in it: `place` says which file of which run it is, None in an archive."""
    content = content if place is None else {PLACE: place, **content}
    return (json.dumps({"sha256": _digest(content), **content}, indent=indent) + "\n").encode()


def sealed_arrays(arrays: Arrays, notes: dict[str, Any], place: str | None) -> bytes:
    """A safetensors file with its seal in its metadata, as `sealed`; the same arrays, notes and
    place give the same bytes."""
    arrays = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    text = json.dumps(notes)
    metadata = {"notes": text, "sha256": _array_digest(arrays, text, place)}
    content = save(arrays, metadata if place is None else {**metadata, PLACE: place})
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


def _array_digest(arrays: Arrays, notes: str, place: str | None) -> str:
    digest = hashlib.sha256(f"{place or ''}{notes}".encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
