"""What numbers say, in sentences computed from them.

The sentences are true whichever method wins. They call one method better than another only where
the 95% interval of their difference, paired by class order, excludes 0; of one class order there
is no interval, and they say so.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fmlora_lab.analysis.differences import differences, differences_of, gap_said, verdict
from fmlora_lab.analysis.tables import compared, counted, with_best_head, with_half_width
from fmlora_lab.config import METHOD_LABELS, title_of
from fmlora_lab.runs.frame import by_draw, draw_of


def listed(words: Iterable[str]) -> str:
    """`a, b and c`; `none` where there is nothing."""
    *most, last = list(words) or ["none"]
    return f"{', '.join(most)} and {last}" if most else last


def orders_said(found: pd.DataFrame) -> str:
    """How many class orders a sweep's numbers are of, for the end of an answer."""
    draws = draw_of(found)
    said = counted(draws.nunique(), str(draws.name))
    if draws.nunique() > 1:
        return f"Means over {said}; ± is half the width of their 95% t interval"
    return f"{said[0].upper()}{said[1:]}: no interval, so a few points may be chance"


def leader(table: pd.DataFrame) -> str:
    """Who has the highest mean of percentages by class order and label (`runs.frame.by_draw`), and
    from which others no interval tells it."""
    means = table.mean().dropna()
    first = means.idxmax()
    text = f"{title_of(str(first))} with {means[first]:.1f}%"
    rows = differences_of(table.loc[:, means.index], first)
    level = rows[~rows.apart.astype(bool)]
    if level.empty:
        return text
    if level.draws.max() < 2:
        return f"{text} ({verdict(level.iloc[0])})"
    others = [title_of(str(name)) for name in level.index]
    whom = listed(others) if len(others) < 4 else f"{len(others)} others"
    return f"{text} ({verdict(level.iloc[0]).replace('difference', f'difference from {whom}')})"


def margin(p: float, q: float, images: int) -> float:
    """Points by which two accuracies (percent) may differ by the draw of the test images alone.

    Twice the standard error of the difference of two independent proportions, so on the safe
    side for two methods that answer the same images.
    """
    variance = p * (100 - p) + q * (100 - q)
    return 2 * math.sqrt(max(variance, 0.0) / images)


def answer(found: pd.DataFrame, focus: str, rivals: Sequence[str]) -> str:
    """Markdown, of a sweep by method: does `focus` remember what the first of `rivals` forgets,
    what does it pay for it, and how does it stand beside each of them?"""
    table = compared(found)
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
    there = [name for name in table.index if name in rivals and name != focus]
    read, _ = with_best_head(found)
    gaps = {name: _gaps(read, focus, name) for name in there}
    if rivals and rivals[0] in there:
        lines += [_remembers(table, gaps[rivals[0]], focus, rivals[0]), ""]
    lines += [
        _against(gap, name, str(own["head"]), str(table.loc[name, "head"]))
        for name, gap in gaps.items()
    ]
    lines += ["", _place(table, focus)]
    for name in table.index:
        if name == focus or not (name in METHOD_LABELS and METHOD_LABELS[name].one_task):
            continue
        gap = table.acc[name] - own.acc
        lines.append(
            f"{capital(name)}, which sees all tasks at once, stands at {table.acc[name]:.1f}%: "
            + (f"{gap:.1f} points are left to gain." if gap > 0 else "no upper bound here.")
        )
    lines += ["", _other_heads(table), "", _caution(table, found)]
    return "\n".join(lines)


def by_head(found: pd.DataFrame, frozen: str = "prototypes") -> dict[str, Any]:
    """Of a sweep by method what `plots.accuracy_by_head` draws: each method's Acc by the trained
    and by its best closed-form head, one a class order, the frozen backbone's (`frozen`) and joint
    training's mean under their best, and a sentence of what the numbers say. Where there are none
    but these two, they are what is drawn."""
    table, (found, _) = compared(found), with_best_head(found)
    orders = {
        name: by_draw(found.assign(own=found.get(name, np.nan)), "own")
        for name in ("acc_trained", "acc_best")
    }
    whole = {name for name in table.index if METHOD_LABELS[name].one_task}
    read = ["acc_trained", "acc_best"]
    table = table.assign(**{name: table.get(name, np.nan) for name in read})
    best = {str(k): float(v) for k, v in table[read].max(axis=1).items()}
    others = table.drop(index=[*whole, *({frozen} & {*table.index})])
    rows = table if others.empty else others
    lifts = (rows.acc_best - rows.acc_trained).dropna()
    said = "No trained head here: Acc by the best closed-form one"
    if len(lifts):
        said = f"A closed-form head changes Acc by {lifts.min():+.0f} to {lifts.max():+.0f} points"
    ground = best.get(frozen, np.nan)
    gains = (others.acc_best - ground).dropna().sort_values(ascending=False)
    if len(gains):
        ends = " to ".join(dict.fromkeys(f"{gain:+.0f}" for gain in gains.iloc[[-1, 0]]))
        said += f"; features give {ends} over the frozen backbone's"
    return {
        "found": {
            str(name): (*(own[name].to_numpy() for own in orders.values()), str(row.best_head))
            for name, row in rows.iterrows()
        },
        "title": said,
        "frozen": ground,
        "joint": max((best[name] for name in whole), default=np.nan),
    }


