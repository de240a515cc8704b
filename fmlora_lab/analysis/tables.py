"""Tables over a sweep's frame: kept as numbers, shown as text, HTML, Markdown, CSV or LaTeX.

`summarize` averages runs, `compared` has a row a method with all that is known of it; `readable`,
`pivot` and `beside` make of them what a person reads. What is undefined, such as joint training's
forgetting, is NaN in a table of numbers and "–" where a person reads it.

Means are over class orders, and ± is half their 95% t interval's width; in runs of one order alone
they are over what else was drawn anew (`runs.frame.drawn_by`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fmlora_lab.config import BadInput, title_of
from fmlora_lab.metrics import acc_over_time, t_interval
from fmlora_lab.profiles import Preset, trials
from fmlora_lab.runs.frame import (
    BY_TASK,
    DRAWS,
    METRICS,
    PLACES,
    draw_of,
    drawn_by,
    heads,
    none_lost,
    other_files,
)
from fmlora_lab.runs.stored import Run

OTHER_METRICS = (
    BY_TASK,
    "acc_trained",
    "acc_best",
    "within_task",
    "within_task_forgetting",
    "confusion",
)
"""In `compared` beside those of the head that ranks a run, where the runs have them."""
HEADINGS = {
    "acc": "Acc (%)",
    BY_TASK: "Acc, mean over tasks (%)",
    "aaa": "AAA (%)",
    "acc_trained": "Acc, trained head (%)",
    "acc_best": "Acc, best closed-form head (%)",
    "best_head": "which head",
    "learning_accuracy": "learning accuracy (%)",
    "forgetting": "forgetting (points)",
    "within_task": "within-task accuracy (%)",
    "within_task_forgetting": "within-task forgetting (points)",
    "confusion": "confusion (points)",
    "trainable_parameters": "trained a task",
    "kept_parameters": "kept besides the backbone",
    "passes_a_task": "passes a task",
    "seconds": "seconds",
    "seconds_a_task": "seconds a task",
    "inference_mflops": "inference (Mflop)",
    "draws": "class orders",
}
"""What readers see of `compared`, in this order. It has more: intervals, and where it comes
from."""
DRAWN = {
    "order_seed": ("class order", "class orders"),
    "data_seed": ("draw of images", "draws of images"),
    "seed": ("seed of training", "seeds of training"),
}
"""Names of `runs.frame.DRAWS`: of one, of several."""

FULL = tuple(name for name in HEADINGS if name != "seconds_a_task")


def summarize(found: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """One row a group of runs, in order of first appearance: `by`, means of `values`, `draws`.

    A mean is over class orders, of which each is the mean of its runs. With several `draws` in any
    group each value also has its 95% t interval (`acc_low`, `acc_high`). A run counts once in a
    group; one undefined number makes a mean NaN. Raises BadInput if `by` does not tell a run's own
    rows apart.
    """
    by, values = list(by), list(values)
    own = found.assign(run=found.run.map(str))
    kept = own.drop_duplicates([*by, *values, "run"])
    if kept.duplicated([*by, "run"]).any():
        raise BadInput(f"a run has several rows in a group by {', '.join(by)}; group by more")
    draws = dict(zip(own.run, draw_of(found), strict=True))
    groups: Any = kept.assign(run=kept.run.map(draws)).groupby(by, sort=False, dropna=False)
    spread = bool((groups.run.nunique() > 1).any())
    rows = []
    for keys, group in groups:
        assert isinstance(keys, tuple)  # since `by` is a list
        row = dict(zip(by, keys, strict=True))
        means = group.groupby("run")[values].agg(lambda own: own.to_numpy(float).mean())
        for name in values:
            row |= _spread(name, means[name].to_numpy(float), spread)
        rows.append(row | {"draws": len(means)})
    return pd.DataFrame(rows)


def compared(found: pd.DataFrame, by: str = "method") -> pd.DataFrame:
    """One row a label, in order of appearance: metrics as `summarize` gives them; Acc under the
    trained head and under the best closed-form head (`best_head`, by the row's mean Acc); costs,
    images and tasks; the head that ranks, what is `drawn`, the runs' names.

    Raises BadInput if runs in one row differ in more than their seeds.
    """
    groups = _alike(found, by)
    found, best = with_best_head(found, by)
    known = found.dropna(axis="columns", how="all")
    values = [*METRICS, *(name for name in OTHER_METRICS if name in known)]
    table = summarize(found, [by], values).set_index(by)
    about = [{"best_head": best.get(name), **_about(runs)} for name, runs in groups.items()]
    known = pd.DataFrame(about, index=table.index).dropna(axis="columns", how="all")
    return table.assign(drawn=draw_of(found).name).join(known)


def curves(
    found: pd.DataFrame, by: str = "method", head: str | None = None
) -> dict[Any, pd.DataFrame]:
    """Acc_t in percent by label, of the head that ranks each run or of `head`; NaN where it was not
    measured. A row a class order (or what else is drawn), the mean of its runs; N columns."""

    def curve(run: Run) -> NDArray[np.float64]:
        a = run.accuracy_matrix if head is None else run.matrices(head)[0]
        return acc_over_time(a, run.result["test_images"])

    means = _means(found, by, curve)
    return {
        name: pd.DataFrame(np.stack([*own.values()]), pd.Index([*own], name=drawn_by(found)))
        for name, own in means.items()
    }


def matrices(found: pd.DataFrame, by: str = "method") -> dict[Any, NDArray[np.float64]]:
    """The accuracy matrices (class orders, N, N) in percent by label, of an order the mean of its
    runs."""
    means = _means(found, by, lambda run: run.accuracy_matrix)
    return {name: np.stack([*own.values()]) for name, own in means.items()}


def numbers(summary: pd.DataFrame, rows: str, columns: str, value: str) -> pd.DataFrame:
    """`value` over `rows` and `columns`, both in order of appearance; NaN where there is none.

    Raises BadInput if a cell would hold several of the summary's rows.
    """
    if summary.duplicated([rows, columns]).any():
        raise BadInput(f"{rows} and {columns} do not tell the rows apart; choose some of them")
    table = summary.pivot(index=rows, columns=columns, values=value)
    return table.reindex(index=summary[rows].unique(), columns=summary[columns].unique())


def pivot(summary: pd.DataFrame, rows: str, columns: str, value: str) -> pd.DataFrame:
    """`numbers` to read: cells "54.0 ± 1.2", of one order "54.0", "–" where there is none."""
    table = numbers(summary.assign(**{value: _cells(summary, value)}), rows, columns, value)
    table = table.fillna("–")
    table.index = pd.Index([_head(rows, x) for x in table.index], name=rows)
    table.columns = pd.Index([_head(columns, x) for x in table.columns], name=columns)
    return table


def beside(found: pd.DataFrame, rows: str, values: Mapping[str, str]) -> pd.DataFrame:
    """To read: a row a label of `rows`, a column each of `values` under its heading."""
    summary = summarize(found, [rows], list(values))
    heads = pd.Index([_head(rows, x) for x in summary[rows]], name=rows)
    columns = {heading: _cells(summary, value) for value, heading in values.items()}
    return pd.DataFrame(columns, index=heads)


def formatted(table: pd.DataFrame, columns: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """To read: of a table of numbers the columns named, each (heading, format), such as
    `{"rho": ("Spearman", "{:+.2f}")}`, with methods by their titles and "–" for NaN."""
    shown = {
        heading: ["–" if pd.isna(value) else how.format(value) for value in table[name]]
        for name, (heading, how) in columns.items()
    }
    return pd.DataFrame(shown, index=[title_of(name) for name in table.index])


def readable(table: pd.DataFrame, columns: Sequence[str] = FULL) -> pd.DataFrame:
    """`compared` as a person reads it: titles, headings with units, rounded numbers, "–".

    Columns that the runs do not have are left out, the number of class orders if it is 1, and Acc
    as a mean over tasks where it is what Acc over images is.
    """
    shown = pd.DataFrame(index=[title_of(name) for name in table.index])
    several = table.draws.max() > 1
    for name in columns:
        if name not in table or (name == "draws" and not several):
            continue
        if name == BY_TASK and not ((table[name] - table.acc).abs() >= 0.05).any():
            continue
        heading = DRAWN[table.drawn.iloc[0]][1] if name == "draws" else HEADINGS[name]
        heading += " ± 95%" if f"{name}_low" in table else ""
        shown[heading] = [_cell(name, row) for row in table.to_dict("records")]
    return shown


def best_trials(
    profile: str, methods: Sequence[str], preset: Preset = "fair", n: int = 3
) -> pd.DataFrame:
    """To read: of each of these methods that was tuned under a profile the n best settings, by Acc
    on validation images (for `closed-form` by the best of those heads), and of how many."""
    log, rows, heads = trials(profile), [], []
    by = "acc_closed_form" if preset == "closed-form" else "acc"
    for method in (name for name in methods if name in log):
        tried = log[method]["trials"]
        whole = [trial for trial in tried if by in trial]  # others were dropped on the way
        for place, trial in enumerate(sorted(whole, key=lambda t: -t[by])[:n], 1):
            settings = [f"{k.split('.', 1)[1]} {v}" for k, v in trial["settings"].items()]
            heads.append(title_of(method))
            rows.append(
                {
                    "place": place,
                    "of": len(tried),
                    "validation Acc (%)": f"{trial[by]:.1f}",
                    "learning accuracy (%)": f"{trial['learning_accuracy']:.1f}",
                    "forgetting (points)": f"{trial['forgetting']:.1f}",
                    "settings": ", ".join(settings) or "defaults",
                }
            )
    return pd.DataFrame(rows, index=heads)


def to_text(shown: pd.DataFrame) -> str:
    """Aligned columns for a terminal."""
    return shown.rename_axis(index=None, columns=None).to_string()


def to_markdown(shown: pd.DataFrame) -> str:
    """A Markdown table."""
    lines = [["", *map(str, shown.columns)], ["---"] * (1 + len(shown.columns))]
    rows = zip(shown.index, shown.to_numpy(str), strict=True)
    lines += [[str(name), *row] for name, row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def read_table(folder: Path) -> pd.DataFrame | None:
    """The table that `publish` wrote into a folder, to read; None where there is none."""
    file = folder / f"{folder.name}.csv"
    if not file.exists():
        return None
    return pd.read_csv(file, index_col=0, dtype=str).fillna("")


def _means(
    found: pd.DataFrame, by: str, measured: Callable[[Run], NDArray[np.float64]]
) -> dict[Any, dict[int, NDArray[np.float64]]]:
    """By label and draw, rising, the mean over its runs."""
    what, means = drawn_by(found), {}
    for name, runs in _alike(found, by).items():
        of: dict[int, list[NDArray[np.float64]]] = {}
        for run in sorted(runs, key=lambda run: run.config[what]):
            of.setdefault(run.config[what], []).append(measured(run))
        means[name] = {draw: np.mean(own, axis=0) for draw, own in of.items()}
    return means


def _alike(found: pd.DataFrame, by: str) -> dict[Any, list[Run]]:
    """Each label's runs, each once. BadInput if one label's differ in more than seeds."""
    groups = none_lost(found, by).groupby(by, sort=False)
    return {name: _checked(name, own) for name, own in groups}


def _checked(name: Any, found: pd.DataFrame) -> list[Run]:
    group = list({str(run): run for run in found.run}.values())
    settings = pd.json_normalize([run.config for run in group]).astype(str)
    settings = settings.drop(columns=[*PLACES, *DRAWS], errors="ignore")
    settings = settings.replace("nan", None)  # an option that is younger than a run
    if several := list(settings.columns[settings.nunique() > 1]):
        raise BadInput(
            f"the runs of {name!r} differ in {', '.join(several)}, not only in seeds; "
            "give them labels of their own"
        )
    if other_files(group):
        raise BadInput(
            f"the runs of {name!r} are of other images or weights, by {' and '.join(PLACES)}; "
            "give them labels of their own"
        )
    if len({tuple(run.config[seed] for seed in DRAWS) for run in group}) < len(group):
        raise BadInput(
            f"the runs of {name!r} share seeds but not images or weights; "
            "give them labels of their own"
        )
    return group


def with_best_head(found: pd.DataFrame, by: str = "method") -> tuple[pd.DataFrame, dict[Any, str]]:
    """The sweep with `acc_best`, Acc by each label's best closed-form head, NaN where there is
    none; and which head that is, the one with the label's highest mean Acc."""
    found = none_lost(found, by)
    closed = {f"acc_{head}": head for head in heads(found) if head != "trained"}
    means = pd.DataFrame(found.groupby(by, sort=False)[list(closed)].mean()).dropna(how="all")
    best = {name: closed[str(head)] for name, head in means.idxmax(axis=1).items()}
    acc = [row.get(f"acc_{best.get(row[by])}", np.nan) for row in found.to_dict("records")]
    return found.assign(acc_best=acc), best


def _about(runs: list[Run]) -> dict[str, Any]:
    """What `compared` says of a row beside its metrics."""
    images = runs[0].result["test_images"]
    results = [run.result for run in runs]
    seconds = np.mean([result["seconds"] for result in results])
    return {
        "head": _ranking_head(runs[0]),
        "trainable_parameters": round(np.mean([r["trainable_parameters"] for r in results])),
        "kept_parameters": round(np.mean([r["kept_parameters"] for r in results])),
        "passes_a_task": np.mean([r.get("passes", np.nan) for r in results]),
        "seconds": seconds,
        "seconds_a_task": seconds / len(images),
        "inference_mflops": np.mean([r["inference_flops"] for r in results]) / 1e6,
        "tasks": len(images),
        "test_images": sum(images),
        "runs": " ".join(run.id for run in runs),
    }


def _ranking_head(run: Run) -> str:
    """The head whose matrix ranks the run, by its name in the configuration."""
    ranked_by = run.result["ranked_by"]
    return run.config["training"]["head"] if ranked_by == "trained" else ranked_by


def _spread(name: str, values: NDArray[np.float64], spread: bool) -> dict[str, float]:
    mean = {name: values.mean()}
    if not spread:
        return mean
    low, high = t_interval(values)
    return mean | {f"{name}_low": low, f"{name}_high": high}


def counted(n: int, drawn: str) -> str:
    """`5 class orders`, `one class order`: how many, and of what `runs.frame.DRAWS` says."""
    one, several = DRAWN[drawn]
    return f"one {one}" if n == 1 else f"{n} {several}"


def _cells(summary: pd.DataFrame, value: str) -> list[str]:
    how = "{:+.1f}" if value == "difference" else "{:.1f}"
    return [with_half_width(row, value, how) for row in summary.to_dict("records")]


def with_half_width(row: Mapping[Any, Any], value: str, how: str = "{:.1f}") -> str:
    """ "54.0 ± 1.2" of a row of numbers; "54.0" of one class order, "–" where there is none."""
    if pd.isna(row[value]):
        return "–"
    mean, low = how.format(row[value]), row.get(f"{value}_low", np.nan)
    return mean if pd.isna(low) else f"{mean} ± {(row[f'{value}_high'] - low) / 2:.1f}"


def _head(name: str, value: Any) -> Any:
    """A row's or column's head: a method's title, "–" for a label that is not there."""
    if pd.isna(value):
        return "–"
    if name == "method":
        return title_of(value)
    return f"{value:g}" if isinstance(value, float) else value


def _cell(name: str, row: Mapping[Any, Any]) -> str:
    value = row[name]
    if pd.isna(value):
        return "–"
    if name == "best_head":
        return value
    if name in ("trainable_parameters", "kept_parameters", "seconds", "draws"):
        return f"{value:,.0f}"
    if name in ("passes_a_task", "seconds_a_task", "inference_mflops"):
        return f"{value:,.1f}"
    return with_half_width(row, name)
