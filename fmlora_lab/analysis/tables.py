"""Tables over stored runs: one row a method, kept as numbers, shown as text, HTML or CSV.

Seeds are averaged. What is undefined, such as joint training's forgetting, is NaN in a table,
"–" where a person reads it and empty in CSV.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fmlora_lab.analysis.names import TITLES, method_of
from fmlora_lab.config import BadInput
from fmlora_lab.files import write_atomically
from fmlora_lab.metrics import acc_over_time, bootstrap_interval
from fmlora_lab.runs.store import Run

METRICS = ("acc", "aaa", "learning_accuracy", "forgetting")
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
"""What readers see, in this order. A table has more columns: spreads, and where it comes from."""

FULL = tuple(name for name in HEADINGS if name != "seconds_a_task")
"""The columns for a notebook."""

SHORT = (*METRICS, "trainable_parameters", "seconds")
"""The columns for a terminal."""

Label = Callable[[Run], str]


def summary_table(runs: Iterable[Run], label: Label = method_of) -> pd.DataFrame:
    """One row a label, in order of appearance: the mean over the runs that carry it.

    With several runs in any row, each metric also has its sample standard deviation (`acc_std`)
    and 95% bootstrap interval (`acc_low`, `acc_high`). `varied` says which seeds differ. Raises
    BadInput if runs in one row differ in more than their seeds.
    """
    rows = grouped(runs, label)
    spread = any(len(group) > 1 for group in rows.values())
    return pd.DataFrame(
        [_row(group, spread) for group in rows.values()], index=pd.Index(rows, name="method")
    )


def grouped(runs: Iterable[Run], label: Label = method_of) -> dict[str, list[Run]]:
    """Runs by label, each run once. BadInput if a group differs in more than seeds."""
    groups: dict[str, list[Run]] = {}
    for run in {run.id: run for run in runs}.values():
        groups.setdefault(label(run), []).append(run)
    for name, group in groups.items():
        settings = pd.json_normalize([run.config for run in group]).astype(str)
        paths = ["benchmark.data", "backbone.weights"]
        settings = settings.drop(columns=[*paths, *SEEDS], errors="ignore")
        if several := list(settings.columns[settings.nunique(dropna=False) > 1]):
            raise BadInput(
                f"the runs of {name!r} differ in {', '.join(several)}, not only in seeds; "
                "give them labels of their own"
            )
        if len({tuple(run.config[seed] for seed in SEEDS) for run in group}) < len(group):
            raise BadInput(
                f"the runs of {name!r} share seeds but not images or weights; "
                "give them labels of their own"
            )
    return groups


def curves(runs: Iterable[Run], label: Label = method_of) -> dict[str, NDArray[np.float64]]:
    """Acc_t in percent (seeds, N) by label; NaN where it was not measured."""
    return {
        name: np.stack([acc_over_time(r.accuracy_matrix, r.result["test_images"]) for r in group])
        for name, group in grouped(runs, label).items()
    }


def matrices(runs: Iterable[Run], label: Label = method_of) -> dict[str, NDArray[np.float64]]:
    """The accuracy matrix (N, N) in percent by label, averaged over seeds."""
    return {
        name: np.mean([run.accuracy_matrix for run in group], axis=0)
        for name, group in grouped(runs, label).items()
    }


def readable(table: pd.DataFrame, columns: Sequence[str] = FULL) -> pd.DataFrame:
    """The table as a person reads it: titles, headings with units, rounded numbers, "–"."""
    if "acc_std" not in table:
        columns = [name for name in columns if name != "seeds"]
    shown = pd.DataFrame(index=[TITLES.get(name, name) for name in table.index])
    for name in columns:
        shown[HEADINGS[name]] = [_cell(name, row) for _, row in table.iterrows()]
    return shown


def to_text(table: pd.DataFrame, columns: Sequence[str] = FULL) -> str:
    """Aligned columns for a terminal."""
    return readable(table, columns).to_string()


def to_html(table: pd.DataFrame, columns: Sequence[str] = FULL) -> str:
    """An HTML table for a notebook."""
    return readable(table, columns).to_html(border=0)


def to_markdown(table: pd.DataFrame, columns: Sequence[str] = FULL) -> str:
    """A Markdown table for a README."""
    shown = readable(table, columns)
    lines = [["", *shown.columns], ["---"] * (1 + len(shown.columns))]
    lines += [[name, *row] for name, row in zip(shown.index, shown.to_numpy(), strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_csv(table: pd.DataFrame) -> str:
    """Every column, unrounded, with the methods' own names."""
    return table.to_csv()


def publish(table: pd.DataFrame, folder: Path | str) -> dict[str, Path]:
    """Write `table.csv` and `results.json`, a notebook's headline numbers, into `folder`."""
    results = {"methods": json.loads(table.to_json(orient="index", double_precision=4))}
    content = {"table.csv": to_csv(table), "results.json": json.dumps(results, indent=1) + "\n"}
    for name, text in content.items():
        write_atomically(Path(folder) / name, lambda file, text=text: file.write(text.encode()))
    return {name: Path(folder) / name for name in content}


def read_published(folder: Path | str) -> pd.DataFrame:
    """The table that `publish` wrote."""
    return pd.read_csv(Path(folder) / "table.csv", index_col="method")


def _row(runs: list[Run], spread: bool) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in METRICS:
        values = np.array([run.result[name] for run in runs], float)
        row[name] = values.mean()
        if spread:
            several = len(runs) > 1 and not np.isnan(values).any()
            row[f"{name}_std"] = values.std(ddof=1) if several else np.nan
            interval = bootstrap_interval(values) if several else (np.nan, np.nan)
            row[f"{name}_low"], row[f"{name}_high"] = interval
    first, seconds = runs[0].result, np.mean([run.result["seconds"] for run in runs])
    return row | {
        "head": _ranking_head(runs[0]),
        "other_acc": np.mean([_other_acc(run) for run in runs]),
        "trainable_parameters": round(np.mean([r.result["trainable_parameters"] for r in runs])),
        "kept_parameters": round(np.mean([r.result["kept_parameters"] for r in runs])),
        "seconds": seconds,
        "seconds_a_task": seconds / len(first["test_images"]),
        "inference_mflops": np.mean([run.result["inference_flops"] for run in runs]) / 1e6,
        "tasks": len(first["test_images"]),
        "test_images": sum(first["test_images"]),
        "seeds": len(runs),
        "varied": " ".join(s for s in SEEDS if len({run.config[s] for run in runs}) > 1),
        "runs": " ".join(run.id for run in runs),
    }


def _ranking_head(run: Run) -> str:
    """`linear`, `cosine` or `prototype`: the head whose matrix ranks the run."""
    trained = run.config["training"]["head"]
    return "prototype" if run.result["ranked_by"] == "prototype" else trained


def _other_acc(run: Run) -> float:
    others = [
        h["acc"] for name, h in run.result["heads"].items() if name != run.result["ranked_by"]
    ]
    return others[0] if others else np.nan


def _cell(name: str, row: Mapping[str, Any]) -> str:
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