def _gaps(found: pd.DataFrame, focus: str, name: str) -> dict[str, pd.Series]:
    """How far `focus` is above `name` in a sweep `with_best_head`, as rows of `differences`, by
    metric."""
    two = found.loc[found.method.isin([focus, name])]
    of = ("acc", "acc_best", "learning_accuracy", "forgetting")
    rows = {value: differences(two, name, value) for value in of}
    return {value: row.loc[focus] for value, row in rows.items() if focus in row.index}


def _remembers(table: pd.DataFrame, gaps: Mapping[str, pd.Series], focus: str, name: str) -> str:
    own, other, acc = table.loc[focus], table.loc[name], gaps["acc"]
    by_images = margin(own.acc, other.acc, own.test_images)
    less = _clear(gaps["forgetting"], by_images) < 0
    if less and _clear(acc, by_images) > 0:
        said = f"Yes: it remembers what {title_of(name)} forgets."
    elif less:
        said = f"Only in part: it forgets less than {title_of(name)}, but ends no better."
    else:
        said = f"No: it does not clearly forget less than {title_of(name)}."
    one = f" ({verdict(acc)})" if acc.draws < 2 else ""
    return (
        f"**{said}**{one} {capital(name)} forgets {other.forgetting:.1f} points and ends at "
        f"{other.acc:.1f}%; {title_of(focus)} forgets {own.forgetting:.1f} and ends at "
        f"{own.acc:.1f}%."
    )


def _clear(gap: pd.Series, by_images: float) -> int:
    """1 or -1 if a difference is clearly above or below 0, else 0: by its interval, and of one
    class order by what the draw of the test images may do."""
    clear = gap.apart if gap.draws > 1 else abs(gap.difference) > by_images
    return int(math.copysign(1, gap.difference)) if clear else 0


def capital(name: str) -> str:
    """A method's title at the beginning of a sentence."""
    return title_of(name)[0].upper() + title_of(name)[1:]


def _against(gaps: Mapping[str, pd.Series], name: str, head: str, its_head: str) -> str:
    """Compared under a head that both have: the one that ranks both, and each one's best."""
    said = []
    if head == its_head:
        said.append(f"Acc {gap_said(gaps['acc'])}")
        for value in ("learning_accuracy", "forgetting"):
            gap = with_half_width(gaps[value].to_dict(), "difference", "{:+.1f}")
            said.append(f"{value.replace('_', ' ')} {gap}")
    if "acc_best" in gaps:
        said.append(f"by each one's best closed-form head Acc {gap_said(gaps['acc_best'])}")
    if not said:
        said = [f"no comparison, since the {its_head} head ranks it and the {head} head the other"]
    return f"- Against {title_of(name)}: {', '.join(said)}."


def _place(table: pd.DataFrame, focus: str) -> str:
    """Where `focus` stands among the methods that saw one task at a time, all read alike."""
    rivals = table.loc[table.forgetting.notna()]
    if focus not in rivals.index or len(rivals) < 2:
        return ""
    alike = "acc" if rivals["head"].nunique() == 1 else "acc_best"
    accs = {str(name): float(acc) for name, acc in rivals[alike].items()}
    if any(map(math.isnan, accs.values())):
        return ""
    order = sorted(accs, key=lambda name: -accs[name])
    best, place = order[0], order.index(focus) + 1
    how = "" if alike == "acc" else ", each by its best closed-form head,"
    text = f"Of {len(order)} methods that see one task at a time{how} its mean stands in place"
    if place == 1:
        return f"{text} 1, before {title_of(order[1])} with {accs[order[1]]:.1f}%."
    return f"{text} {place}; the highest is {title_of(best)}'s with {accs[best]:.1f}%."


def _other_heads(table: pd.DataFrame) -> str:
    """What the same training gives by the best closed-form head."""
    known = table[table.acc_best.notna() & (table.best_head != table["head"])]
    if known.empty:
        return ""
    said = [
        f"{title_of(str(name))} {row.acc_best:.1f}% ({row.best_head})"
        for name, row in known.iterrows()
    ]
    return (
        "By each one's best closed-form head in the place of the head that ranks it the same runs "
        f"reach: {', '.join(said)}."
    )


def _caution(table: pd.DataFrame, found: pd.DataFrame) -> str:
    images = int(table.test_images.min())
    return (
        f"{orders_said(found)}. With {images:,} test images, differences of up to "
        f"{margin(50, 50, images):.1f} points may come from the draw of the images alone."
    )
