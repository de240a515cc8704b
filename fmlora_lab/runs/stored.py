"""Complete runs as they are on disk or in an archive. Nothing here imports torch."""

import errno
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from fmlora_lab.config import METHOD_LABELS, BadInput, MethodLabel
from fmlora_lab.files import TEMPORARY, naming, where_it_can_be_kept
from fmlora_lab.metrics import transfer
from fmlora_lab.runs.archive import ArchivedRun, archived, dotted, opened
from fmlora_lab.runs.folder import (
    FEATURES,
    RECORDS,
    Arrays,
    RunFolder,
    features_file,
    runs_root,
    task_file,
)
from fmlora_lab.runs.index import Brief, briefs, names

OLD_HEADS = {"head": "trained", "prototype": "means"}
"""Names of heads in runs of format 2 and older."""


class Run:
    """A complete run. Two are equal if they are one run at one place.

    `numbers` are those of its result, some or all of its matrices and lists left out.
    """

    def __init__(self, folder: RunFolder, brief: Brief | None = None):
        """`brief` is what is known of it already."""
        self.folder = folder
        self.id = folder.run_id
        self.config: dict[str, Any]
        self.numbers: dict[str, Any]
        self._shipped: bool | None = None if brief is None else brief["shipped"]
        if brief is not None:
            self.config, self.numbers = brief["config"], brief["numbers"]
            METHOD_LABELS.setdefault(self.method_name, MethodLabel(*brief["label"]))
            return
        self.config = folder.read_json("config.json")
        training = self.config.get("training", {})
        if training.get("precision") == "auto":  # as runs had it before format 3
            training["precision"] = "bfloat16" if self.environment["bfloat16"] else "float32"
        if (head := training.get("head")) in OLD_HEADS:
            training["head"] = OLD_HEADS[head]
        self.numbers = self.result
        if (name := self.method_name) not in METHOD_LABELS:
            METHOD_LABELS[name] = self._label()

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"Run({self.id}: {self.method_name}, Acc {self.numbers['acc']:.1f})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.folder.path == other.folder.path

    def __hash__(self) -> int:
        return hash(self.folder.path)

    @cached_property
    def result(self) -> dict[str, Any]:
        return self._of_task(self.written)

    @cached_property
    def written(self) -> dict[str, Any]:
        """The result as its file has it, with today's names."""
        return _todays(self.folder.read_json("result.json"))

    def _of_task(self, result: dict[str, Any]) -> dict[str, Any]:
        """With Transfer, Average and Last with the task given or unknown, as the configuration
        says."""
        task = self.config.get("benchmark", {}).get("task", "unknown")
        if "by_texts" not in result:  # of one tower
            given = task == "given" and "transfer" in result
            return result | (transfer(_matrix(result["within_task_matrix"])) if given else {})
        chosen = result["by_texts"][task]
        zero_shot = dict(zip(self.environment["tasks"], chosen["zero_shot"], strict=True))
        return result | chosen | {"zero_shot": zero_shot}

    def read_as(self, config: dict[str, Any]) -> None:
        """Have the run this configuration, of the same computation."""
        self.config = config
        self.result = self.numbers = self._of_task(self.written)

    def brief(self) -> Brief:
        """What lists, tables and explorers' choices read, so that they open no run's file."""
        numbers = _without_matrices(self.result)
        numbers["heads"] = {n: _without_matrices(by) for n, by in self.result["heads"].items()}
        return {
            "config": self.config,
            "numbers": numbers,
            "label": self.label,
            "shipped": self.shipped,
        }

    @property
    def method_name(self) -> str:
        return self.config["method"]["name"]

    @property
    def label(self) -> MethodLabel:
        """What readers know of this run's method."""
        return METHOD_LABELS[self.method_name]

    @property
    def accuracy_matrix(self) -> np.ndarray:
        """a (N, N) in percent of the head that ranks this run; NaN where not measured."""
        return _matrix(self.result["accuracy_matrix"])

    def matrices(self, head: str) -> tuple[np.ndarray, np.ndarray]:
        """a and, with the task given, a_w, both (N, N) in percent, by one of the run's heads; NaN
        where not measured, which is everywhere by a head that the run does not have."""
        of, n = self.result["heads"].get(head, {}), len(self.result["test_images"])
        names, nothing = ("accuracy_matrix", "within_task_matrix"), np.full((n, n), np.nan)
        a, within = (np.array(of.get(name, nothing), dtype=float) for name in names)
        return a, within

    @property
    def environment(self) -> dict[str, Any]:
        return self.folder.read_json("environment.json")

    def progress(self) -> list[dict[str, Any]]:
        """One dictionary an epoch: task, stage, epoch, loss, seconds. DamagedFile where some are
        lost: the checkpoint knows how many there are."""
        if self.shipped:
            return []
        return self.folder.progress_at(self.folder.read_arrays("checkpoint.safetensors")[1])

    def task(self, index: int) -> Arrays:
        """What the method recorded of task `index` (from 0), by name; of a shipped run only what
        readers open."""
        if not self.shipped:
            return self.folder.read_arrays(task_file(index))[0]
        prefix = f"{index:02d}."
        own = {k: a for k, a in self._records.items() if k.startswith(prefix)}
        return {k.removeprefix(prefix): array for k, array in own.items()}

    def said(self, index: int) -> Arrays:
        """What each head said of all test images after task `index`, by head: class numbers (n,)
        in the stream's order, the images of task 0 first, as far as tasks were tested."""
        record = self.task(index)
        return {k.removeprefix("said."): a for k, a in record.items() if k.startswith("said.")}

    def features(self, index: int) -> list[np.ndarray]:
        """Features (n, d) in half precision of each task's test images after task `index`.

        BadInput for a run that was not computed with `keep_features`.
        """
        if not self.folder.has(FEATURES):
            raise BadInput(f"run {self.id} was computed without keep_features, so it has none")
        arrays = self.folder.read_arrays(features_file(index))[0]
        return [arrays[f"{i}"] for i in range(len(arrays))]

    @cached_property
    def _records(self) -> Arrays:
        """Of a shipped run, all tasks' arrays: they lie in one file."""
        return self.folder.read_arrays(RECORDS)[0]

    @property
    def shipped(self) -> bool:
        """Whether only what readers open is here: it came with the lab, or was shipped."""
        return self.folder.has(RECORDS) if self._shipped is None else self._shipped

    def derived(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `compute` gives, kept with the run under `name` and read from there afterwards; on a
        disk that cannot be written it is computed each time."""
        file = f"derived/{name}.json"
        if self.folder.has(file):
            return self.folder.read_json(file)
        self.needs_factors(name)
        found = compute()
        with where_it_can_be_kept():
            self.folder.write_json(file, found)
        return found

    def derived_arrays(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """`derived`, for arrays by name."""
        file = f"derived/{name}.safetensors"
        if self.folder.has(file):
            return self.folder.read_arrays(file)[0]
        self.needs_factors(name)
        found = compute()
        with where_it_can_be_kept():
            self.folder.write_arrays(file, found, {})
        return found

    def needs_factors(self, what: str) -> None:
        """BadInput for a run that was shipped, which `what` cannot be had of."""
        if self.shipped:
            raise BadInput(
                f"run {self.id} was shipped without its trained factors, which {what!r} needs; "
                "compute it anew with --fresh"
            )

    def check(self) -> None:
        """Read every file once; DamagedFile names the first that is not as it was written."""
        self.folder.read_json("environment.json")
        if self.shipped:
            self.folder.read_arrays(RECORDS)
            return
        for index in range(self.result["task_files"]):
            self.task(index)
        self.progress()  # and the checkpoint

    def _label(self) -> MethodLabel:
        """As stored with the run; the registry knows it for runs that are older than labels."""
        known = self.folder.read_json("environment.json").get("method")
        if known is not None:
            return MethodLabel(**known)
        import_module("fmlora_lab.methods.registry")  # which brings torch
        name = self.method_name
        return METHOD_LABELS.get(name, MethodLabel(name, "unknown"))


def _without_matrices(result: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in result.items()
        if not (isinstance(value, list) and value and isinstance(value[0], list))
    }


def _matrix(rows: list[list[float | None]]) -> np.ndarray:
    return np.array(rows, dtype=float)


def _todays(result: dict[str, Any]) -> dict[str, Any]:
    """A result with today's names of heads."""
    heads = {OLD_HEADS.get(name, name): by for name, by in result.get("heads", {}).items()}
    ranked_by = str(result.get("ranked_by"))
    return {**result, "heads": heads, "ranked_by": OLD_HEADS.get(ranked_by, ranked_by)}


def run_folder(run_id: str, runs_dir: Path | str | None = None) -> RunFolder:
    """Where the run of that name is, or would be: in a runs folder or in an archive (`NAME.zip`).

    BadInput for an archive that is not there.
    """
    root = runs_root(runs_dir)
    return ArchivedRun(opened(root), run_id) if in_archive(root) else RunFolder(root, run_id)


def in_archive(root: Path) -> bool:
    """Whether that stands for an archive of runs, not for a folder."""
    return root.suffix == ".zip"


class Runs(list[Run]):
    """Runs, as a list. Where they are shown they are a table of what differs; in a notebook one to
    sort, filter and tick (`explorers/runs_table.py`)."""

    def __init__(self, found: Iterable[Run] = (), runs_dir: Path | str | None = None):
        super().__init__(found)
        self.runs_dir = runs_dir

    def __repr__(self) -> str:
        return import_module(TABLE).as_text(self)

    def _repr_mimebundle_(self, **how: Any) -> dict[str, Any]:
        return import_module(TABLE).as_bundle(self, **how)


TABLE = "fmlora_lab.explorers.runs_table"
"""Which brings pandas and the widgets, when runs are shown."""


def load_runs(runs_dir: Path | str | None = None) -> Runs:
    """All complete runs of a runs folder, or of an archive (`NAME.zip`), by name.

    BadInput names a damaged file, OSError what cannot be read.
    """
    root = runs_root(runs_dir)
    if in_archive(root):
        return Runs((Run(folder) for folder in archived(root).values()), runs_dir)
    found = briefs(root, lambda name: Run(RunFolder(root, name)).brief())
    return Runs((Run(RunFolder(root, name), brief) for name, brief in found.items()), runs_dir)


def what_differs(found: Sequence[Run]) -> list[dict[str, Any]]:
    """Of each run the settings, dotted, in which it differs from others of these; its method's own
    from those of the same method."""
    return differing([run.config for run in found])


def differing(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`what_differs`, of configurations as they are stored."""
    every = [dotted(config) for config in configs]
    methods = [own.pop("method.name") for own in every]  # says whose settings the others are
    values: dict[tuple[str, str], set[str]] = {}
    for method, own in zip(methods, every, strict=True):
        for name, value in own.items():
            values.setdefault(_asked_of(method, name), set()).add(repr(value))
    return [
        {name: value for name, value in own.items() if len(values[_asked_of(method, name)]) > 1}
        for method, own in zip(methods, every, strict=True)
    ]


def _asked_of(method: str, setting: str) -> tuple[str, str]:
    return method if setting.startswith("method.") else "", setting


def names_in(root: Path, *having: str, begins: str = "") -> list[str]:
    """The runs of a folder whose name begins so and that have one of these files; none where there
    is no folder. OSError where it cannot be read."""
    own = (name for name in names(root) if name.startswith(begins))
    return [name for name in own if any(map(RunFolder(root, name).has, having))]


def find_run(run_id: str, runs_dir: Path | str | None = None) -> RunFolder:
    """The one run whose name begins with `run_id`, complete, half or damaged. BadInput if none or
    several, or if it says nothing."""
    root = runs_root(runs_dir)
    if in_archive(root):
        found = sorted(name for name in archived(root) if name.startswith(run_id))
    else:
        found = names_in(root, "config.json", "result.json", begins=run_id)
    if len(found) != 1 or not run_id:
        said = f"it could be {', '.join(found)}" if found else "no run's name begins so"
        raise BadInput(f"run {run_id!r} in {root}: {said}; `fmlora-lab runs list` lists them")
    return run_folder(found[0], root)


def stored_run(folder: RunFolder) -> Run:
    """The run in a folder; BadInput while it is not complete."""
    if not folder.complete:
        raise BadInput(f"run {folder.run_id} is not complete; the command that began it resumes it")
    return Run(folder)


def delete(folder: RunFolder) -> None:
    """Remove a run from disk, when no process is writing it; and what is left of one whose removal
    was killed."""
    try:
        with folder.alone():
            _remove(folder)
    except OSError as error:  # of a full disk, which has no room for a claim either
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full or folder.lock().taken():
            raise
        _remove(folder)


def _remove(folder: RunFolder) -> None:
    gone = folder.root / f"{TEMPORARY}{uuid.uuid4().hex}"
    with naming(folder.path):
        folder.path.rename(gone)  # with its claim, so that no other begins within
        for left in folder.root.glob(f"{TEMPORARY}*/"):
            shutil.rmtree(left, ignore_errors=True)  # another process may be at it
        if gone.exists():
            shutil.rmtree(gone)
