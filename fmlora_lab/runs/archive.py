"""What ships: a collection of runs as one deterministic zip, and a readable CSV beside it.

An archive is opened like a runs folder, without unpacking. Of a run it holds configuration,
environment, result, what was derived, and of each task's record the arrays that readers open
(the method's record names them): no weights. The CSV has a row a run, settings and metrics, so
that a change of the archive shows in a diff.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn
from zipfile import ZipFile, ZipInfo

import numpy as np
from safetensors.numpy import load

from fmlora_lab.config import BadInput
from fmlora_lab.files import there, write_together
from fmlora_lab.runs.claim import Claim
from fmlora_lab.runs.folder import RECORDS, Arrays, DamagedFile, RunFolder, sealed, sealed_arrays
from fmlora_lab.runs.triangles import folded, folded_arrays, unfolded, unfolded_arrays

if TYPE_CHECKING:
    from fmlora_lab.runs.stored import Run

RELATIONS = "derived/relations.safetensors"
EXPERTS = "derived/experts.safetensors"
"""What the explorers show of an example beside its records: one of these, or both."""
RESULTS = Path(str(files("fmlora_lab") / "results"))
"""The collections that came with the lab."""


class ArchivedRun(RunFolder):
    """A run in an archive, read as if the archive were its folder."""

    def __init__(self, archive: "Archive", run_id: str):
        super().__init__(archive.path, run_id)
        self.archive = archive

    def has(self, name: str) -> bool:
        return f"{self.run_id}/{name}" in self.archive.names

    def derived_files(self) -> list[str]:
        start = f"{self.run_id}/derived/"
        own = (name for name in self.archive.names if name.startswith(start))
        return sorted(name.removeprefix(f"{self.run_id}/") for name in own)

    def read_json(self, name: str) -> dict[str, Any]:
        return unfolded(super().read_json(name))

    def read_arrays(self, name: str) -> tuple[Arrays, dict[str, Any]]:
        arrays, notes = super().read_arrays(name)
        return unfolded_arrays(arrays), notes

    def _bytes(self, name: str) -> bytes:
        if not self.has(name):
            raise DamagedFile(self.path / name, "it is missing")
        return self.archive.read(f"{self.run_id}/{name}")

    def _opened(self, name: str) -> tuple[Arrays, dict[str, str]]:
        content = self._bytes(name)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return load(content), header.get("__metadata__", {})

    def _write(self, name: str, content: bytes) -> NoReturn:
        raise BadInput(f"{self.archive.path} is an archive, in which no run is written or deleted")

    def lock(self) -> NoReturn:
        self._write("", b"")


class Archive:
    """An open archive: its names are read once, its entries when they are asked for."""

    def __init__(self, path: Path):
        self.path, file = path, path.open("rb")
        try:
            self.zip = ZipFile(file)
            self.names = frozenset(self.zip.namelist())
        except Exception as error:  # damaged bytes raise nearly any type inside zipfile
            raise DamagedFile(path, str(error)) from error
        if self.zip.comment and self.zip.comment != _checksum(self.zip):
            raise DamagedFile(path, "its list of entries does not match its checksum")

    def read(self, name: str) -> bytes:
        try:
            return self.zip.read(name)
        except Exception as error:
            raise DamagedFile(self.path / name, str(error)) from error

    def runs(self) -> dict[str, ArchivedRun]:
        """All by name; whoever opens one finds what it lacks."""
        ids = sorted({name.split("/")[0] for name in self.names})
        return {run_id: ArchivedRun(self, run_id) for run_id in ids}


@lru_cache(32)
def _opened(path: Path, modified: int) -> Archive:
    return Archive(path)


def opened(path: Path) -> Archive:
    """The archive at a path, opened once as long as it does not change. BadInput if there is none,
    DamagedFile if it cannot be read."""
    if not there(path):
        raise BadInput(f"there is no archive {path}")
    return _opened(path, path.stat().st_mtime_ns)


def archived(path: Path) -> dict[str, ArchivedRun]:
    """The runs in an archive by name. BadInput as `opened`."""
    return opened(path).runs()


def collections() -> dict[str, Path]:
    """The archives that came with the lab, by name."""
    return {path.stem: path for path in sorted(RESULTS.glob("*.zip"))}


def prepared() -> list[ArchivedRun]:
    """The examples: runs that came with the lab with all that the explorers show of them, by
    name."""
    examples = [
        ArchivedRun(archive, name.split("/")[0])
        for archive in map(opened, collections().values())
        for name in archive.names
        if name.endswith((f"/{RELATIONS}", f"/{EXPERTS}"))
    ]
    return sorted(examples, key=lambda run: run.run_id)


def use_shipped() -> bool:
    """Whether sweeps take the runs that came with the lab; FMLORA_FRESH=1 says no."""
    return not os.environ.get("FMLORA_FRESH")


def shipped(*run_ids: str) -> ArchivedRun | None:
    """The first run of these names that came with the lab, if one did."""
    for run_id in run_ids:
        for path in collections().values():
            if (found := ArchivedRun(opened(path), run_id)).complete:
                return found
    return None


def ship(runs: Iterable["Run"], archive: Path, read: Mapping[str, Collection[str]]) -> Path:
    """Write runs into `archive` (NAME.zip, with NAME.csv beside it), those it has already among
    them; returns its path. The same runs give the same bytes.

    `read` names, by method, the arrays of a task's record that go with it; of paths in
    configurations only the last part is kept. BadInput where there is no run, and where the CSV
    would take the place of another file.
    """
    alone = Claim(archive.with_name(f"{archive.name}.claim"))  # of two at once one lost its runs
    with alone.acquire():
        return _ship(runs, archive, read)


def _ship(runs: Iterable["Run"], archive: Path, read: Mapping[str, Collection[str]]) -> Path:
    entries: dict[str, bytes] = {}
    everything = {run.id: run for run in runs}
    if archive.is_file():
        from fmlora_lab.runs.stored import Run

        everything = {name: Run(f) for name, f in archived(archive).items()} | everything
    elif there(archive.with_suffix(".csv")):
        raise BadInput(f"{archive.with_suffix('.csv')} is there, and is not of a collection")
    if not everything:
        raise BadInput(f"there are no complete runs to go into {archive}")
    for run in everything.values():
        opens = read.get(run.method_name, ())
        entries |= {f"{run.id}/{name}": content for name, content in _parts(run, opens)}
    table = _readable(everything.values()).encode()
    zipped, beside = _zipped(entries), archive.with_suffix(".csv")
    write_together({archive: lambda f: f.write(zipped), beside: lambda f: f.write(table)})
    return archive


def _parts(run: "Run", opens: Collection[str]) -> Iterable[tuple[str, bytes]]:
    environment = run.environment | {"method": run.label._asdict()}
    yield "config.json", sealed(_portable(run), None, indent=None)
    yield "environment.json", sealed(environment, None, indent=None)
    yield "result.json", sealed(run.written, None, indent=None)
    if run.shipped:
        yield RECORDS, sealed_arrays(run.folder.read_arrays(RECORDS)[0], {}, None)
    else:
        yield RECORDS, sealed_arrays(_records(run, opens), {}, None)
    for name in run.folder.derived_files():
        if name.endswith(".json"):
            content = folded(rounded(run.folder.read_json(name)))
            yield name, sealed(content, None, indent=None)
        else:
            above = np.inf if name in (RELATIONS, EXPERTS) else 0  # explorers draw these
            arrays = run.folder.read_arrays(name)[0]
            small = {key: halved(array, above) for key, array in arrays.items()}
            yield name, sealed_arrays(folded_arrays(small), {}, None)


def _portable(run: "Run") -> dict[str, Any]:
    """A run's configuration with the last part of its paths alone."""
    config = json.loads(json.dumps(run.config))
    for part, name in (("benchmark", "data"), ("backbone", "weights")):
        if config[part].get(name):
            config[part][name] = PurePosixPath(config[part][name]).name
    return config


