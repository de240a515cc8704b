"""Notebooks to executed copies, figures and tables under `figures/`. Nothing here imports torch.

A notebook of the lab has one cell tagged `parameters`; among them `runs_dir` and `figures_dir`,
through which it is told where runs are kept and where its results go.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
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


class OwnPython(AsyncKernelManager):
    """Starts the Python that runs this, whatever kernels are installed under whatever name."""

    @property
    def kernel_spec(self) -> KernelSpec:
        # The kernel's own log and its debugger's warning are not for whoever reads the terminal;
        # what goes wrong in a cell comes back as its traceback.
        quiet = get_kernel_dict(["--log-level=CRITICAL"])
        return KernelSpec(**quiet, env={"PYDEVD_DISABLE_FILE_VALIDATION": "1"})


def render(
    names: Sequence[str],
    parameters: Mapping[str, Any],
    runs_dir: Path | str | None = None,
    figures_dir: Path | str = Path("figures"),
    notebooks_dir: Path | str = Path("notebooks"),
) -> int:
    """Execute notebooks, one after another; returns how many failed.

    `names` are file stems with or without their number, or `all`. The executed copy of
    `00_quickstart` goes to `<figures_dir>/quickstart/`, with what it publishes; that of a
    notebook that fails holds its traceback. Raises BadInput, before anything is executed, for
    an unknown notebook or a parameter that a notebook does not have.
    """
    planned = []
    for path in find(names, notebooks_dir):
        folder = Path(figures_dir).absolute() / short_name(path)
        planned.append((path, folder, _fill(path, parameters, runs_dir, folder)))
    failures = 0
    for path, folder, filled in planned:
        print(f"rendering {path}", file=sys.stderr)
        notebook, error = _papermill(
            path, filled, kernel_manager_class=OwnPython, stderr_file=sys.stderr
        )
        copy = _write(notebook, folder / path.name)
        if error:
            print(f"{path} failed: {error}; see {copy}", file=sys.stderr)
            failures += 1
    return failures


def prepare(
    names: Sequence[str],
    parameters: Mapping[str, Any],
    into: Path | str,
    notebooks_dir: Path | str = Path("notebooks"),
) -> list[Path]:
    """Write copies of notebooks with their parameters filled in, and execute nothing."""
    copies = []
    for path in find(names, notebooks_dir):
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
    """The notebooks that `names` name, in the order of their numbers where it is `all`."""
    known = sorted(Path(notebooks_dir).glob("*.ipynb"))
    by_name = {name: path for path in known for name in (short_name(path), path.stem, path.name)}
    if list(names) == ["all"] and known:
        return known
    for name in names:
        if Path(name).name not in by_name:
            listed = ", ".join(path.stem for path in known) or f"none in {notebooks_dir}"
            raise BadInput(f"there is no notebook {name!r}; known: {listed}")
    return [by_name[Path(name).name] for name in names]


def short_name(path: Path | str) -> str:
    """`quickstart` for `notebooks/00_quickstart.ipynb`."""
    stem = Path(path).stem
    number, _, rest = stem.partition("_")
    return rest if number.isdigit() and rest else stem


def _fill(
    path: Path, parameters: Mapping[str, Any], runs_dir: Path | str | None, folder: Path
) -> dict[str, Any]:
    """All parameters of a notebook that differ from its defaults, checked against its own."""
    known = papermill.inspect_notebook(_read(path))
    filled = dict(parameters)
    if runs_dir is not None:
        filled["runs_dir"] = str(Path(runs_dir).absolute())
    for name in filled:
        if name not in known:
            listed = ", ".join(known) or "it has none"
            raise BadInput(f"{path.name} has no parameter {name!r}; known: {listed}")
    return {"figures_dir": str(folder), **filled} if "figures_dir" in known else filled


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
