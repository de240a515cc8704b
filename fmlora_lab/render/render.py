"""Notebooks to executed copies, figures and tables under `figures/`."""

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from fmlora_lab import progress
from fmlora_lab.files import check_writable
from fmlora_lab.render.notebooks import (
    OneOfTwo,
    OwnPython,
    check,
    ended,
    execute,
    fill,
    select,
    short_name,
    write,
)
from fmlora_lab.render.plan import plan
from fmlora_lab.runs.folder import runs_root
from fmlora_lab.runs.stored import in_archive

Asked = tuple[Path, Path, Mapping[str, Any]]
"""A notebook, the folder of its results, its parameters."""


def render(
    names: Sequence[str],
    parameters: Mapping[str, Any],
    runs_dir: Path | str | None = None,
    figures_dir: Path | str = Path("figures"),
    notebooks_dir: Path | str | None = None,
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
    has, or a value that one does not take, OSError for a folder that cannot be written.
    """
    if fresh:
        os.environ["FMLORA_FRESH"] = "1"  # for the notebooks' processes
    planned, paths = [], select(names, notebooks_dir)
    check(paths, [*parameters, *(["runs_dir"] if runs_dir is not None else [])])
    for path in paths:
        folder = Path(figures_dir).absolute() / short_name(path)
        filled = fill(path, parameters, runs_dir, folder)
        if missing_only and _rendered(folder / path.name, filled):
            progress.say(f"{path} was rendered before; left as it is")
        else:
            planned.append((path, folder, filled))
    runs, missing = plan([(path, filled) for path, _, filled in planned])
    if runs:
        progress.say(runs)
    for _, folder, _ in planned:
        check_writable(folder)
    if missing and not in_archive(root := runs_root(runs_dir)):
        check_writable(root)
    places = [f"{number} of {len(planned)}" for number in range(1, len(planned) + 1)]
    stopped = Event()
    if missing:  # trainings get in each other's way
        return sum(map(partial(_execute, stopped, OwnPython), planned, places))
    with ThreadPoolExecutor(2) as pool:
        each = [
            pool.submit(_execute, stopped, OneOfTwo, *one)
            for one in zip(planned, places, strict=True)
        ]
        try:
            return sum(one.result() for one in each)
        except KeyboardInterrupt:
            stopped.set()
            # Beside this thread, which a second interrupt may hit.
            Thread(target=_end, args=(each,), daemon=True).start()
            raise


def _end(each: Sequence[Future]) -> None:
    """End the notebooks at work, those too whose kernels are just starting."""
    while wait(each, timeout=0.2).not_done:
        OneOfTwo.end_all()


def _execute(stopped: Event, kernel: type[OwnPython], planned: Asked, place: str) -> bool:
    """Execute one notebook and write its copy; returns whether it failed. Of one that is stopped
    nothing is written."""
    path, folder, filled = planned
    if stopped.is_set():
        return False
    progress.say(f"rendering {path} ({place})")
    notebook, error = execute(path, filled, kernel_manager_class=kernel, stderr_file=sys.stderr)
    if stopped.is_set():
        return False
    copy = write(notebook, folder / path.name)
    if error:
        print(f"{path} failed: {error}; see {copy}", file=sys.stderr)
    return error is not None


def _rendered(copy: Path, filled: Mapping[str, Any]) -> bool:
    """Whether this executed copy came to its end with these parameters; a damaged one did not."""
    notebook = ended(copy) if copy.exists() else None
    if notebook is None:
        return False
    return notebook.metadata.get("papermill", {}).get("parameters") == dict(filled)
