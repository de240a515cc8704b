"""What numbers say, in sentences computed from them.

The sentences are true whichever method wins, and call a difference a difference only where the
number of test images allows it.
"""

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from fmlora_lab.config import METHOD_LABELS, title_of


def listed(words: Iterable[str]) -> str:
    """`a, b and c`; `none` where there is nothing."""
    *most, last = list(words) or ["none"]
    return f"{', '.join(most)} and {last}" if most else last


def seeds_said(found: pd.DataFrame) -> str:
    """How many seeds a sweep's numbers are of, for the end of an answer."""
    seeds = found.seed.nunique()
    if seeds > 1:
        return f"Means over {seeds} seeds of training"
    return "One seed of training, so differences within a few points may be chance"


def margin(p: float, q: float, images: int) -> float:
    """Points by which two accuracies (percent) may differ by the draw of the test images alone.

    Twice the standard error of the difference of two independent proportions, so on the safe
    side for two methods that answer the same images.
    """
    variance = p * (100 - p) + q * (100 - q)
    return 2 * math.sqrt(max(variance, 0.0) / images)


def answer(table: pd.DataFrame, focus: str, rivals: Sequence[str]) -> str:
    """Markdown, of a `tables.compared` by method: does `focus` remember what the first of `rivals`
    forgets, what does it pay for it, and how does it stand beside each of them?"""
    if focus not in table.index:
        return f"{title_of(focus)} is not among the methods of this table, so there is no answer."
    own = table.loc[focus]
    lines = [
        f"After {own.tasks:.0f} tasks {title_of(focus)} answers **{own.acc:.1f}%** of the "
        f"{own.test_images:,.0f} test images right. Just after learning a task it answered "
        f"{own.learning_accuracy:.1f}% of that task right; of an earlier task it has since "
        f"lost {own.forgetting:.1f} points, on average. The {own['head']} head ranks it.",
        "",
    ]
    there = [name for name in table.index if name in rivals]
    if rivals and rivals[0] in there:
        lines += [_remembers(own, table.loc[rivals[0]], focus, rivals[0]), ""]
    lines += [_against(own, table.loc[name], name) for name in there]
    lines += ["", _place(table, focus)]
    for name in table.index:
        if name == focus or not (name in METHOD_LABELS and METHOD_LABELS[name].one_task):
            continue
        gap = table.acc[name] - own.acc
        lines.append(
            f"{capital(name)}, which sees all tasks at once, stands at {table.acc[name]:.1f}%: "
            + (f"{gap:.1f} points are left to gain." if gap > 0 else "no upper bound here.")
        )
    lines += ["", _other_head(table, focus), "", _caution(table)]
    return "\n".join(lines)


def _clear(own: pd.Series, other: pd.Series) -> int:
    """1 if `own` has clearly the higher Acc, -1 if clearly the lower, 0 if neither is clear."""
    gap = own.acc - other.acc
    clear = abs(gap) > margin(own.acc, other.acc, own.test_images)
    return int(math.copysign(1, gap)) if clear else 0


def _remembers(own: pd.Series, other: pd.Series, focus: str, name: str) -> str:
    less = other.forgetting - own.forgetting > margin(own.acc, other.acc, own.test_images)
    if less and _clear(own, other) > 0:
        verdict = f"**Yes: it remembers what {title_of(name)} forgets.**"
    elif less:
        verdict = f"**Only in part: it forgets less than {title_of(name)}, but ends no better.**"
    else:
        verdict = f"**No: it does not clearly forget less than {title_of(name)}.**"
    return (
        f"{verdict} {capital(name)} forgets {other.forgetting:.1f} points and ends at "
        f"{other.acc:.1f}%; {title_of(focus)} forgets {own.forgetting:.1f} and ends at "
        f"{own.acc:.1f}%."
    )


def capital(name: str) -> str:
    """A method's title at the beginning of a sentence."""
    return title_of(name)[0].upper() + title_of(name)[1:]


def _against(own: pd.Series, other: pd.Series, name: str) -> str:
    verdict = {1: "clearly better", -1: "clearly worse", 0: "no clear difference"}[
        _clear(own, other)
    ]
    return (
        f"- Against {title_of(name)}: Acc {own.acc - other.acc:+.1f} points ({verdict}), learning "
        f"accuracy {own.learning_accuracy - other.learning_accuracy:+.1f}, "
        f"forgetting {own.forgetting - other.forgetting:+.1f}."
    )


def _place(table: pd.DataFrame, focus: str) -> str:
    """Where `focus` stands among the methods that saw one task at a time."""
    order = table[table.forgetting.notna()].acc.sort_values(ascending=False)
    if focus not in order.index or len(order) < 2:
        return ""
    best, place = order.index[0], list(order.index).index(focus) + 1
    text = f"Of {len(order)} methods that see one task at a time it stands in place {place}"
    if place == 1:
        return f"{text}, before {title_of(order.index[1])} with {order.iloc[1]:.1f}%."
    return f"{text}; the best is {title_of(best)} with {order.iloc[0]:.1f}%."


def _other_head(table: pd.DataFrame, focus: str) -> str:
    """What the same training gives by the head that does not rank it."""
    known = table.loc[table.other_acc.notna() & (table["head"] != "prototype"), "other_acc"]
    if focus not in known.index:
        return ""
    said = ", ".join(f"{title_of(name)} {acc:.1f}%" for name, acc in known.items())
    return f"By class means in the place of the trained head the same runs reach: {said}."


def _caution(table: pd.DataFrame) -> str:
    images = int(table.test_images.min())
    text = (
        f"With {images:,} test images, differences of up to {margin(50, 50, images):.1f} points "
        "may come from the draw of the images alone"
    )
    if table.seeds.max() > 1:
        varied = " and ".join(sorted(set(" ".join(table.varied.dropna()).split())))
        return f"{text}; intervals in the table come from several values of {varied}."
    return f"{text}, and one seed says nothing about the spread of training."
