"""Stored runs as a tidy frame, one row a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fmlora_lab.config import BadInput, title_of
from fmlora_lab.runs.stored import Run, what_differs

METRICS = ("acc", "aaa", "learning_accuracy", "forgetting")
BY_TASK = "task_mean_acc"
"""Acc with each task counted once; `acc` counts images."""
WITHIN = ("within_task", "within_task_forgetting", "confusion")
INFERRED = ("task_given", "task_inferred")
"""Of a method that infers tasks: `within_task` with the right task's update, and how often it
infers the right one."""
BY_HEAD = ("acc", "learning_accuracy", "forgetting")
DRAWS = ("order_seed", "data_seed", "seed")
"""What makes another draw of one comparison: class orders differ by more than seeds of training."""
PLACES = ("benchmark.data", "backbone.weights")
"""Settings that say where files are, of which a run's result does not depend."""
COSTS = ("trainable_parameters", "kept_parameters", "seconds", "seconds_a_task", "passes",
         "inference_mflops")  # fmt: skip


def frame(found: Sequence[tuple[Mapping[str, Any], Run]]) -> pd.DataFrame:
    """One row a run: its labels first, then its numbers, NaN where undefined, and the run itself.

    Accuracies are in percent, of the head that ranks the run; `acc_trained`, `acc_lda-carried` and
    the like are of each head. Raises ValueError if a label has the name of a number.
    """
    labels = pd.DataFrame([dict(own) for own, _ in found])
    return labels.join(pd.DataFrame([_numbers(run) for _, run in found]))


def pick(found: pd.DataFrame, **labels: Any) -> pd.DataFrame:
    """The rows that carry these labels."""
    for name, value in labels.items():
        found = found.loc[found[name] == value]
    return found


def none_lost(found: pd.DataFrame, by: str) -> pd.DataFrame:
    """The sweep with "–" for the label of rows whose grid had no axis `by`: of grids that were
    added up, no row is lost."""
    none = found[by].isna().to_numpy()
    return found.assign(**{by: found[by].astype(object).mask(none, "–")}) if any(none) else found


def heads(found: pd.DataFrame) -> list[str]:
    """The heads by which the runs were evaluated."""
    return [name.removeprefix("acc_") for name in found.columns if name.startswith("acc_")]


def drawn_by(found: pd.DataFrame) -> str:
    """What the runs are several draws of: class orders, else images, else seeds of training; the
    first of these where there is one draw."""
    several = [name for name in DRAWS if len({run.config[name] for run in found.run}) > 1]
    return (several or DRAWS)[0]


def draw_of(found: pd.DataFrame) -> pd.Series:
    """Each row's value of what the runs are draws of, which is the name of the series."""
    name = drawn_by(found)
    return pd.Series([run.config[name] for run in found.run], found.index, name=name)


def by_draw(found: pd.DataFrame, value: str, columns: str = "method") -> pd.DataFrame:
    """`value`, a row a class order (or what else is drawn: the name of the index), a column a
    label of `columns` in order of appearance.

    Runs of one order are averaged; NaN where there is none, "–" for rows without a label. Raises
    BadInput where a label has several runs for one draw.
    """
    found = none_lost(found, columns)
    seeds = {name: [run.config[name] for run in found.run] for name in DRAWS}
    rows = pd.DataFrame(seeds).assign(label=found[columns].array, value=found[value].array)
    rows = rows.loc[~rows.assign(run=found.run.map(str).array).duplicated()]
    if rows.duplicated(["label", *DRAWS]).to_numpy().any():
        raise BadInput(f"{columns} does not tell the runs apart; pick some of them first")
    groups = rows.groupby([drawn_by(found), "label"])["value"]
    table = groups.agg(lambda own: own.to_numpy(float).mean()).unstack()  # NaN if one is
    return table.reindex(columns=list(found[columns].unique()))


def along(
    found: pd.DataFrame, value: str, axis: str, at: Sequence[Any], **labels: Any
) -> np.ndarray:
    """`value` (orders, len(at)) of the rows that carry `labels`, with the label `axis` at each of
    `at`; NaN where there is no run. Rows as in `by_draw`."""
    table = by_draw(pick(found, **labels), value, axis)
    return table.reindex(columns=list(at)).to_numpy(float)


