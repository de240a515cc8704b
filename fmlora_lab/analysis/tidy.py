"""From stored runs to a tidy frame, one row a run; to means over seeds; to a table to print."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fmlora_lab.analysis.names import TITLES
from fmlora_lab.analysis.tables import METRICS
from fmlora_lab.config import BadInput
from fmlora_lab.metrics import bootstrap_interval
from fmlora_lab.runs.store import Run

OF_PROTOTYPES = ("acc", "learning_accuracy", "forgetting")


def frame(found: Sequence[tuple[Mapping[str, Any], Run]]) -> pd.DataFrame:
    """One row a run: its labels first, then its numbers, NaN where undefined, and its name `run`.

    Accuracies are in percent, of the head that ranks the run; `acc_head` and `…_prototype` are of
    the trained head and of class means. Raises ValueError if a label has the name of a number.
    """
    labels = pd.DataFrame([dict(own) for own, _ in found])
    return labels.join(pd.DataFrame([_numbers(run) for _, run in found]))


def summarize(frame: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """One row a group of runs, in order of first appearance: `by`, means of `values`, `seeds`.

    With several runs in any group each value also has its sample standard deviation (`acc_std`) and
    95% bootstrap interval (`acc_low`, `acc_high`). A run counts once in a group; one undefined
    number makes a mean NaN. Raises BadInput if `by` does not tell a run's own rows apart.
    """
    by, values = list(by), list(values)
    kept = frame.drop_duplicates([*by, *values, "run"])
    if kept.duplicated([*by, "run"]).any():
        raise BadInput(f"a run has several rows in a group by {', '.join(by)}; group by more")
    groups = kept.groupby(by, sort=False, dropna=False)
    spread = bool((groups.size() > 1).any())
    rows = []
    for keys, group in groups:
        row = dict(zip(by, keys, strict=True))
        for name in values:
            row |= _spread(name, group[name].to_numpy(float), spread)
        rows.append(row | {"seeds": len(group)})
    return pd.DataFrame(rows)


def grid(summary: pd.DataFrame, rows: str, columns: str, value: str) -> pd.DataFrame:
    """`value` over `rows` and `columns`, both in order of appearance; NaN where there is none.

    Raises BadInput if a cell would hold several of the summary's rows.
    """
    if summary.duplicated([rows, columns]).any():
        raise BadInput(f"{rows} and {columns} do not tell the rows apart; choose some of them")
    table = summary.pivot(index=rows, columns=columns, values=value)
    return table.reindex(index=summary[rows].unique(), columns=summary[columns].unique())


def pivot(summary: pd.DataFrame, rows: str, columns: str, value: str) -> pd.DataFrame:
    """`grid` to read: cells "54.0 ± 1.2", without a spread "54.0", "–" where there is none."""
    deviation = summary.get(f"{value}_std", pd.Series(np.nan, summary.index))
    cells = [_cell(*pair) for pair in zip(summary[value], deviation, strict=True)]
    table = grid(summary.assign(**{value: cells}), rows, columns, value).fillna("–")
    table.index = pd.Index([_head(rows, x) for x in table.index], name=rows)
    table.columns = pd.Index([_head(columns, x) for x in table.columns], name=columns)
    return table


def _numbers(run: Run) -> dict[str, Any]:
    result = run.result
    prototype = result["heads"].get("prototype", {})
    return {
        **{name: _or_nan(result[name]) for name in METRICS},
        **{f"{name}_prototype": _or_nan(prototype.get(name)) for name in OF_PROTOTYPES},
        "acc_head": _or_nan(result["heads"].get("head", {}).get("acc")),
        "trainable_parameters": result["trainable_parameters"],
        "kept_parameters": result["kept_parameters"],
        "seconds": result["seconds"],
        "seconds_a_task": result["seconds"] / len(result["test_images"]),
        "inference_mflops": result["inference_flops"] / 1e6,
        "run": run.id,
    }


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _spread(name: str, values: NDArray[np.float64], spread: bool) -> dict[str, float]:
    mean = {name: values.mean()}
    if not spread:
        return mean
    several = len(values) > 1
    low, high = bootstrap_interval(values) if several else (np.nan, np.nan)
    deviation = values.std(ddof=1) if several else np.nan
    return mean | {f"{name}_std": deviation, f"{name}_low": low, f"{name}_high": high}


def _cell(mean: float, deviation: float) -> str:
    if pd.isna(mean):
        return "–"
    return f"{mean:.1f}" if pd.isna(deviation) else f"{mean:.1f} ± {deviation:.1f}"


def _head(name: str, value: Any) -> Any:
    """A row's or column's head: a method's title, "–" for a label that is not there."""
    if pd.isna(value):
        return "–"
    if name == "method":
        return TITLES.get(value, value)
    return f"{value:g}" if isinstance(value, float) else value
