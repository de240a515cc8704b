"""Many methods on one stream over several seeds: runs, table, and what accuracy costs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fmlora_lab import plots
from fmlora_lab.analysis.names import TITLES, method_of
from fmlora_lab.analysis.tables import grouped, publish, summary_table, to_markdown
from fmlora_lab.config import RunConfig
from fmlora_lab.files import write_atomically
from fmlora_lab.methods import METHODS
from fmlora_lab.profiles import configure, tuned
from fmlora_lab.runs.store import Run

ORDER = tuple(TITLES)
"""The order of a table's rows; methods that are not here follow by name."""

COLUMNS = (
    "acc", "learning_accuracy", "forgetting", "head", "other_acc", "trainable_parameters",
    "kept_parameters", "seconds_a_task", "inference_mflops", "seeds",
)  # fmt: skip
"""What the comparison's table shows."""


def in_order(methods: Iterable[str]) -> list[str]:
    """Methods as tables list them."""
    return sorted(methods, key=lambda m: (ORDER.index(m) if m in ORDER else len(ORDER), m))


def configurations(
    methods: Sequence[str] | None,
    benchmark: str,
    profile: str,
    seeds: int,
    overrides: Mapping[str, Any],
) -> list[RunConfig]:
    """One configuration a method and seed (0, 1, …); all registered methods by default.

    BadInput for a method that is not known, before anything is trained.
    """
    return [
        configure(method, benchmark, profile, {**overrides, "seed": seed})
        for method in in_order(methods or METHODS)
        for seed in range(seeds)
    ]


def draw(runs: Sequence[Run], out: Path) -> tuple[pd.DataFrame, list[Path]]:
    """The table of the runs, written with its figures into `out`; and the files' paths."""
    rows = in_order({method_of(run) for run in runs})
    ranked = sorted(runs, key=lambda run: (rows.index(method_of(run)), run.config["seed"]))
    table = summary_table(ranked)
    paths = list(publish(table, out).values())
    text = to_markdown(table, COLUMNS).encode()
    write_atomically(out / "table.md", lambda file: file.write(text))
    paths.append(out / "table.md")
    accs = {m: [run.result["acc"] for run in group] for m, group in grouped(ranked).items()}
    for name, column, label, log in (
        ("accuracy_over_kept", "kept_parameters", "numbers kept from task to task", True),
        ("accuracy_over_seconds", "seconds_a_task", "seconds a task", False),
    ):
        rivals = [m for m in table.index if m != "joint"]  # the reference is no rival
        points = {m: (accs[m], table.loc[m, column]) for m in rivals}
        paths += plots.save(plots.pareto(points, label, log), out, name)
    return table, paths


def best_trials(profile: str, n: int = 3) -> pd.DataFrame:
    """Each tuned method's n best settings by validation Acc, and how many trials it had."""
    rows, logs = [], tuned(profile)
    for method in in_order(logs):
        tried = logs[method]["trials"]
        trials = sorted(tried, key=lambda trial: -trial["acc"])
        for place, trial in enumerate(trials[:n], 1):
            said = ", ".join(f"{k.split('.', 1)[1]} {v}" for k, v in trial["settings"].items())
            rows.append(
                {
                    "method": method,
                    "place": place,
                    "of": len(tried),
                    "validation Acc (%)": round(trial["acc"], 1),
                    "learning accuracy (%)": round(trial["learning_accuracy"], 1),
                    "forgetting (points)": round(trial["forgetting"], 1),
                    "settings": said or "defaults",
                }
            )
    return pd.DataFrame(rows)
