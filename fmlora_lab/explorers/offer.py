"""Which runs an explorer offers: the examples that came with the lab, and one's own."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ipywidgets import Dropdown

from fmlora_lab.config import FAMILIES, BadInput, title_of
from fmlora_lab.runs.archive import prepared
from fmlora_lab.runs.stored import Run, load_runs, what_differs

FEW = 2
"""Settings that a label names at most."""


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
    found = [
        (place, run)
        for place, part in (("example", examples), ("own", own))
        for run in sorted(part, key=_row)
        if suits(run)
    ]
    if not found:
        raise BadInput(f"no stored run suits this explorer; make one with `{command}`")
    names = _apart([run for _, run in found])
    begin_so = Counter(run.id[:8] for _, run in found)
    ids = {run: run.id[:8] if begin_so[run.id[:8]] == 1 else run.id for _, run in found}
    return {
        " · ".join(filter(None, (name, f"{place} {ids[run]}", differs))): run
        for (name, differs), (place, run) in zip(names, found, strict=True)
    }


def told_apart(runs: Sequence[Run]) -> list[str]:
    """Each run in a few words: its method, and of stream, tasks and seed what is not the same in
    all of them; where runs of one method are not told apart by that, settings that differ."""
    return [", ".join(filter(None, parts)) for parts in _apart(runs)]


def _apart(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What `told_apart` says, settings by themselves."""
    every = [_said_of(run) for run in runs]
    same = {name for name in every[0] if len({of[name] for of in every}) == 1} - {"method"}
    names = [", ".join(v for k, v in of.items() if k not in same and v) for of in every]
    settings, of_name = [""] * len(runs), dict[str, list[int]]()
    for k, name in enumerate(names):
        of_name.setdefault(name, []).append(k)
    for alike in of_name.values():
        for k, differs in zip(alike, what_differs([runs[k] for k in alike]), strict=True):
            settings[k] = _in_short(differs)
    return list(zip(names, settings, strict=True))


def _in_short(differs: Mapping[str, Any]) -> str:
    """The first of these settings; how many more there are."""
    said = [f"{name.split('.')[-1]} {value}" for name, value in differs.items()]
    more = len(said) - FEW
    return ", ".join(said[:FEW] + ([f"{more} more"] if more > 0 else []))


def describe(run: Run) -> str:
    """A run in a few words."""
    return ", ".join(filter(None, _said_of(run).values()))


def _said_of(run: Run) -> dict[str, str]:
    method, benchmark = run.config["method"], run.config["benchmark"]["name"]
    drs = method.get("drs", {})
    return {
        "method": title_of(method["name"]),
        "form": f"{drs['form']} DRS" if drs.get("enabled") else "",
        "benchmark": benchmark,
        "tasks": f"{len(run.numbers['test_images'])} tasks",
        "seed": f"seed {run.config['seed']}",
    }


def dropdown(description: str, found: dict[str, Run], first: str) -> Dropdown:
    """A choice among runs; at the beginning the first one of method `first`, if there is one."""
    start = next((run for run in found.values() if run.method_name == first), None)
    options = list(found.items())
    return Dropdown(options=options, value=start or options[0][1], description=description)


def run_of(one: Dropdown) -> Run:
    """The run that a dropdown of runs stands at."""
    assert isinstance(one.value, Run)
    return one.value


def _row(run: Run) -> tuple:
    """Where a run stands in lists: by its method's family and title, then by what it is."""
    family = run.label.family
    place = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
    return place, run.label.title, describe(run)