def _records(run: "Run", opens: Collection[str]) -> Arrays:
    """The arrays that readers open, by task, large ones in half precision; of an example also what
    every head said of the test images."""
    example = RELATIONS in run.folder.derived_files()
    return {
        f"{index:02d}.{name}": halved(array)
        for index in range(run.result["task_files"])
        for name, array in run.task(index).items()
        if name in opens or (example and name.startswith("said."))
    }


HALF_FROM = 256
"""Numbers from which a record's array is in half precision: prompts, not the selector's."""


def halved(array: np.ndarray, above: float = HALF_FROM) -> np.ndarray:
    large = array.size > above and np.issubdtype(array.dtype, np.floating)
    return array.astype(np.float16) if large else array


def rounded(content: Any) -> Any:
    """Its numbers in five significant digits: of what was derived, tables show three."""
    if isinstance(content, dict):
        return {name: rounded(value) for name, value in content.items()}
    if isinstance(content, list):
        return [rounded(value) for value in content]
    return float(f"{content:.5g}") if isinstance(content, float) else content


def _zipped(entries: dict[str, bytes]) -> bytes:
    """A zip that depends on nothing but its entries, by LZMA a tenth smaller than by deflate."""
    file = io.BytesIO()
    with ZipFile(file, "w") as out:
        for name in sorted(entries):
            info = ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr = zipfile.ZIP_LZMA, 0o644 << 16
            out.writestr(info, entries[name])
        out.comment = _checksum(out)
    return file.getvalue()


def _checksum(content: ZipFile) -> bytes:
    """Of the list of entries: each of them has its own, but the list has none."""
    listed = [(entry.filename, entry.CRC, entry.file_size) for entry in content.infolist()]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest().encode()


def _readable(runs: Iterable["Run"]) -> str:
    """The CSV: what all runs have first, so that another method's settings change no column."""
    import pandas as pd  # here, for explorers open archives too and do without it

    ordered = sorted(runs, key=lambda run: run.id)
    settings = pd.DataFrame([dotted(_portable(run)) for run in ordered])
    table = settings.join(pd.DataFrame([_metrics(run.result) for run in ordered]))
    table.insert(0, "run", [run.id for run in ordered])
    table = table.set_index(["run", "method.name", "seed"])
    of_methods = sorted(name for name in table if name.startswith("method."))
    return table[[*table.columns.drop(of_methods), *of_methods]].to_csv()


def dotted(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= dotted(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


METRICS = ("acc", "aaa", "learning_accuracy", "forgetting", "bwt")
OF_TASKS = ("within_task", "within_task_forgetting", "confusion")
COSTS = ("trainable_parameters", "kept_parameters", "inference_flops", "seconds")


def _metrics(result: dict[str, Any]) -> dict[str, Any]:
    by_head = {
        f"{name} by {head}": None if found.get(name) is None else round(found[name], 3)
        for head, found in result["heads"].items()
        for name in METRICS
    }
    of_tasks = {name: result.get(name) for name in OF_TASKS}
    by_head |= {name: None if v is None else round(v, 3) for name, v in of_tasks.items()}
    costs = {name: round(result[name], 1) for name in COSTS}
    return {"ranked by": result["ranked_by"], **by_head, **costs}
