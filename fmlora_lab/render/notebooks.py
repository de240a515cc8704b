"""Notebooks as files: which are asked for, with which parameters, executed how.

A notebook of the lab has one cell tagged `parameters`; among them `runs_dir` and `figures_dir`,
through which it is told where runs are kept and where its results go.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from fmlora_lab import progress
from fmlora_lab.analysis.tables import read_table, to_text
from fmlora_lab.config import BadInput
from fmlora_lab.files import write_atomically

OWN = Path(__file__).parents[2] / "notebooks"
"""The lab's notebooks, where it is installed from its checkout."""


class OwnPython(AsyncKernelManager):
    """Starts the Python that runs this, whatever kernels are installed under whatever name."""

    @property
    def kernel_spec(self) -> KernelSpec:
        # The kernel's own log and its debugger's warning are not for whoever reads the terminal;
        # what goes wrong in a cell comes back as its traceback.
        quiet = get_kernel_dict(["--log-level=CRITICAL"])
        # Its bars come to where this process's own do, and no control can stand there.
        bars = {"notebook": "terminal"}.get(progress.kind(), progress.kind())
        env = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", progress.TOLD: bars}
        return KernelSpec(**quiet, env=env)

    def start_kernel(self, **kw: Any) -> Any:
        # What it and its child processes say comes as messages; the kernel also echoes theirs to
        # its own stderr, where each line would stand a second time.
        return super().start_kernel(**{"stderr": subprocess.DEVNULL, **kw})


class OneOfTwo(OwnPython):
    """With one thread, or as many as the user has set: two kernels share the cores."""

    at_work: ClassVar[list["OneOfTwo"]] = []

    def start_kernel(self, **kw: Any) -> Any:
        self.at_work.append(self)
        return super().start_kernel(**kw)

    @classmethod
    def end_all(cls) -> None:
        """End their kernels, which an interrupt of the terminal does not reach."""
        for manager in cls.at_work:
            process = getattr(manager.provisioner, "process", None)
            if process is not None:  # else it has not begun, or came to its end
                process.kill()

    @property
    def kernel_spec(self) -> KernelSpec:
        spec = super().kernel_spec
        if "OMP_NUM_THREADS" not in os.environ:
            spec.env["OMP_NUM_THREADS"] = "1"
        return spec


def prepare(
    names: Sequence[str],
    parameters: Mapping[str, Any],
    into: Path | str,
    notebooks_dir: Path | str | None = None,
) -> list[Path]:
    """Write copies of notebooks with their parameters filled in, and execute nothing."""
    copies, paths = [], select(names, notebooks_dir)
    check(paths, parameters)
    for path in paths:
        filled = fill(path, parameters, None, Path("figures", short_name(path)))
        notebook, _ = execute(path, filled, prepare_only=True)
        copies.append(write(notebook, Path(into) / path.name))
    return copies


def closing_lines(folder: Path | str) -> str:
    """What a reader wants last: a notebook's short table, if it made one, and what was written."""
    folder = Path(folder)
    lines = []
    if all(map(ended, folder.glob("*.ipynb"))) and (table := read_table(folder)) is not None:
        lines += [to_text(table), ""]
    files = [path for path in sorted(folder.glob("*")) if not path.name.startswith(".")]
    return "\n".join([*lines, *map(str, files)])


def ended(executed: Path) -> NotebookNode | None:
    """An executed notebook that came to its end; None for one that did not, or is damaged."""
    try:
        notebook = read(executed)
    except BadInput:
        return None
    return None if failed(notebook) else notebook


def select(names: Sequence[str], notebooks_dir: Path | str | None = None) -> list[Path]:
    """The notebooks that `names` name, or files of one's own; for `all`, those that take
    parameters, by their numbers.

    A lesson takes none: it is there to be worked through and leaves no results. Notebooks are
    looked for in ./notebooks, else among the lab's own. BadInput for a name that is nothing's, or
    of two, and for two whose results would go to one folder.
    """
    if notebooks_dir is None:
        notebooks_dir = Path("notebooks") if Path("notebooks").is_dir() else OWN
    known = sorted(Path(notebooks_dir).glob("*.ipynb"))
    if list(names) == ["all"] and known:
        found = [path for path in known if takes_parameters(path)]
    else:
        found = [_named(name, known, notebooks_dir) for name in names]
    by_folder: dict[str, Path] = {}
    for path in found:
        if by_folder.setdefault(short_name(path), path) != path:
            raise BadInput(
                f"results of {by_folder[short_name(path)]} and {path} would go to one folder, "
                f"{short_name(path)}; render one, or give it another name"
            )
    return found


