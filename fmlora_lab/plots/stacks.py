"""Bars made of parts, a row each: how much of a quantity is what?"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from fmlora_lab.config import title_of
from fmlora_lab.metrics import t_interval
from fmlora_lab.plots.sheet import (
    PAGE,
    SMALL,
    TEXT,
    Width,
    counted_draws,
    draw_dots,
    finish,
    inches,
    of_one_seed,
    open_over_grid,
    panels,
    wrapped,
)
from fmlora_lab.plots.style import INK, OTHER_COLORS, shade

Stacks = Mapping[str, Mapping[str, ArrayLike]]
"""By row and part: a number, or (orders,)."""
SHADES = 4
"""Parts that shades of one hue tell apart; more, up to eight, have hues of their own."""


def stacks(
    groups: Mapping[str, Stacks], xlabel: str, title: str, width: Width | None = None
) -> Figure:
    """A panel a group, side by side (as wide as a column, below each other) with the same rows from
    top to bottom: a bar a row, its parts one after another from 0 on, with the 95% t interval of
    their sum over class orders and a dot an order.

    A part below 0 goes back to the left, and what follows begins there. Rows that a group lacks
    stay empty; all others have the same parts.
    """
    rows = list(dict.fromkeys(name for of in groups.values() for name in of))
    parts = next(iter(next(iter(groups.values())).values()))  # which all rows have
    colors = [shade(OTHER_COLORS[1], light) for light in np.linspace(0.15, 1, len(parts))]
    if len(parts) > SHADES:
        colors = OTHER_COLORS[: len(parts)]
    broad, tall = inches(width, PAGE), 0.75 + 0.17 * len(rows)
    below = len(groups) if broad < PAGE else 1
    figure, axes = panels(
        below, len(groups) // below, broad, below * tall, sharex=True, sharey=True
    )
    for axis, (group, of) in zip(axes.flat, groups.items(), strict=True):
        open_over_grid(axis, "x")
        for name, values in of.items():
            y, orders = rows.index(name), np.array([np.ravel(values[part]) for part in parts])
            means = orders.mean(axis=1)  # (parts,)
            for part, end, color in zip(means, np.cumsum(means), colors, strict=True):
                axis.barh(y, part, 0.68, end - part, color=color, zorder=2 + (part < 0))
            sums = orders.sum(axis=0)
            axis.plot(t_interval(sums), [y, y], color=INK, linewidth=0.8, zorder=4)
            if len(sums) > 1:
                draw_dots(axis, sums, np.full(len(sums), y), INK, zorder=5)
        axis.axvline(0, color=INK, linewidth=0.8, zorder=1)
        axis.use_sticky_edges = False  # else a bar that begins at the edge has no room beside it
        axis.margins(x=0.04)
        axis.set_title(group, fontsize=TEXT)
        if axis in axes[-1]:
            axis.set_xlabel(xlabel)
        axis.tick_params(axis="y", length=0)
    axes[0, 0].set_yticks(range(len(rows)), [wrapped(title_of(name), 1.5, SMALL) for name in rows])
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    named = [Patch(color=color, label=part) for part, color in zip(parts, colors, strict=True)]
    every = [values for of in groups.values() for row in of.values() for values in row.values()]
    return finish(figure, of_one_seed(title, every), [*named, *counted_draws(every)])
