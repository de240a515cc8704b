"""Square matrices over pairs of tasks as heat maps on one colour scale."""

import re
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fmlora_lab.plots.sheet import COLUMN, PAGE, SMALL, TEXT, TINY, finish, panels
from fmlora_lab.plots.style import title_of

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
    matrices = {name: np.asarray(a, float) for name, a in matrices.items()}
    values = np.concatenate([a.ravel() for a in matrices.values()])
    low = np.nanmin(values) if low is None else low
    high = np.nanmax(values) if high is None else high
    if diverging:
        low, high = -max(-low, high), max(-low, high)
    columns, rows = min(A_ROW, len(matrices)), -(-len(matrices) // A_ROW)
    width = COLUMN if len(matrices) == 1 else PAGE
    side = (width - 0.75) / columns - 0.42  # of a map, in inches: the rest is labels and the scale
    figure, axes = panels(rows, columns, width, rows * (side + 0.6), layout="compressed")
    for axis in axes.flat[len(matrices) :]:
        axis.remove()
    used = axes.flat[: len(matrices)]
    for axis, (name, a) in zip(used, matrices.items(), strict=True):
        colors = "PuOr" if diverging else "cividis"
        shades = axis.imshow(a, vmin=low, vmax=high, cmap=colors)
        axis.set_title(title_of(name), fontsize=TEXT)
        axis.set(xlabel=xlabel, ylabel=ylabel)
        count_from_one(axis, len(a))
        axis.spines[:].set_visible(False)
        if diverging:
            axis.set_facecolor("#dddddd")  # else an empty cell looks like a 0
        if len(a) <= 6:
            _write_numbers(axis, a, shades, 72 * side / len(a))
    bar = figure.colorbar(shades, ax=list(used))
    bar.set_label(label, size=TEXT)
    bar.ax.tick_params(labelsize=SMALL, width=0.6, length=2.5, pad=2)
    bar.outline.set_linewidth(0.6)
    return finish(figure, title)


def count_from_one(axis: Axes, n: int) -> None:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, n) if n <= 6 * step)
    counted = np.arange(step, n + 1, step)
    axis.set_xticks(counted - 1, counted)
    axis.set_yticks(counted - 1, counted)


def _write_numbers(axis: Axes, a: NDArray[np.float64], shades, cell: float) -> None:
    """In cells of `cell` points: whole numbers on a scale beyond 10, else two decimals."""
    digits = 0 if np.nanmax(np.abs(shades.get_clim())) > 10 else 2
    for t, i in zip(*np.nonzero(~np.isnan(a)), strict=True):
        red, green, blue, _ = shades.to_rgba(a[t, i])
        ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "white"
        said = f"{np.round(a[t, i], digits) + 0:.{digits}f}"  # + 0: no "-0"
        said = re.sub(r"^(-?)0\.", r"\1.", said).replace("-", "−")
        size = min(TINY, cell / 2.6)  # "−.57" fits
        axis.text(i, t, said, ha="center", va="center", color=ink, fontsize=size)
