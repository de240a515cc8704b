"""Which runs notebooks will need, learned from the notebooks: each is executed up to its sweep.

Nothing is computed for it. The cells are executed in a process of their own, magics left out, and
end where the first sweep asks for its runs; so a user's own copy has a plan as the lab's notebooks
do. A notebook that speaks of no sweep is not executed at all.
"""

import ast
import contextlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

from fmlora_lab import progress
from fmlora_lab.config import BadInput, validated
from fmlora_lab.render.notebooks import read, short_name
from fmlora_lab.runs import planning


@dataclass(frozen=True)
class Needed:
    """A run that a notebook needs: whether it is stored, else about how many seconds it takes."""

    run_id: str
    stored: bool
    seconds: float


def plan(asked: Sequence[tuple[Path, Mapping[str, Any]]]) -> tuple[str, int]:
    """A line a notebook: runs stored, to compute, and about how long; and how many are to be
    computed, of a notebook whose plan is not known at least one.

    `asked` are notebooks with their parameters. BadInput where a notebook refuses them.
    """
    lines, counted, everything = [], set(), [0, 0, 0.0]
    for (path, _), needs in zip(asked, _learn(asked), strict=True):
        if needs is None:
            lines.append(f"{short_name(path):<20}      ?           ?   not known before it runs")
            everything[1] += 1
        elif needs:
            new = {need.run_id: need for need in needs if need.run_id not in counted}.values()
            counted |= {need.run_id for need in new}
            missing = [need for need in new if not need.stored]
            numbers = len(new) - len(missing), len(missing), sum(n.seconds for n in missing)
            everything = [a + b for a, b in zip(everything, numbers, strict=True)]
            about = _about(numbers[2]) if missing else ""
            lines.append(f"{short_name(path):<20} {numbers[0]:>6} {numbers[1]:>11}   {about}")
    stored, missing, seconds = everything
    if not lines:
        return "", missing
    total = f"{'all':<20} {stored:>6} {missing:>11}   "
    total += f"{_about(seconds)}, one after another" if missing else ""
    head = f"{'runs':<20} stored  to compute   (each counted where it is first needed)"
    return "\n".join([head, *lines, *([total] if len(lines) > 1 else [])]), missing


def _about(seconds: float) -> str:
    from fmlora_lab.runs.estimate import said  # here, since it brings torch

    return f"about {said(seconds)}"


def grid_of(path: Path, parameters: Mapping[str, Any]) -> tuple[list[Any], Path | str | None]:
    """What a notebook's first sweep asks for (`Asked`), and the runs folder that it names.

    The notebook is executed up to there, in a process of its own. BadInput where it comes to no
    sweep, fails or computes a run before it, or has methods of its own, which are known to it
    alone.
    """
    from fmlora_lab.runs.sweep import Asked

    found = _apart(_grid, {0: (path, parameters)})[0] if _speaks_of_sweeps(path) else []
    if not found:
        why = "has no sweep" if found == [] else "fails, or computes a run, before its sweep"
        raise BadInput(f"{path} {why}, so it states no grid")
    asked, runs_dir = found
    return [Asked(labels, validated(config), own) for labels, config, own in asked], runs_dir


def _grid(path: str, parameters: Mapping[str, Any]) -> Any:
    """For another process: labels, configurations as JSON and profiles; else as `_reached`."""
    reached = _reached(path, parameters)
    if not isinstance(reached, planning.UpToHere):
        return reached
    asked = [(a.labels, a.config.model_dump_json(), a.profile) for a in reached.asked or []]
    return (asked, reached.runs_dir) if asked else None


def _learn(asked: Sequence[tuple[Path, Mapping[str, Any]]]) -> list[list[Needed] | None]:
    """The runs of each notebook; none for one without a sweep, None where it is not known."""
    found: dict[int, list[Needed] | None] = {k: [] for k in range(len(asked))}
    speaking = {k: own for k, own in enumerate(asked) if _speaks_of_sweeps(own[0])}
    return list((found | _apart(needed, speaking)).values())


