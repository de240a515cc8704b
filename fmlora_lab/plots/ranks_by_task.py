"""Which rank each task had, and how its sites differ."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fmlora_lab.config import title_of
from fmlora_lab.plots.sheet import COLUMN, Width, drawn, finish, inches, keys, panel, whole_numbers
from fmlora_lab.plots.style import styles

AREA = 100.0
"""Of a mark for all sites, in points²."""


def ranks_by_task(ranks: Mapping[str, ArrayLike], title: str, width: Width | None = None) -> Figure:
    """The mean rank over sites against the task, a line a name, over marks as large as the share
    of sites that have that rank. `ranks` gives (N, S) by name, S = 1 for one rank for all sites."""
    figure, axis = panel(width=inches(width, COLUMN))
    looks = styles(ranks)
    for name, of_sites in ranks.items():
        draw_ranks(axis, np.asarray(of_sites, float), looks[name])
    axis.set(xlabel="task, t", ylabel="rank: mean over sites, and sites as marks")
    axis.yaxis.set_major_locator(whole_numbers())
    axis.margins(x=0.06, y=0.1)
    axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    return finish(figure, title, keys({title_of(name): look for name, look in looks.items()}))


def draw_ranks(axis: Axes, ranks: np.ndarray, look: Mapping[str, Any]) -> None:
    """Ranks (N, S) of N tasks and S sites: their mean as a line, each rank that is there a mark."""
    tasks = np.arange(1, len(ranks) + 1)
    spots = [
        (t, rank, count / ranks.shape[1])
        for t, row in zip(tasks, ranks, strict=True)
        for rank, count in zip(*np.unique(row, return_counts=True), strict=True)
    ]
    x, y, share = np.transpose(spots)
    color = look["color"]
    axis.scatter(x, y, AREA * share, color=color, alpha=0.45, linewidths=0, zorder=2)
    axis.plot(tasks, ranks.mean(1), **drawn(look))
