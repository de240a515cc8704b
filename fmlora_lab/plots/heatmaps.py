"""Square matrices over pairs of tasks as heat maps on one colour scale."""

import re
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fmlora_lab.config import title_of
from fmlora_lab.plots.sheet import (
    COLUMN,
    PAGE,
    TEXT,
    TINY,
    Width,
    count_from_one,
    draws_in,
    fine,
    finish,
    inches,
    of_one_seed,
    panels,
)

A_ROW = {PAGE: 4, COLUMN: 2}
"""Maps side by side, by the figure's width; more of them begin another row."""


def accuracy_matrices(matrices: Mapping[str, ArrayLike], width: Width | None = None) -> Figure:
    """a[t, i] in percent, (N, N) or (orders, N, N) by method, NaN where task i was not tested after
    task t. Class orders are averaged; the title says how many."""
    orders = {name: np.asarray(a, float) for name, a in matrices.items()}
    drawn = [a for a in orders.values() if a.ndim > 2]
    means = {name: a.mean(axis=0) if a.ndim > 2 else a for name, a in orders.items()}
    said = [f"{title_of(name)} {a[0, 0]:.0f}% → {a[-1, 0]:.0f}%" for name, a in means.items()]
    title = of_one_seed("Task 1, when learned → at the end: " + ", ".join(said), drawn)
    n = max(draws_in(drawn), default=0)
    title += f" (means, n = {n})" if n > 1 else ""
    labels = ("tested on task", "after learning task", "accuracy (%)")
    return heatmaps(means, *labels, title, low=0, width=width)


def heatmaps(
    matrices: Mapping[str, ArrayLike],
    xlabel: str,
    ylabel: str,
    label: str,
    title: str,
    low: float | None = None,
    high: float | None = None,
    diverging: bool = False,
    chance: float | None = None,
    width: Width | None = None,
) -> Figure:
    """Matrices (n, n) by name on the colour scale from `low` to `high`, or as far as they reach.

    `label` names the scale, with its unit; what `chance` would give is marked on it. A diverging
    scale has 0 in its middle. Cells with NaN stay empty; up to n = 6 the others show their number.
    """
    import seaborn as sns

    matrices = {name: np.asarray(a, float) for name, a in matrices.items()}
    values = np.concatenate([a.ravel() for a in matrices.values()])
    least = float(np.nanmin(values)) if low is None else low
    most = float(np.nanmax(values)) if high is None else high
    if diverging:
        least, most = -max(-least, most), max(-least, most)
    broad = inches(width, COLUMN if len(matrices) == 1 else PAGE)
    columns = min(A_ROW[broad], len(matrices))
    rows = -(-len(matrices) // columns)
    side = (broad - 0.75) / columns - 0.42  # of a map, in inches: the rest is labels and the scale
    side = min(side, 2.6)
    figure, axes = panels(rows, columns, broad, rows * (side + 0.6), layout="compressed")
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
    if chance is not None:
        bar.ax.axhline(chance, color="white", linewidth=2)
        bar.ax.axhline(chance, color="black", linewidth=0.8, linestyle=(0, (1.5, 1)))
        title = f"{title}; dotted on the scale: chance, {chance:.2g}"
    return finish(figure, title)


def _said(value: float, digits: int) -> str:
    """As short as can be: ".57", "−.57", "57"."""
    said = f"{np.round(value, digits) + 0:.{digits}f}"  # + 0: no "-0"
    return re.sub(r"^(-?)0\.", r"\1.", said).replace("-", "−")
