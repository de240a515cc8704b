"""A grid states runs, a sweep has them: labelled configurations in, a tidy frame out."""

import json
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmlora_lab.config import (
    BENCHMARKS,
    PARTS,
    BadInput,
    MethodSettings,
    RunConfig,
    Training,
    settings_of,
    validated,
)
from fmlora_lab.files import naming
from fmlora_lab.interrupts import Stopped, stopping
from fmlora_lab.methods.registry import in_order
from fmlora_lab.profiles import Preset, configure, dotted, profile_named, stream_of
from fmlora_lab.runs import planning
from fmlora_lab.runs.archive import collections, use_shipped
from fmlora_lab.runs.frame import frame, is_number
from fmlora_lab.runs.launch import Failed, Launcher, here, processes
from fmlora_lab.runs.slurm import slurm, told
from fmlora_lab.runs.stored import Run, load_runs
from fmlora_lab.runs.watch import Skipped, following


@dataclass(frozen=True)
class Asked:
    """One run of a grid: what it stands for there, and its configuration."""

    labels: dict[str, Any]
    config: RunConfig
    profile: str | None = None


def grid(
    profile: str = "demo",
    *,
    stream: str = "classes",
    benchmark: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    preset: Preset = "fair",
    **axes: Any,
) -> list[Asked]:
    """Every combination of the axes' values under a profile, the last axis changing fastest.

        grid("demo", method=["fm-lora", "lora"], tasks=[5, 10, 20], order_seed=range(5))
        grid("demo", variant={"wide": {"method.basis_rank": 64}, "default": {}}, seed=range(3))

    An axis is a value or several: `method`; a field of the configuration (`seed`), of its
    benchmark (`tasks`) or training (`head`); any dotted setting, `**{"method.rank": [4, 8]}`; or
    named variants, a dictionary from labels to dotted overrides, under a name of its own. `stream`
    is one of the profile's, `benchmark` another in its place; `overrides` hold for all, but for
    what an axis gives; `preset` says where settings come from (`configure`). Each run's labels are
    its values: `method` first, `seed` last, both always there. Grids are lists: add them up.

    BadInput for a setting that is not there or a value that is not allowed.
    """
    for name, value in (("profile", profile), ("stream", stream), ("benchmark", benchmark)):
        if not isinstance(value, str | None):
            raise BadInput(f"{name} is {value!r}; a grid is of one, but grids can be added up")
    on, where = (benchmark, {}) if benchmark else stream_of(profile, stream)
    always = {"method": "fm-lora", "seed": 0}
    left_out = always.keys() - axes.keys()
    axes = {name: value for name, value in always.items() if name not in axes} | axes
    every = {name: _values(name, values) for name, values in axes.items()}
    found = []
    for point in product(*(values.items() for values in every.values())):
        labels = {name: label for name, (label, _) in zip(every, point, strict=True)}
        of_axes: dict[str, Any] = {}
        for name, (_, value) in zip(every, point, strict=True):
            if name == "method" or name in left_out:
                continue
            own = dotted(value if isinstance(value, Mapping) else {_dotted(name, on): value})
            for key in own.keys() & of_axes.keys():
                raise BadInput(f"two axes of the grid give {key}, {name!r} among them")
            of_axes |= own
        settings = {**where, **dotted(overrides), **of_axes}
        config = configure(labels["method"], on, profile, settings, preset)
        ends = {name: labels.pop(name) for name in always}
        for name, value in (("method", config.method.name), ("seed", config.seed)):
            if ends[name] != value:
                raise BadInput(
                    f"a run of {name} {value!r} would be labelled {ends[name]!r}; give {name} as "
                    "an axis of the grid"
                )
        found.append(
            Asked({"method": ends["method"], **labels, "seed": ends["seed"]}, config, profile)
        )
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


def read_grid(path: Path) -> list[Asked]:
    """The runs that a file states: a JSON list, or the tables `[[runs]]` of a TOML file, of which
    each is the keywords of a `grid` or, where its method is a table, a whole configuration, as
    `fmlora-lab run --show-config` prints it. Nothing in it is executed.

        [[runs]]
        profile = "smoke"
        method = ["fm-lora", "lora"]
        order_seed = [0, 1, 2]
        overrides = {"training.epochs" = 2}

    BadInput names the file and the entry that cannot be used.
    """
    try:
        with naming(path):
            text = path.read_text("utf-8-sig")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    entries = found.get("runs") if isinstance(found, dict) else found
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"{path} has no list of runs; JSON is a list, TOML has tables [[runs]]")
    asked = []
    for number, entry in enumerate(entries, 1):
        try:
            if not isinstance(entry, dict):
                raise BadInput("it is no table of settings")
            whole = isinstance(entry.get("method"), dict)
            asked += [_labelled(validated(entry))] if whole else grid(**entry)
        except BadInput as error:
            raise BadInput(f"{path}, entry {number}: {error}") from error
    return asked


