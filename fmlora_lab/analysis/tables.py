"""Tables over a sweep's frame: kept as numbers, shown as text, HTML, Markdown, CSV or LaTeX.

`summarize` averages runs, `compared` has a row a method with all that is known of it; `readable`,
`pivot` and `beside` make of them what a person reads. What is undefined, such as joint training's
forgetting, is NaN in a table of numbers and "–" where a person reads it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fmlora_lab.config import BadInput, title_of
from fmlora_lab.metrics import acc_over_time, bootstrap_interval
from fmlora_lab.profiles import trials
from fmlora_lab.runs.frame import METRICS
from fmlora_lab.runs.stored import Run

SEEDS = ("seed", "order_seed", "data_seed")
HEADINGS = {
    "acc": "Acc (%)",
    "aaa": "AAA (%)",
    "learning_accuracy": "learning accuracy (%)",
    "forgetting": "forgetting (points)",
    "head": "ranked by",
    "other_acc": "Acc by the other head (%)",
    "trainable_parameters": "trained a task",
    "kept_parameters": "kept",
    "seconds": "seconds",
    "seconds_a_task": "seconds a task",
    "inference_mflops": "inference (Mflop)",
    "seeds": "seeds",
}
"""What readers see of `compared`, in this order. It has more: spreads, and where it comes from."""

FULL = tuple(name for name in HEADINGS if name != "seconds_a_task")


def summarize(found: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """One row a group of runs, in order of first appearance: `by`, means of `values`, `seeds`.

    With several runs in any group each value also has its sample standard deviation (`acc_std`) and
    95% bootstrap interval (`acc_low`, `acc_high`). A run counts once in a group; one undefined
    number makes a mean NaN. Raises BadInput if `by` does not tell a run's own rows apart.
    """
    by, values = list(by), list(values)
    own = found.assign(run=found.run.map(str))
    kept = own.drop_duplicates([*by, *values, "run"])
    if kept.duplicated([*by, "run"]).any():
        raise BadInput(f"a run has several rows in a group by {', '.join(by)}; group by more")
    groups: Any = kept.groupby(by, sort=False, dropna=False)
    spread = bool((groups.size() > 1).any())
    rows = []
    for keys, group in groups:
        assert isinstance(keys, tuple)  # since `by` is a list
        row = dict(zip(by, keys, strict=True))
        for name in values:
            row |= _spread(name, group[name].to_numpy(float), spread)
        rows.append(row | {"seeds": len(group)})
    return pd.DataFrame(rows)


def compared(found: pd.DataFrame, by: str = "method") -> pd.DataFrame:
    """One row a label, in order of appearance: metrics as `summarize` gives them, the head that
    ranks, costs, images and tasks, which seeds differ (`varied`), the runs' names.

    Raises BadInput if runs in one row differ in more than their seeds.
    """
    groups = _alike(found, by)
    table = summarize(found, [by], METRICS).set_index(by).drop(columns="seeds")
    return table.join(pd.DataFrame(map(_about, groups.values()), index=table.index))


def curves(found: pd.DataFrame, by: str = "method") -> dict[Any, NDArray[np.float64]]:
    """Acc_t in percent (seeds, N) by label; NaN where it was not measured."""
    return {
        name: np.stack([acc_over_time(r.accuracy_matrix, r.result["test_images"]) for r in runs])
        for name, runs in _alike(found, by).items()
    }


def matrices(found: pd.DataFrame, by: str = "method") -> dict[Any, NDArray[np.float64]]:
    """The accuracy matrix (N, N) in percent by label, averaged over seeds."""
    return {
        name: np.mean([run.accuracy_matrix for run in runs], axis=0)
        for name, runs in _alike(found, by).items()
    }


def numbers(summary: pd.DataFrame, rows: str, columns: str, value: str) -> pd.DataFrame:
    """`value` over `rows` and `columns`, both in order of appearance; NaN where there is none.

    Raises BadInput if a cell would hold several of the summary's rows.
    """
    if summary.duplicated([rows, columns]).any():
        raise BadInput(f"{rows} and {columns} do not tell the rows apart; choose some of them")
    table = summary.pivot(index=rows, columns=columns, values=value)
    return table.reindex(index=summary[rows].unique(), columns=summary[columns].unique())


def pivot(summary: pd.DataFrame, rows: str, columns: str, value: str) -> pd.DataFrame:
    """`numbers` to read: cells "54.0 ± 1.2", without a spread "54.0", "–" where there is none."""
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
    """`compared` as a person reads it: titles, headings with units, rounded numbers, "–"."""
    if "acc_std" not in table:
        columns = [name for name in columns if name != "seeds"]
    shown = pd.DataFrame(index=[title_of(name) for name in table.index])
    for name in columns:
        shown[HEADINGS[name]] = [_cell(name, row) for row in table.to_dict("records")]
    return shown


def best_trials(profile: str, methods: Sequence[str], n: int = 3) -> pd.DataFrame:
    """To read: of each of these methods that was tuned under a profile the n best settings, by Acc
    on validation images, and of how many."""
    log, rows, heads = trials(profile), [], []
    for method in (name for name in methods if name in log):
        tried = log[method]["trials"]
        for place, trial in enumerate(sorted(tried, key=lambda t: -t["acc"])[:n], 1):
            settings = [f"{k.split('.', 1)[1]} {v}" for k, v in trial["settings"].items()]
            heads.append(title_of(method))
            rows.append(
                {
                    "place": place,
                    "of": len(tried),
                    "validation Acc (%)": f"{trial['acc']:.1f}",
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


def _alike(found: pd.DataFrame, by: str) -> dict[Any, list[Run]]:
    """Each label's runs, each once. BadInput if one label's differ in more than seeds."""
    return {name: _checked(name, own) for name, own in found.groupby(by, sort=False)}


def _checked(name: Any, found: pd.DataFrame) -> list[Run]:
    group = list({str(run): run for run in found.run}.values())
    settings = pd.json_normalize([run.config for run in group]).astype(str)
    paths = ["benchmark.data", "backbone.weights"]
    settings = settings.drop(columns=[*paths, *SEEDS], errors="ignore")
    settings = settings.replace("nan", None)  # an option that is younger than a run
    if several := list(settings.columns[settings.nunique() > 1]):
        raise BadInput(
            f"the runs of {name!r} differ in {', '.join(several)}, not only in seeds; "
            "give them labels of their own"
        )
    if len({tuple(run.config[seed] for seed in SEEDS) for run in group}) < len(group):
        raise BadInput(
            f"the runs of {name!r} share seeds but not images or weights; "
            "give them labels of their own"
        )
    return group


def _about(runs: list[Run]) -> dict[str, Any]:
    """What `compared` says of a row beside its metrics."""
    images = runs[0].result["test_images"]
    results = [run.result for run in runs]
    seconds = np.mean([result["seconds"] for result in results])
    return {
        "head": _ranking_head(runs[0]),
        "other_acc": np.mean([_other_acc(run) for run in runs]),
        "trainable_parameters": round(np.mean([r["trainable_parameters"] for r in results])),
        "kept_parameters": round(np.mean([r["kept_parameters"] for r in results])),
        "seconds": seconds,
        "seconds_a_task": seconds / len(images),
        "inference_mflops": np.mean([r["inference_flops"] for r in results]) / 1e6,
        "tasks": len(images),
        "test_images": sum(images),
        "seeds": len(runs),
        "varied": " ".join(s for s in SEEDS if len({run.config[s] for run in runs}) > 1),
        "runs": " ".join(run.id for run in runs),
    }


def _ranking_head(run: Run) -> str:
    """The head whose matrix ranks the run, by its name in the configuration."""
    ranked_by = run.result["ranked_by"]
    return run.config["training"]["head"] if ranked_by == "head" else ranked_by


def _other_acc(run: Run) -> float:
    others = [
        h["acc"] for name, h in run.result["heads"].items() if name != run.result["ranked_by"]
    ]
    return others[0] if others else np.nan


def _spread(name: str, values: NDArray[np.float64], spread: bool) -> dict[str, float]:
    mean = {name: values.mean()}
    if not spread:
        return mean
    several = len(values) > 1 and not np.isnan(values).any()
    low, high = bootstrap_interval(values.tolist()) if several else (np.nan, np.nan)
    deviation = values.std(ddof=1) if several else np.nan
    return mean | {f"{name}_std": deviation, f"{name}_low": low, f"{name}_high": high}


def _cells(summary: pd.DataFrame, value: str) -> list[str]:
    spread = f"{value}_std"
    deviation = summary[spread] if spread in summary else [np.nan] * len(summary)
    return [
        "–" if pd.isna(mean) else f"{mean:.1f}" if pd.isna(std) else f"{mean:.1f} ± {std:.1f}"
        for mean, std in zip(summary[value], deviation, strict=True)
    ]


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
    if name == "head":
        return value
    if name in ("trainable_parameters", "kept_parameters", "seconds", "seeds"):
        return f"{value:,.0f}"
    if name in ("seconds_a_task", "inference_mflops"):
        return f"{value:,.1f}"
    text = f"{value:.1f}"
    if not pd.isna(row.get(f"{name}_std", np.nan)):
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        text += f" ± {row[f'{name}_std']:.1f} [{low:.1f}, {high:.1f}]"
    return text
