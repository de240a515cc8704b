"""Square matrices over pairs of tasks as heat maps on one colour scale."""

import re
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fmlora_lab.config import title_of
from fmlora_lab.plots.sheet import COLUMN, PAGE, TEXT, TINY, count_from_one, fine, finish, panels

A_ROW = 4
"""Maps side by side; more of them begin another row."""


def accuracy_matrices(matrices: Mapping[str, ArrayLike]) -> Figure:
    """a[t, i] in percent, (N, N) by method, NaN where task i was not tested after task t."""
    matrices = {name: np.asarray(a, float) for name, a in matrices.items()}
    said = [f"{title_of(name)} {a[0, 0]:.0f}% → {a[-1, 0]:.0f}%" for name, a in matrices.items()]
    title = "Task 1, when learned → at the end: " + ", ".join(said)
    return heatmaps(matrices, "tested on task", "after learning task", "accuracy (%)", title, low=0)


def heatmaps(
    matrices: Mapping[str, ArrayLike],
    xlabel: str,
    ylabel: str,
    label: str,
    title: str,
    low: float | None = None,
    high: float | None = None,
    diverging: bool = False,
) -> Figure:
    """Matrices (n, n) by name on the colour scale from `low` to `high`, or as far as they reach.

    `label` names the scale, with its unit. A diverging scale has 0 in its middle. Cells with NaN
    stay empty; up to n = 6 the others show their number.
    """
    import seaborn as sns

    matrices = {name: np.asarray(a, float) for name, a in matrices.items()}
    values = np.concatenate([a.ravel() for a in matrices.values()])
    least = float(np.nanmin(values)) if low is None else low
    most = float(np.nanmax(values)) if high is None else high
    if diverging:
        least, most = -max(-least, most), max(-least, most)
    columns, rows = min(A_ROW, len(matrices)), -(-len(matrices) // A_ROW)
    width = COLUMN if len(matrices) == 1 else PAGE
    side = (width - 0.75) / columns - 0.42  # of a map, in inches: the rest is labels and the scale
    figure, axes = panels(rows, columns, width, rows * (side + 0.6), layout="compressed")
    for axis in axes.flat[len(matrices) :]:
        axis.remove()
    used = axes.flat[: len(matrices)]
    digits = 0 if max(-least, most) > 10 else 2
    for axis, (name, a) in zip(used, matrices.items(), strict=True):
        few = len(a) <= 6
        sns.heatmap(
            a, vmin=least, vmax=most, cmap="PuOr" if diverging else "cividis", square=True, ax=axis,
            cbar=False, xticklabels=False, yticklabels=False, fmt="",
            annot=np.vectorize(_said)(a, digits) if few else None,
            annot_kws={"fontsize": min(TINY, 72 * side / len(a) / 2.6)},  # "−.57" fits
            rasterized=True,  # else there are seams between the cells, and a file of thousands
        )  # fmt: skip
        axis.set_title(title_of(name), fontsize=TEXT)
        axis.set(xlabel=xlabel, ylabel=ylabel)
        count_from_one(axis, len(a), first=0.5)
        if diverging:
            axis.set_facecolor("#dddddd")  # else an empty cell looks like a 0
    bar = figure.colorbar(used[0].collections[0], ax=list(used))
    bar.set_label(label)
    fine(bar.ax)
    return finish(figure, title)


def _said(value: float, digits: int) -> str:
    """As short as can be: ".57", "−.57", "57"."""
    said = f"{np.round(value, digits) + 0:.{digits}f}"  # + 0: no "-0"
    return re.sub(r"^(-?)0\.", r"\1.", said).replace("-", "−")
