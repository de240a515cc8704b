"""Notebooks to executed copies, figures and tables under `figures/`.

A notebook of the lab has one cell tagged `parameters`; among them `runs_dir` and `figures_dir`,
through which it is told where runs are kept and where its results go. Importing this brings no
torch; saying which runs notebooks will need does.
"""

import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from fmlora_lab.analysis.tables import SHORT, read_published, to_text
from fmlora_lab.config import BadInput
from fmlora_lab.files import write_atomically

Planned = tuple[Path, Path, Mapping[str, Any]]
"""A notebook, the folder of its results, its parameters."""


class OwnPython(AsyncKernelManager):
    """Starts the Python that runs this, whatever kernels are installed under whatever name."""

    @property
    def kernel_spec(self) -> KernelSpec:
        # The kernel's own log and its debugger's warning are not for whoever reads the terminal;
        # what goes wrong in a cell comes back as its traceback.
        quiet = get_kernel_dict(["--log-level=CRITICAL"])
        return KernelSpec(**quiet, env={"PYDEVD_DISABLE_FILE_VALIDATION": "1"})


class OneOfTwo(OwnPython):
    """With one thread: processes that together have more threads than there are cores stall."""

    @property
    def kernel_spec(self) -> KernelSpec:
        spec = super().kernel_spec
        spec.env["OMP_NUM_THREADS"] = "1"
        return spec


def render(
    names: Sequence[str],
    parameters: Mapping[str, Any],
    runs_dir: Path | str | None = None,
    figures_dir: Path | str = Path("figures"),
    notebooks_dir: Path | str = Path("notebooks"),
    missing_only: bool = False,
    fresh: bool = False,
) -> int:
    """Execute notebooks; returns how many failed.

    `names` are file stems with or without their number, or `all`. The executed copy of
    `00_quickstart` goes to `<figures_dir>/quickstart/`, with what it publishes; that of a
    notebook that fails holds its traceback. What runs they need, and how long those will take, is
    said first; where all are stored, two notebooks are executed at a time, else one. Of several
    notebooks each takes the parameters that it has. `missing_only` leaves out what was rendered
    before with the same parameters; `fresh` computes runs that came with the lab too. Raises
    BadInput, before anything is executed, for an unknown notebook, a parameter that none of them
    has, or a value that one does not take.
    """
    if fresh:
        os.environ["FMLORA_FRESH"] = "1"  # for the notebooks' processes
    planned, paths = [], find(names, notebooks_dir)
    _check(paths, [*parameters, *(["runs_dir"] if runs_dir is not None else [])])
    for path in paths:
        folder = Path(figures_dir).absolute() / short_name(path)
        filled = _fill(path, parameters, runs_dir, folder)
        if missing_only and _rendered(folder / path.name, filled):
            print(f"{path} was rendered before; left as it is", file=sys.stderr)
        else:
            planned.append((path, folder, filled))
    runs, missing = _plan(planned)
    print(runs, file=sys.stderr)
    places = [f"{number} of {len(planned)}" for number in range(1, len(planned) + 1)]
    if missing:  # trainings get in each other's way
        return sum(map(_execute, planned, places))
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(partial(_execute, kernel=OneOfTwo), planned, places))


def _execute(planned: Planned, place: str, kernel: type[OwnPython] = OwnPython) -> bool:
    """Execute one notebook and write its copy; returns whether it failed."""
    path, folder, filled = planned
    print(f"rendering {path} ({place})", file=sys.stderr)
    notebook, error = _papermill(path, filled, kernel_manager_class=kernel, stderr_file=sys.stderr)
    copy = _write(notebook, folder / path.name)
    if error:
        print(f"{path} failed: {error}; see {copy}", file=sys.stderr)
    return error is not None


def _plan(planned: Sequence[Planned]) -> tuple[str, int]:
    """Which runs the notebooks need, a line a notebook: stored, to compute, and about how long;
    and how many are to be computed."""
    from fmlora_lab.runs.run import find_stored  # here, since these bring torch
    from fmlora_lab.runs.store import use_shipped
    from fmlora_lab.studies import Study, plan
    from fmlora_lab.studies.estimate import Estimator, said

    lines, counted, everything = [], set(), [0, 0, 0.0]
    estimator = None
    for path, _, filled in planned:
        name = short_name(path)
        if name not in Study.known:
            continue
        asked = {key: filled[key] for key in ("profile", "methods", "seeds") if key in filled}
        runs_dir = filled.get("runs_dir")
        estimator = estimator or Estimator(runs_dir)
        configs = {
            cell.config.model_dump_json(): cell.config for cell in plan(name, **asked).cells()
        }
        new = {text: c for text, c in configs.items() if text not in counted}
        counted |= new.keys()
        missing = [c for c in new.values() if not find_stored(c, runs_dir, use_shipped())]
        seconds = estimator.total(missing)
        numbers = (len(new) - len(missing), len(missing), seconds)
        everything = [a + b for a, b in zip(everything, numbers, strict=True)]
        about = f"about {said(seconds)}" if missing else ""
        lines.append(f"{name:<20} {numbers[0]:>6} {numbers[1]:>11}   {about}")
    stored, missing, seconds = everything
    if not lines:
        return "", missing
    total = f"{'all':<20} {stored:>6} {missing:>11}   "
    total += f"about {said(seconds)}, one after another" if missing else ""
    head = f"{'runs':<20} stored  to compute   (each counted where it is first needed)"
    return "\n".join([head, *lines, *([total] if len(lines) > 1 else [])]), missing