def one_task_at_a_time(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods that are rivals: without joint training, which sees all tasks at once."""
    return found.loc[[not run.label.one_task for run in found.run]]


def acc_and_cost(found: pd.DataFrame, cost: str) -> dict[str, tuple[pd.Series, float]]:
    """Acc in percent (orders,), by its order, and the mean of the column `cost`, by method."""
    accs = by_draw(found, "acc")
    return {
        str(name): (pd.Series(accs[name], dtype=float).dropna(), own[cost].to_numpy(float).mean())
        for name, own in found.groupby("method", sort=False)
    }


def is_number(name: str) -> bool:
    """Whether `frame` has, or may have, a column of its own by that name."""
    by_head = any(name.startswith(f"{metric}_") for metric in BY_HEAD)
    return by_head or name in (*METRICS, BY_TASK, *WITHIN, *INFERRED, *COSTS, "run")


def overview(found: Sequence[Run]) -> pd.DataFrame:
    """To read, one row a run, by its name: the settings in which it differs from others (its
    method, where there are several), as text, then Acc by the head that ranks it and by each head,
    what was learned and forgotten, and seconds; without columns that no run has."""
    names = pd.Index([run.id for run in found])
    settings = [{n: str(v) for n, v in own.items()} for own in _told_apart(found)]
    numbers = pd.DataFrame([_numbers(run) for run in found], index=names)
    by_head = [name for name in numbers if name.startswith("acc_")]
    shown = numbers[["acc", *by_head, "learning_accuracy", "forgetting", "seconds"]]
    parts = [pd.DataFrame(settings, names).fillna(""), shown.dropna(axis="columns", how="all")]
    return pd.concat(parts, axis="columns")


def labelled(found: Sequence[Run]) -> pd.DataFrame:
    """`frame` of these runs, whose labels come of themselves: `method` is each one's, with the
    settings in which runs of one method differ; and what is drawn anew (class order, images,
    seed). So runs that differ in their draws alone are one method's, and those of other images or
    weights are not: their places tell them apart."""
    each = [
        {n: v for n, v in own.items() if n not in ("method", *DRAWS, *PLACES)}
        for own in _told_apart(found)
    ]
    values: dict[tuple[str, str], set[str]] = {}
    for run, own in zip(found, each, strict=True):
        for name, value in own.items():
            values.setdefault((run.method_name, name), set()).add(repr(value))
    told = [
        tuple(f"{_short(n)} {v}" for n, v in own.items() if len(values[run.method_name, n]) > 1)
        for run, own in zip(found, each, strict=True)
    ]
    alike: dict[Any, list[Run]] = {}
    for run, own in zip(found, told, strict=True):
        alike.setdefault((run.method_name, own), []).append(run)
    placed = {key: other_files(own) for key, own in alike.items()}
    rows = []
    for run, own in zip(found, told, strict=True):
        method = run.method_name
        if placed[method, own]:
            own += tuple(f"{name.partition('.')[2]} {_place(run, name)}" for name in PLACES)
        label = " · ".join([title_of(method), *own]) if own else method
        rows.append(({"method": label, **{name: run.config[name] for name in DRAWS}}, run))
    return frame(rows)


def other_files(alike: Sequence[Run]) -> bool:
    """Whether runs of the same settings, whose files lie in several places, read other weights, or
    other images in one draw of them."""
    if len({tuple(_place(run, name) for name in PLACES) for run in alike}) < 2:
        return False
    weights, images = set(), {}
    for run in alike:
        known = run.environment
        weights.add(known["weights"])
        images.setdefault(run.config["data_seed"], set()).add(known["data"])
    return any(len(several) > 1 for several in (weights, *images.values()))


def _place(run: Run, name: str) -> str:
    part, _, own = name.partition(".")
    return str(run.config[part].get(own))


def _told_apart(found: Sequence[Run]) -> list[dict[str, Any]]:
    several = len({run.method_name for run in found}) > 1
    return [
        {**({"method": run.method_name} if several else {}), **own}
        for run, own in zip(found, what_differs(found), strict=True)
    ]


def _short(setting: str) -> str:
    """A setting's name without the part that it is of, where readers know that."""
    return setting.removeprefix("method.").removeprefix("training.")


def _numbers(run: Run) -> dict[str, Any]:
    result = run.numbers
    heads = {"trained": {}, **result["heads"]}.items()
    return {
        **{name: _or_nan(result.get(name)) for name in (*METRICS, BY_TASK, *WITHIN, *INFERRED)},
        **{f"{m}_{name}": _or_nan(by.get(m)) for name, by in heads for m in BY_HEAD},
        "trainable_parameters": result["trainable_parameters"],
        "kept_parameters": result["kept_parameters"],
        "seconds": result["seconds"],
        "seconds_a_task": result["seconds"] / len(result["test_images"]),
        "passes": _or_nan(result.get("passes")),
        "inference_mflops": result["inference_flops"] / 1e6,
        "run": run,
    }


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
