"""What a comparison says about one method, in sentences computed from its table.

The sentences are true whichever method wins, and call a difference a difference only where the
number of test images allows it.
"""

import math

import pandas as pd

from fmlora_lab.analysis.names import TITLES

RIVALS = ("full", "lora", "linear-probe", "prototypes")


def margin(p: float, q: float, images: int) -> float:
    """Points by which two accuracies (percent) may differ by the draw of the test images alone.

    Twice the standard error of the difference of two independent proportions, so on the safe
    side for two methods that answer the same images.
    """
    variance = p * (100 - p) + q * (100 - q)
    return 2 * math.sqrt(max(variance, 0.0) / images)


def answer(table: pd.DataFrame, focus: str = "fm-lora") -> str:
    """Markdown: does `focus` remember what fine-tuning forgets, and what does it pay for it?"""
    if focus not in table.index:
        return f"{_title(focus)} is not among the methods of this table, so there is no answer."
    own = table.loc[focus]
    lines = [
        f"After {own.tasks:.0f} tasks {_title(focus)} answers **{own.acc:.1f}%** of the "
        f"{own.test_images:,.0f} test images right. Just after learning a task it answered "
        f"{own.learning_accuracy:.1f}% of that task right; of an earlier task it has since "
        f"lost {own.forgetting:.1f} points, on average. The {own['head']} head ranks it.",
        "",
    ]
    if "full" in table.index and focus != "full":
        lines += [_remembers(own, table.loc["full"], focus), ""]
    rivals = [name for name in table.index if name in RIVALS and name != focus]
    lines += [_against(own, table.loc[name], name) for name in rivals]
    lines += ["", _place(table, focus)]
    if "joint" in table.index and focus != "joint":
        joint = table.loc["joint"].acc
        gap = joint - own.acc
        lines.append(
            f"Joint training, which sees all tasks at once, stands at {joint:.1f}%: "
            + (f"{gap:.1f} points are left to gain." if gap > 0 else "no upper bound here.")
        )
    lines += ["", _other_head(table, focus), "", _caution(table)]
    return "\n".join(lines)


def _title(name: str) -> str:
    return TITLES.get(name, name)


def _clear(own: pd.Series, other: pd.Series) -> int:
    """1 if `own` has clearly the higher Acc, -1 if clearly the lower, 0 if neither is clear."""
    gap = own.acc - other.acc
    clear = abs(gap) > margin(own.acc, other.acc, own.test_images)
    return int(math.copysign(1, gap)) if clear else 0


def _remembers(own: pd.Series, full: pd.Series, focus: str) -> str:
    less = full.forgetting - own.forgetting > margin(own.acc, full.acc, own.test_images)
    if less and _clear(own, full) > 0:
        verdict = "**Yes: it remembers what fine-tuning forgets.**"
    elif less:
        verdict = "**Only in part: it forgets less than full fine-tuning, but ends no better.**"
    else:
        verdict = "**No: it does not clearly forget less than full fine-tuning.**"
    return (
        f"{verdict} Full fine-tuning forgets {full.forgetting:.1f} points and ends at "
        f"{full.acc:.1f}%; {_title(focus)} forgets {own.forgetting:.1f} and ends at {own.acc:.1f}%."
    )


def _against(own: pd.Series, other: pd.Series, name: str) -> str:
    verdict = {1: "clearly better", -1: "clearly worse", 0: "no clear difference"}[
        _clear(own, other)
    ]
    return (
        f"- Against {_title(name)}: Acc {own.acc - other.acc:+.1f} points ({verdict}), learning "
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
        return f"{text}, before {_title(order.index[1])} with {order.iloc[1]:.1f}%."
    return f"{text}; the best is {_title(best)} with {order.iloc[0]:.1f}%."


def _other_head(table: pd.DataFrame, focus: str) -> str:
    """What the same training gives by the head that does not rank it."""
    known = table.loc[table.other_acc.notna() & (table["head"] != "prototype"), "other_acc"]
    if focus not in known.index:
        return ""
    said = ", ".join(f"{_title(name)} {acc:.1f}%" for name, acc in known.items())
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