def _named(name: str, known: Sequence[Path], notebooks_dir: Path | str) -> Path:
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name)
    own = Path(name)
    in_it = own.parent in (Path(), Path(Path(notebooks_dir).name))
    known_as = {path: (short_name(path), path.stem, path.name) for path in known if in_it}
    found = [path for path, names in known_as.items() if own.name in names]
    if len(found) > 1:
        raise BadInput(f"{name!r} is {' and '.join(path.stem for path in found)}; give its number")
    if not found:
        listed = ", ".join(path.stem for path in known) or f"none in {notebooks_dir}"
        raise BadInput(f"there is no notebook {name!r}; known: {listed}")
    return found[0]


def takes_parameters(path: Path) -> bool:
    return any("parameters" in cell.metadata.get("tags", []) for cell in read(path).cells)


def short_name(path: Path | str) -> str:
    """`quickstart` for `notebooks/00_quickstart.ipynb`."""
    stem = Path(path).stem
    number, _, rest = stem.partition("_")
    return rest if number.isdigit() and rest else stem


def check(paths: Sequence[Path], parameters: Iterable[str]) -> None:
    """BadInput for a parameter that none of these notebooks has."""
    known = dict.fromkeys(name for path in paths for name in papermill.inspect_notebook(read(path)))
    for name in parameters:
        if name not in known:
            said = ", ".join(path.name for path in paths)
            listed = ", ".join(known) or "none"
            raise BadInput(f"{said} has no parameter {name!r}; known: {listed}")


def fill(
    path: Path, parameters: Mapping[str, Any], runs_dir: Path | str | None, folder: Path
) -> dict[str, Any]:
    """All parameters of a notebook that differ from its defaults: those given that it has, where
    its results go, and that nobody sits before it."""
    given = {"figures_dir": str(folder), "static": True, **parameters}
    if runs_dir is not None:
        given["runs_dir"] = str(Path(runs_dir).absolute())
    known = papermill.inspect_notebook(read(path))
    return {name: value for name, value in given.items() if name in known}


def execute(path: Path, filled: Mapping[str, Any], **how: Any) -> tuple[NotebookNode, str | None]:
    """The notebook as papermill leaves it, and what went wrong in it, or None."""
    error = None
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy.ipynb"
        try:
            papermill.execute_notebook(
                read(path), copy, dict(filled), kernel_name="python3", progress_bar=False, **how
            )
        except PapermillExecutionError as raised:
            error = f"{raised.ename}: {raised.evalue}"
        except DeadKernelError:
            error = "its Python process died, perhaps for want of memory"
        notebook = without_bars(nbformat.read(copy, 4))
        notebook.metadata.papermill["exception"] = error is not None  # else none for a dead kernel
        return notebook, error


def write(notebook: NotebookNode, target: Path) -> Path:
    write_atomically(target, lambda file: file.write(nbformat.writes(notebook).encode()))
    return target


def read(path: Path) -> NotebookNode:
    """A notebook, to be executed by this Python. BadInput for a file that is none."""
    content = path.read_bytes()  # here, since papermill takes braces in a path for parameters
    try:
        notebook = nbformat.reads(content.decode("utf-8"), 4)
        notebook.cells  # noqa: B018, JSON of another kind has none
    except Exception as error:  # nbformat raises nearly any type for what is no notebook
        why = str(error).partition("\n")[0]
        raise BadInput(f"{path} is no notebook that can be read ({why})") from error
    # Whatever kernel it was written with, if any: `OwnPython` executes it.
    notebook.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    return notebook


def without_bars(notebook: NotebookNode) -> NotebookNode:
    """Without progress bars, which were for the terminal, and without this machine's paths."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    for name in ("input_path", "output_path"):
        notebook.metadata.papermill.pop(name, None)
    return notebook


def failed(notebook: NotebookNode) -> bool:
    """Whether the execution that left this copy failed."""
    return bool(notebook.metadata.get("papermill", {}).get("exception"))