def _rendered(copy: Path, filled: Mapping[str, Any]) -> bool:
    """Whether this executed copy came to its end with these parameters."""
    if not copy.exists():
        return False
    notebook = nbformat.read(copy, 4)
    done = notebook.metadata.get("papermill", {}).get("parameters") == dict(filled)
    return done and not _failed(notebook)


def prepare(
    names: Sequence[str],
    parameters: Mapping[str, Any],
    into: Path | str,
    notebooks_dir: Path | str = Path("notebooks"),
) -> list[Path]:
    """Write copies of notebooks with their parameters filled in, and execute nothing."""
    copies, paths = [], find(names, notebooks_dir)
    _check(paths, parameters)
    for path in paths:
        filled = _fill(path, parameters, None, Path("figures", short_name(path)))
        notebook, _ = _papermill(path, filled, prepare_only=True)
        copies.append(_write(notebook, Path(into) / path.name))
    return copies


def closing_lines(folder: Path | str) -> str:
    """What a reader wants last: a notebook's short table, if it made one, and what was written."""
    folder = Path(folder)
    lines = []
    failed = any(_failed(nbformat.read(path, 4)) for path in folder.glob("*.ipynb"))
    if not failed and (folder / "table.csv").exists():
        lines += [to_text(read_published(folder), SHORT), ""]
    files = [path for path in sorted(folder.glob("*")) if not path.name.startswith(".")]
    return "\n".join([*lines, *map(str, files)])


def find(names: Sequence[str], notebooks_dir: Path | str = Path("notebooks")) -> list[Path]:
    """The notebooks that `names` name; for `all`, those that take parameters, by their numbers.

    A lesson takes none: it is there to be worked through and leaves no results.
    """
    known = sorted(Path(notebooks_dir).glob("*.ipynb"))
    by_name = {name: path for path in known for name in (short_name(path), path.stem, path.name)}
    if list(names) == ["all"] and known:
        return [path for path in known if _takes_parameters(path)]
    for name in names:
        if Path(name).name not in by_name:
            listed = ", ".join(path.stem for path in known) or f"none in {notebooks_dir}"
            raise BadInput(f"there is no notebook {name!r}; known: {listed}")
    return [by_name[Path(name).name] for name in names]


def _takes_parameters(path: Path) -> bool:
    return any("parameters" in cell.metadata.get("tags", []) for cell in _read(path).cells)


def short_name(path: Path | str) -> str:
    """`quickstart` for `notebooks/00_quickstart.ipynb`."""
    stem = Path(path).stem
    number, _, rest = stem.partition("_")
    return rest if number.isdigit() and rest else stem


def _check(paths: Sequence[Path], parameters: Iterable[str]) -> None:
    """BadInput for a parameter that none of these notebooks has."""
    known = dict.fromkeys(
        name for path in paths for name in papermill.inspect_notebook(_read(path))
    )
    for name in parameters:
        if name not in known:
            said = ", ".join(path.name for path in paths)
            listed = ", ".join(known) or "none"
            raise BadInput(f"{said} has no parameter {name!r}; known: {listed}")


def _fill(
    path: Path, parameters: Mapping[str, Any], runs_dir: Path | str | None, folder: Path
) -> dict[str, Any]:
    """All parameters of a notebook that differ from its defaults: those given that it has, where
    its results go, and that nobody sits before it."""
    given = {"figures_dir": str(folder), "static": True, **parameters}
    if runs_dir is not None:
        given["runs_dir"] = str(Path(runs_dir).absolute())
    known = papermill.inspect_notebook(_read(path))
    return {name: value for name, value in given.items() if name in known}


def _papermill(
    path: Path, filled: Mapping[str, Any], **how: Any
) -> tuple[NotebookNode, str | None]:
    """The notebook as papermill leaves it, and what went wrong in it, or None."""
    error = None
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy.ipynb"
        try:
            papermill.execute_notebook(
                _read(path), copy, dict(filled), kernel_name="python3", progress_bar=False, **how
            )
        except PapermillExecutionError as raised:
            error = f"{raised.ename}: {raised.evalue}"
        except DeadKernelError:
            error = "its Python process died, perhaps for want of memory"
        notebook = _tidy(nbformat.read(copy, 4))
        notebook.metadata.papermill["exception"] = error is not None  # else none for a dead kernel
        return notebook, error


def _write(notebook: NotebookNode, target: Path) -> Path:
    write_atomically(target, lambda file: file.write(nbformat.writes(notebook).encode()))
    return target


def _read(path: Path) -> NotebookNode:
    # Read here: papermill takes braces in a path for parameters.
    return nbformat.read(path, 4)


def _tidy(notebook: NotebookNode) -> NotebookNode:
    """Without progress bars, which were for the terminal, and without this machine's paths."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    for name in ("input_path", "output_path"):
        notebook.metadata.papermill.pop(name, None)
    return notebook


def _failed(notebook: NotebookNode) -> bool:
    """Whether the execution that left this copy failed."""
    return bool(notebook.metadata.get("papermill", {}).get("exception"))
