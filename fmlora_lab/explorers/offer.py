"""Which runs an explorer offers: the examples that came with the lab, and one's own."""

from collections.abc import Callable
from pathlib import Path

from ipywidgets import Dropdown, Layout

from fmlora_lab.config import FAMILIES, BadInput, title_of
from fmlora_lab.runs.archive import prepared
from fmlora_lab.runs.stored import Run, load_runs

WIDE = {"style": {"description_width": "initial"}, "layout": Layout(width="30em")}


def offered(
    runs_dir: Path | str | None,
    suits: Callable[[Run], bool],
    command: str = "fmlora-lab run --method fm-lora",
) -> dict[str, Run]:
    """Runs that suit a view by their label: the examples, then one's own, each in the order of
    the tables. BadInput if there is none, with the `command` that makes one."""
    examples = [Run(folder) for folder in prepared()]
    known = {run.id for run in examples}
    own = [run for run in load_runs(runs_dir) if run.id not in known]
    found = {
        f"{describe(run)} · {place} {run.id[:8]}": run
        for place, part in (("example", examples), ("own", own))
        for run in sorted(part, key=_row)
        if suits(run)
    }
    if not found:
        raise BadInput(f"no stored run suits this explorer; make one with `{command}`")
    return found


def describe(run: Run) -> str:
    """A run in a few words."""
    method, benchmark = run.config["method"], run.config["benchmark"]["name"]
    drs = method.get("drs", {})
    form = f", {drs['form']} DRS" if drs.get("enabled") else ""
    tasks, seed = len(run.numbers["test_images"]), run.config["seed"]
    return f"{title_of(method['name'])}{form} · {benchmark}, {tasks} tasks, seed {seed}"


def dropdown(description: str, found: dict[str, Run], first: str) -> Dropdown:
    """A choice among runs; at the beginning the first one of method `first`, if there is one."""
    start = next((run for run in found.values() if run.method_name == first), None)
    options = list(found.items())
    return Dropdown(options=options, value=start or options[0][1], description=description, **WIDE)


def run_of(one: Dropdown) -> Run:
    """The run that a dropdown of runs stands at."""
    assert isinstance(one.value, Run)
    return one.value


def _row(run: Run) -> tuple:
    """Where a run stands in lists: by its method's family and title, then by what it is."""
    family = run.label.family
    place = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
    return place, run.label.title, describe(run)
