"""What the rank selector chose, and from which probabilities."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fmlora_lab.plots.sheet import COLUMN, Width, drawn, finish, inches, panels
from fmlora_lab.plots.style import FAINT, OWN, styles


def rank_probabilities(
    p: ArrayLike,
    candidates: Sequence[int],
    chosen: Sequence[int],
    H: ArrayLike,
    title: str,
    width: Width | None = None,
) -> Figure:
    """p(r | T_t) as a bar a task, cut at the candidates, the chosen rank marked; H_t beneath.

    `p` is (N, c) for N tasks and c candidates, `chosen` (N,) ranks, `H` (N,). A task for which
    nothing was chosen (no probabilities, or a rank that is no candidate) has no mark.
    """
    p, H = np.nan_to_num(np.asarray(p, float)), np.asarray(H, float)
    tasks, ends = np.arange(1, len(p) + 1), np.cumsum(p, axis=1)
    figure, ((bars,), (line,)) = panels(
        2, 1, inches(width, COLUMN), 2.6, sharex=True, height_ratios=(2, 1)
    )
    shades = mpl.colormaps["cividis"](np.linspace(0.1, 1, len(candidates)))
    for k, (rank, shade) in enumerate(zip(candidates, shades, strict=True)):
        bars.bar(tasks, p[:, k], 0.8, ends[:, k] - p[:, k], color=shade, label=f"r = {rank}")
    marks = [
        (t, ends[t - 1, k] - p[t - 1, k] / 2)
        for t, rank in zip(tasks, chosen, strict=True)
        for k, candidate in enumerate(candidates)
        if candidate == rank and p[t - 1, k] > 0
    ]
    bars.plot(
        *np.reshape(marks, (-1, 2)).T, color="black", marker="o", linestyle="none", label="chosen",
        markersize=4, markeredgecolor="white",
    )  # fmt: skip
    bars.set(ylabel="p(r | T$_t$)", ylim=(0, 1))
    line.plot(tasks, H, **drawn(styles([OWN])[OWN]))
    line.set(xlabel="task, t", ylabel="H$_t$")
    line.set_xlim(0.4, len(p) + 0.6)
    line.grid(axis="y", color=FAINT, linewidth=0.6)
    for axis in (bars, line):
        axis.spines[["top", "right"]].set_visible(False)
    return finish(figure, title, bars.get_legend_handles_labels()[0])