def _apart(
    learn: Callable[[str, Mapping[str, Any]], Any],
    asked: Mapping[int, tuple[Path, Mapping[str, Any]]],
) -> dict[int, Any]:
    """What `learn` finds of each notebook, in another process; None where its own code ends that
    process."""
    found: dict[int, Any] = {}
    left = list(asked)
    while left:
        pool = ProcessPoolExecutor(1, get_context("spawn"), _begin_as_a_kernel)
        try:
            jobs = {k: pool.submit(learn, str(asked[k][0]), dict(asked[k][1])) for k in left}
            bar = progress.bar(jobs.items(), desc="planning", unit="notebook", leave=False)
            for k, job in bar:
                left.remove(k)
                found[k] = None
                found[k] = job.result()
        except BrokenProcessPool:
            pass
        finally:
            pool.shutdown(cancel_futures=True)
    return found


def _begin_as_a_kernel() -> None:
    sys.path.insert(0, "")  # modules beside the work in hand can be imported


def needed(path: str, parameters: Mapping[str, Any]) -> list[Needed] | None:
    """The runs of a notebook's first sweep, by executing it up to there in this process: none if
    it comes to its end without, None if it fails, or computes a run, before that."""
    reached = _reached(path, parameters)
    if not isinstance(reached, planning.UpToHere):
        return reached
    if reached.asked is None:
        return None
    return [_needed(own.config, reached.runs_dir) for own in reached.asked]


def _reached(path: str, parameters: Mapping[str, Any]) -> planning.UpToHere | list | None:
    """What ends the notebook; [] if it comes to its own end, None if it fails before."""
    # What notebooks find in their namespace.
    space: dict[str, Any] = {"__name__": "__main__", "get_ipython": _NoMagics, "display": _nothing}
    quiet = io.StringIO()
    planning.active = True
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            for tagged, code in _cells(Path(path)):
                exec(compile(code, path, "exec"), space)
                space |= parameters if tagged else {}
    except planning.UpToHere as reached:
        return reached
    except BadInput:
        raise
    except (Exception, SystemExit):
        return None  # executing it will show why
    finally:
        planning.active = False
    return []


def _needed(config: Any, runs_dir: Path | str | None) -> Needed:
    from fmlora_lab import identity
    from fmlora_lab.runs.archive import shipped, use_shipped
    from fmlora_lab.runs.estimate import seconds_of
    from fmlora_lab.runs.identity import names_elsewhere
    from fmlora_lab.runs.stored import run_folder

    run_id = identity(config)
    stored = run_folder(run_id, runs_dir).complete
    stored = stored or (use_shipped() and shipped(*names_elsewhere(config)) is not None)
    return Needed(run_id, stored, 0.0 if stored else seconds_of(config, runs_dir))


def _cells(path: Path) -> list[tuple[bool, str]]:
    """The code cells, each with whether it has the parameters."""
    return [
        ("parameters" in cell.metadata.get("tags", []), _code(cell.source))
        for cell in read(path).cells
        if cell.cell_type == "code"
    ]


def _code(source: str) -> str:
    """A cell as plain Python, in which magics are calls of `get_ipython()`."""
    first, _, rest = source.partition("\n")
    passes_on = first.split()[:1] in (["%%time"], ["%%capture"])
    return TransformerManager().transform_cell(rest if passes_on else source)


def _speaks_of_sweeps(path: Path) -> bool:
    """Whether the name stands in the code: not in a comment, not in words."""
    for _, code in _cells(path):
        try:
            nodes = ast.walk(ast.parse(code))
        except SyntaxError:
            continue  # nor will it be executed
        if any(getattr(n, kind, "") == "sweep" for n in nodes for kind in ("id", "attr", "name")):
            return True
    return False


def _nothing(*words: Any, **more: Any) -> None:
    pass


class _NoMagics:
    """In the place of IPython: a magic does nothing."""

    def __getattr__(self, name: str) -> Any:
        return _nothing
