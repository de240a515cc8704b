"""A horizontal dot plot: one quantity for many things, a row each."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fmlora_lab.config import METHOD_LABELS, title_of
from fmlora_lab.metrics import t_interval
from fmlora_lab.plots.sheet import (
    COLUMN,
    EDGED,
    MARK,
    SMALL,
    Width,
    counted_draws,
    draw_dots,
    family_keys,
    finish,
    inches,
    keys,
    of_one_seed,
    panel,
    wrapped,
)
from fmlora_lab.plots.style import FAINT, INK, styles


def dots(
    groups: Mapping[str, Mapping[str, ArrayLike]],
    xlabel: str,
    title: str,
    zero: bool = False,
    width: Width | None = None,
) -> Figure:
    """A row a group from top to bottom, in it a mark a series: a number, or one a class order.

    Orders are averaged, with a line along the 95% t interval and a small dot each; NaN are left
    out. The series of a row stand below each other in the order of the legend. The marks of a
    single series have the looks of the methods whose rows they stand in. `zero` draws a line at 0.
    """
    import seaborn as sns
    from pandas import DataFrame

    series = list(dict.fromkeys(name for row in groups.values() for name in row))
    by_row = len(series) == 1 and not METHOD_LABELS.keys().isdisjoint(groups)
    rows = [
        (group, group if by_row else name, value)
        for group, row in groups.items()
        for name, values in row.items()
        for value in np.ravel(values)
    ]
    looks = styles(groups if by_row else series)
    titles = [wrapped(title_of(name), 1.5, SMALL) for name in groups]
    tall = max(0.075 * len(series) + 0.06, 0.12 * max(n.count("\n") + 1 for n in titles) + 0.05)
    figure, axis = panel(0.45 + tall * len(groups), grid="x", width=inches(width, COLUMN))
    between: Any = (len(series) - 1) / (len(series) + 1)  # the first series and the last
    sns.pointplot(
        DataFrame(rows, columns=["group", "name", "value"]), x="value", y="group", hue="name",
        order=list(groups), hue_order=list(looks), errorbar=t_interval, dodge=between,
        palette={name: look["color"] for name, look in looks.items()},
        markers=[look["marker"] for look in looks.values()], linestyle="none", markersize=MARK,
        err_kws={"linewidth": 1}, legend=False, ax=axis, **EDGED,
    )  # fmt: skip
    lanes = np.linspace(-between / 2, between / 2, len(series))
    for y, row in enumerate(groups.values()):
        for lane, name in zip(lanes, series, strict=True):
            if name in row and np.size(row[name]) > 1:
                look = looks[list(groups)[y] if by_row else name]
                draw_dots(axis, row[name], np.full(np.size(row[name]), y + lane), look["color"])
    if zero:
        axis.axvline(0, color=INK, linewidth=0.8, zorder=1)
    axis.set(xlabel=xlabel, ylabel="", ylim=(len(groups) - 0.5, -0.5))
    axis.set_yticks(range(len(groups)), titles)
    axis.set_yticks(np.arange(1, len(groups)) - 0.5, minor=True)
    axis.grid(axis="y", which="minor", color=FAINT, linewidth=0.6)
    axis.tick_params(axis="y", which="both", length=0)
    named = keys({title_of(name): look for name, look in looks.items()})
    every = [values for row in groups.values() for values in row.values()]
    named = named if len(series) > 1 else family_keys(groups)
    return finish(figure, of_one_seed(title, every), [*named, *counted_draws(every)])


def differences(
    gaps: Mapping[str, ArrayLike],
    against: str,
    quantity: str,
    unit: str = "class orders",
    width: Width | None = None,
) -> Figure:
    """Differences from one method: a row a method, the mean with its 95% t interval, a line at 0.

    `gaps` gives (orders,) by method: its `quantity` minus that of `against` in the same class
    order. The title says which lie apart from 0, or of many how many; of one order nothing does.
    """
    gaps = {name: np.ravel(gap).astype(float) for name, gap in gaps.items()}
    intervals = {name: t_interval(gap[~np.isnan(gap)]) for name, gap in gaps.items()}
    above = [title_of(name) for name, (low, _) in intervals.items() if low > 0]
    below = [title_of(name) for name, (_, high) in intervals.items() if high < 0]
    n = max(len(gap) for gap in gaps.values())
    told = [f"{side} {title_of(against)}: {', '.join(names) if len(names) < 5 else len(names)}"
            for side, names in (("above", above), ("below", below)) if names]  # fmt: skip
    level = len(gaps) - len(above) - len(below)
    if n < 2:
        told = [f"differences from {title_of(against)} in one of the {unit}: no interval"]
    elif level:
        told.append(f"{n} {unit} cannot tell {level} of {len(gaps)} from it")
    said = "; ".join(told)
    rows = {name: {"difference": gap} for name, gap in gaps.items()}
    label = f"{quantity}, minus that of {title_of(against)}"
    return dots(rows, label, said[0].upper() + said[1:], zero=True, width=width)
