"""A grid states runs, a sweep has them: labelled configurations in, a tidy frame out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmlora_lab import progress
from fmlora_lab.config import (
    BENCHMARKS,
    PARTS,
    BadInput,
    MethodSettings,
    RunConfig,
    Training,
    settings_of,
)
from fmlora_lab.interrupts import stopping
from fmlora_lab.methods.registry import in_order
from fmlora_lab.profiles import configure, dotted, stream_of
from fmlora_lab.runs import planning
from fmlora_lab.runs.archive import collections, use_shipped
from fmlora_lab.runs.frame import frame, is_number
from fmlora_lab.runs.launch import Launcher, here, processes
from fmlora_lab.runs.stored import load_runs


@dataclass(frozen=True)
class Asked:
    """One run of a grid: what it stands for there, and its configuration."""

    labels: dict[str, Any]
    config: RunConfig


def grid(
    profile: str = "demo",
    *,
    stream: str = "classes",
    benchmark: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    **axes: Any,
) -> list[Asked]:
    """Every combination of the axes' values under a profile, the last axis changing fastest.

        grid("demo", method=["fm-lora", "lora"], tasks=[5, 10, 20], order_seed=range(5))
        grid("demo", variant={"wide": {"method.basis_rank": 64}, "default": {}}, seed=range(3))

    An axis is a value or several: `method`; a field of the configuration (`seed`), of its
    benchmark (`tasks`) or training (`head`); any dotted setting, `**{"method.rank": [4, 8]}`; or
    named variants, a dictionary from labels to dotted overrides, under a name of its own. `stream`
    is one of the profile's, `benchmark` another in its place; `overrides` hold for all. Each run's
    labels are its values: `method` first, `seed` last, both always there. Grids are lists: add them
    up.

    BadInput for a setting that is not there or a value that is not allowed.
    """
    for name, value in (("profile", profile), ("stream", stream), ("benchmark", benchmark)):
        if not isinstance(value, str | None):
            raise BadInput(f"{name} is {value!r}; a grid is of one, but grids can be added up")
    on, where = (benchmark, {}) if benchmark else stream_of(profile, stream)
    always = {"method": "fm-lora", "seed": 0}
    axes = {name: value for name, value in always.items() if name not in axes} | axes
    every = {name: _values(name, values) for name, values in axes.items()}
    found = []
    for point in product(*(values.items() for values in every.values())):
        labels = {name: label for name, (label, _) in zip(every, point, strict=True)}
        settings = {**where, **dotted(overrides)}
        for name, (_, value) in zip(every, point, strict=True):
            if name != "method":
                settings |= value if isinstance(value, Mapping) else {_dotted(name, on): value}
        config = configure(labels["method"], on, profile, settings)
        ends = {name: labels.pop(name) for name in always}
        for name, value in (("method", config.method.name), ("seed", config.seed)):
            if ends[name] != value:
                raise BadInput(
                    f"a run of {name} {value!r} would be labelled {ends[name]!r}; give {name} as "
                    "an axis of the grid"
                )
        found.append(Asked({"method": ends["method"], **labels, "seed": ends["seed"]}, config))
    return found


def _values(axis: str, values: Any) -> dict[Any, Any]:
    """An axis as labels and what they stand for."""
    if is_number(axis):
        raise BadInput(f"{axis!r} is a number of every run; give the axis another name")
    found = dict(values) if isinstance(values, Mapping) else {}
    if not isinstance(values, Mapping):
        several = isinstance(values, Iterable) and not isinstance(values, str)
        for value in values if several else [values]:
            plain = value.item() if isinstance(value, np.generic) else value
            found[_label(plain)] = plain
    if not found:
        raise BadInput(f"the axis {axis!r} has no values")
    return found


def _label(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:  # a list
        return str(value)
    return value


def _dotted(axis: str, benchmark: str) -> str:
    """The setting that an axis of this name moves. BadInput if there is none."""
    if "." in axis or benchmark not in BENCHMARKS:  # which `configure` refuses
        return axis
    fields = {
        "": [n for n in RunConfig.model_fields if n not in ("benchmark", "method", *PARTS)],
        "training.": settings_of(Training),
        "benchmark.": settings_of(BENCHMARKS[benchmark]),
    }
    for part, names in fields.items():
        if axis in names:
            return part + axis
    of_method = any(axis in kind.model_fields for kind in MethodSettings.known.values())
    known = ", ".join(name for names in fields.values() for name in names)
    raise BadInput(
        f"a grid has no axis {axis!r}: an axis is method, one of {known}, any setting by its "
        f"dotted name, such as **{{'method.{axis if of_method else 'lr'}': [...]}}, or variants by "
        "name, each a dictionary of dotted settings"
    )


def sweep(
    runs: Iterable[Asked | RunConfig],
    runs_dir: Path | str | None = None,
    on: Launcher = here,
    workers: int = 1,
) -> pd.DataFrame:
    """The runs of a grid (or of plain configurations) as a tidy frame, in their order.

    A row a run: its labels, its metrics by each head, its costs, and the run itself (`run`).
    Stored runs are loaded, those that came with the lab among them unless FMLORA_FRESH is set;
    the others are computed by the launcher `on`, or by `workers` processes. What is done stays
    done if the sweep is interrupted, which is `Stopped`.
    """
    asked = [a if isinstance(a, Asked) else _labelled(a) for a in _several(runs)]
    if not asked:
        raise BadInput("a sweep needs at least one run; its grid is empty")
    if type(workers) is not int or workers < 1:
        raise BadInput(f"workers is {workers!r}; allowed: a whole number from 1")
    if planning.active:
        raise planning.UpToHere(asked, runs_dir)
    launch = on if workers == 1 else processes(workers)
    found = []
    bar = progress.bar(desc="runs", total=len(asked), unit="run")
    with stopping("between two runs"), bar:
        for run in launch([a.config for a in asked], runs_dir, use_shipped()):
            found.append(run)
            bar.update()
    return frame([(a.labels, run) for a, run in zip(asked, found, strict=True)])


def _several(runs: Any) -> Iterable[Asked | RunConfig]:
    one = isinstance(runs, RunConfig | str) or not isinstance(runs, Iterable)
    for own in [runs] if one else runs:
        if one or not isinstance(own, Asked | RunConfig):
            kind = type(own).__name__
            raise BadInput(f"a sweep is of a grid or a list of configurations; this is a {kind}")
        yield own


def _labelled(config: RunConfig) -> Asked:
    return Asked({"method": config.method.name, "seed": config.seed}, config)


def load_frame(where: Path | str, methods: Sequence[str] | None = None) -> pd.DataFrame:
    """Stored runs as a tidy frame, labelled method, order_seed and seed, methods in the order of
    tables.

    `where` is a collection that came with the lab (`glyphs-10`), a runs folder or an archive
    (`NAME.zip`); of its complete runs all, or those of `methods`. BadInput if there is none.
    """
    found = load_runs(collections().get(str(where), where))
    found = [run for run in found if methods is None or run.method_name in methods]
    if not found:
        raise BadInput(f"{where}: no complete runs there")
    order = {name: place for place, name in enumerate(in_order())}  # others follow, by name
    rows = [
        ({"method": r.method_name, **{name: r.config[name] for name in ("order_seed", "seed")}}, r)
        for r in found
    ]
    rows.sort(key=lambda row: (order.get(row[0]["method"], len(order)), *row[0].values()))
    return frame(rows)


def scaled(profile: str, method: str, settings: Sequence[str], factor: float) -> dict[str, float]:
    """Overrides: these settings of a method as tuned under the profile, times a factor."""
    return {s: float(f"{tuned(profile, method, s) * factor:.6g}") for s in settings}


def tuned(profile: str, method: str, setting: str) -> Any:
    """A dotted setting of a method under a profile, as tuned or by default. BadInput if the method
    has no such setting."""
    value: Any = configure(method, profile=profile).model_dump(by_alias=True)
    for part in setting.split("."):
        if not isinstance(value, dict) or part not in value:
            raise BadInput(f"{method} has no setting {setting}")
        value = value[part]
    return value
