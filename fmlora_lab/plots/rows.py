"""A horizontal dot plot: one quantity for many things, a row each."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fmlora_lab.plots.sheet import SMALL, drawn, finish, panel, wrapped
from fmlora_lab.plots.style import FAINT, styles, title_of


def dots(groups: Mapping[str, Mapping[str, ArrayLike]], xlabel: str, title: str) -> Figure:
    """A row a group from top to bottom, in it a mark a series: a number, or one a seed.

    Seeds are averaged, with a line from the lowest to the highest; NaN are left out. The series
    of a row stand below each other in the order of the legend.
    """
    series = list(dict.fromkeys(name for row in groups.values() for name in row))
    names = [wrapped(title_of(name), 1.5, SMALL) for name in groups]
    inches = max(0.075 * len(series) + 0.06, 0.12 * max(n.count("\n") + 1 for n in names) + 0.05)
    figure, axis = panel(0.45 + inches * len(groups), grid="x")
    for k, (name, look) in enumerate((name, styles(series)[name]) for name in series):
        shift = (k + 1) / (len(series) + 1) - 0.5
        found = {}  # the seeds' values by the mark's height
        for i, row in enumerate(groups.values()):
            values = np.ravel(row.get(name, np.nan)).astype(float)
            found[i + shift] = values[~np.isnan(values)]
        found = {y: values for y, values in found.items() if len(values)}
        several = [(y, v.min(), v.max()) for y, v in found.items() if len(v) > 1]
        if several:
            axis.hlines(*np.transpose(several), color=look["color"], linewidth=1)
        means = [values.mean() for values in found.values()]
        axis.plot(means, list(found), **drawn(look), linestyle="none", label=title_of(name))
    axis.set(xlabel=xlabel, ylim=(len(groups) - 0.5, -0.5))
    axis.set_yticks(range(len(groups)), names)
    axis.set_yticks(np.arange(1, len(groups)) - 0.5, minor=True)
    axis.grid(axis="y", which="minor", color=FAINT, linewidth=0.6)
    axis.tick_params(axis="y", which="both", length=0)
    return finish(figure, title, "")