class RunsFailed(Exception):
    """Some runs of a sweep died; the others are done, and are there as `done`, a frame."""

    def __init__(self, failed: Sequence[tuple[Asked, Failed]], done: pd.DataFrame):
        self.failed, self.done = failed, done
        rows = "".join(
            f"\n  {', '.join(f'{k} {v}' for k, v in a.labels.items())}: {f.why} (log {f.log})"
            for a, f in failed
        )
        super().__init__(
            f"{len(failed)} of {len(failed) + len(done)} runs failed; the others are stored, and "
            f"the same sweep goes on with these:{rows}"
        )


def sweep(
    runs: Iterable[Asked | RunConfig],
    runs_dir: Path | str | None = None,
    on: str | Launcher | None = None,
    workers: int | None = None,
    retry: int = 0,
) -> pd.DataFrame:
    """The runs of a grid (or of plain configurations) as a tidy frame, in their order.

    A row a run: its labels, its metrics by each head, its costs, and the run itself (`run`).
    Stored runs are loaded, those that came with the lab among them unless FMLORA_FRESH is set. The
    others are computed `on` "here", in this process, "processes", beside one another, as many as
    `workers`, or "slurm", a cluster; or by a launcher (`runs/launch.py`, `runs/slurm.py`). By
    default $FMLORA_ON says where, else it is here, or on processes where `workers` are given. What
    is done stays done if the sweep is interrupted, which is `Stopped`.

    In a notebook a panel shows how the runs stand, and has Stop and Skip. A run that was skipped is
    named there, has no row, and goes on from its last checkpoint when it is asked for again.

    Elsewhere than here a run that dies does not stop the others. It is begun again up to `retry`
    times; RunsFailed names at the end those that died. BadInput where nothing is asked for, or `on`
    is unknown.
    """
    asked = [a if isinstance(a, Asked) else _labelled(a) for a in _several(runs)]
    if not asked:
        raise BadInput("a sweep needs at least one run; its grid is empty")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise BadInput(f"workers is {workers!r}; allowed: a whole number from 1")
    if type(retry) is not int or retry < 0:
        raise BadInput(f"retry is {retry!r}; allowed: a whole number from 0")
    launch = launcher(on, workers, retry, asked)
    if planning.active:
        raise planning.UpToHere(asked, runs_dir)
    found: list[Run | Failed | Skipped] = []
    labels, configs = [a.labels for a in asked], [a.config for a in asked]
    with stopping("between two runs"), following(labels, configs, runs_dir) as watch:
        for run in launch(configs, runs_dir, use_shipped()):
            found.append(run)
            watch.ended(run)
    each = list(zip(asked, found, strict=True))
    failed = [(a, run) for a, run in each if isinstance(run, Failed)]
    done = [(a.labels, run) for a, run in each if isinstance(run, Run)]
    if failed:
        raise RunsFailed(failed, frame(done) if done else pd.DataFrame())
    if not done:
        raise Stopped("since every run was skipped")
    return frame(done)


def launcher(
    on: str | Launcher | None,
    workers: int | None = None,
    retry: int = 0,
    asked: Iterable[Asked] = (),
) -> Launcher:
    """What `sweep` means by these. BadInput for an unknown name, or workers elsewhere."""
    said = "" if on is not None else ", and $FMLORA_ON says otherwise"
    if on is None:
        on = os.environ.get("FMLORA_ON") or None
    if workers is not None and on not in (None, "processes"):
        raise BadInput(f"workers is {workers}; they are for on='processes'{said}")
    if on is None:
        on = "here" if workers is None or (workers == 1 and not retry) else "processes"
    if callable(on):
        return on
    known = {
        "here": lambda: here,
        "processes": lambda: processes(workers, retry=retry),
        "slurm": lambda: slurm(_of_slurm(asked), retry),
    }
    if not isinstance(on, str) or on not in known:
        raise BadInput(f"on is {on!r}; allowed: {', '.join(known)}")
    if retry and on == "here":
        raise BadInput(f"retry is {retry}; it is for on='processes' and on='slurm'")
    return known[on]()


def _of_slurm(asked: Iterable[Asked]) -> dict[str, Any]:
    """sbatch's options: the table [slurm] of the grid's profile, and $FMLORA_SLURM, JSON, beyond
    it. BadInput where a grid's profiles have several such tables."""
    names = dict.fromkeys(own.profile for own in asked if own.profile)
    tables = [profile_named(name).get("slurm", {}) for name in names]
    if any(table != tables[0] for table in tables):
        raise BadInput(f"the profiles {', '.join(names)} differ in [slurm]; sweep them apart")
    return {**(tables[0] if tables else {}), **told()}


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
