"""Who stands first, for titles: one name alone only where intervals part it from all others.

A table here has a row a class order (or what else is drawn) and a column a label, as
`runs.frame.by_draw` gives it. Two labels part where the 95% interval of their difference, paired
by order, excludes 0; of one draw nothing parts, so there the range is said and nobody leads.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from fmlora_lab.analysis.differences import differences_of
from fmlora_lab.analysis.tables import counted
from fmlora_lab.config import title_of
from fmlora_lab.runs.frame import DRAWS, draw_of


def table_of(values: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """A table of (draws,) by label: draws that Series have for their index, as `by_draw` names it,
    stand in one row, others by their places; NaN where a label lacks one."""
    series = {}
    for name, own in values.items():
        placed = isinstance(own, pd.Series) and own.index.name in DRAWS
        series[name] = pd.Series(own if placed else np.ravel(own))
    return pd.DataFrame(series, dtype=float)


def level_with_first(table: pd.DataFrame, most: bool = True) -> tuple[str, list[str]]:
    """Whose mean is the highest (or, without `most`, the lowest), and who is not parted from it."""
    means = table.mean().dropna()
    first = means.idxmax() if most else means.idxmin()
    rows = differences_of(table.loc[:, means.index], first)
    apart = {name for name, row in rows.iterrows() if row.apart and row.draws > 1}
    return str(first), [str(name) for name in means.index if name != first and name not in apart]


def standing(table: pd.DataFrame, how: str = "{:.0f}%") -> str:
    """Who stands first, as far as the intervals say, in words that a title ends with.

    `highest A 55%` where A is parted from all others; else with whom it is level; of one draw
    `from B 30% to A 55%`. `how` formats a mean.
    """
    means = table.mean().dropna().sort_values(ascending=False)
    said = {name: f"{_before_number(str(name))} {how.format(mean)}" for name, mean in means.items()}
    if len(means) < 2:
        return "".join(said.values())
    first, level = level_with_first(table)
    if table.notna().sum().max() < 2:
        return f"from {said[means.index[-1]]} to {said[first]}"
    if not level:
        return f"highest {said[first]}"
    if len(level) < 3:
        return f"{', '.join(said[name] for name in (first, *level))}: no interval tells who leads"
    return f"highest mean {said[first]}, level with {len(level)} of {len(means) - 1} others"


def _before_number(name: str) -> str:
    """A title; `R = 16:` where a number behind it would be read along with it."""
    title = title_of(name)
    return f"{title}:" if title[-1:].isdigit() else title


def draws_said(found: pd.DataFrame) -> str:
    """How many draws a sweep's means are over: `5 class orders`, `one class order`."""
    draws = draw_of(found)
    return counted(draws.nunique(), str(draws.name))


def of_draws(found: pd.DataFrame) -> str:
    """The same for the end of a title: ` (n = 5 class orders)`, ` (one seed)`."""
    one = draw_of(found).nunique() == 1
    return " (one seed)" if one else f" (n = {draws_said(found)})"
