"""Differences between methods, paired by class order: what an order does to both is not in them.

A difference counts as one only where its 95% t interval excludes 0 (`apart`).
"""

from typing import Any

import pandas as pd

from fmlora_lab.analysis.tables import counted, with_half_width
from fmlora_lab.config import BadInput, title_of
from fmlora_lab.metrics import paired_difference
from fmlora_lab.runs.frame import by_draw, heads

COLUMNS = ("difference", "difference_low", "difference_high", "draws", "drawn", "apart")


def differences(
    found: pd.DataFrame, against: str = "fm-lora", value: str = "acc", by: str = "method"
) -> pd.DataFrame:
    """A row a label of `by` but `against`, in order of appearance: the mean `difference` of its
    `value` from that of `against`, its 95% interval (`difference_low`, `difference_high`), how
    many common class orders (`draws`) or what else was `drawn`, and whether the interval excludes
    0 (`apart`).

    Labels without a common class order are left out. Raises BadInput if `against` is not there.
    """
    return differences_of(by_draw(found, value, by), against)


def differences_of(table: pd.DataFrame, against: Any) -> pd.DataFrame:
    """`differences` of numbers by class order and label, as `runs.frame.by_draw` gives them."""
    if against not in table:
        raise BadInput(f"{against!r} is not compared; there are {', '.join(map(str, table))}")
    rows = {}
    for name in table.columns.drop(against):
        pairs = table[[name, against]].dropna()
        if len(pairs):
            mean, half = paired_difference(pairs[name], pairs[against])
            told = (mean, mean - half, mean + half, len(pairs), table.index.name, abs(mean) > half)
            rows[name] = dict(zip(COLUMNS, told, strict=True))
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))


def gains(found: pd.DataFrame, frozen: str = "prototypes") -> pd.DataFrame:
    """What a method's features give that the frozen backbone's do not: `differences` of Acc from
    the frozen run under the same head, a row a `method` and `head`.

    Nothing drifts in a frozen backbone: where it has no carried statistics, its plain ones stand
    for them. Heads that `frozen` does not have are left out.
    """
    parts = []
    for head in heads(found):
        plain = found[f"acc_{head.removesuffix('-carried')}"]
        own = found[f"acc_{head}"]
        own = own.where(own.notna() | (found.method != frozen), plain)
        part = differences(found.assign(of_head=own), frozen, "of_head")
        parts.append(part.rename_axis("method").reset_index().assign(head=head))
    return pd.concat(parts, ignore_index=True)


def readable_differences(table: pd.DataFrame, heading: str) -> pd.DataFrame:
    """`differences` as a person reads them; `heading` names the number, with its unit."""
    rows = table.to_dict("records")
    shown = {
        f"{heading} ± 95%": [with_half_width(row, "difference", "{:+.1f}") for row in rows],
        "of": [counted(row["draws"], row["drawn"]) for row in rows],
        "says": [verdict(row, "higher", "lower") for row in rows],
    }
    return pd.DataFrame(shown, index=[title_of(name) for name in table.index])


def gap_said(row: Any, unit: str = " points") -> str:
    """A row of `differences` in words: `+1.9 ± 2.4 points (no difference that …)`."""
    return f"{with_half_width(row, 'difference', '{:+.1f}')}{unit} ({verdict(row)})"


def verdict(row: Any, more: str = "better", less: str = "worse") -> str:
    """What a row of `differences` says, and no more."""
    if row["draws"] < 2:
        return f"{counted(row['draws'], row['drawn'])}: no interval"
    if not row["apart"]:
        return f"no difference that {counted(row['draws'], row['drawn'])} can tell"
    return more if row["difference"] > 0 else less
