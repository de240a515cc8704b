"""What a head hides: each method under its trained head and under the best closed-form one."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fmlora_lab.config import title_of
from fmlora_lab.plots.sheet import SMALL, TINY, drawn, finish, panel, wrapped
from fmlora_lab.plots.style import FAINT, INK, OTHER_COLORS, styles

CLOSED_FORM = OTHER_COLORS[0]
"""Of marks that stand for the closed-form head, whatever the method."""


def accuracy_by_head(
    found: Mapping[str, tuple[float, float, str]],
    title: str,
    frozen: float = np.nan,
    joint: float = np.nan,
) -> Figure:
    """A row a method, a mark for each of two heads and a line from one to the other: Acc in percent
    by the trained head (NaN without one), by the best closed-form head, and that head's name.

    `frozen` and `joint` are lines through all rows: the frozen backbone under its best head, which
    every adapter starts from, and training on all tasks at once.
    """
    looks = styles(found)
    closed = {"color": CLOSED_FORM, "marker": "D", "linestyle": "none"}
    figure, axis = panel(0.5 + 0.26 * len(found), grid="x")
    for y, (name, (trained, best, head)) in enumerate(found.items()):
        axis.plot([trained, best], [y, y], color=FAINT, linewidth=3, zorder=1)
        axis.plot(trained, y, **drawn({**looks[name], "linestyle": "none"}), zorder=3)
        axis.plot(best, y, **drawn(closed), zorder=3)
        axis.annotate(
            head, (best, y), (5, 0), textcoords="offset points", va="center",
            fontsize=TINY, color=INK,
        )  # fmt: skip
    for value, said in ((frozen, "frozen backbone"), (joint, "joint training")):
        if not np.isnan(value):
            axis.axvline(value, color=INK, linewidth=0.8, linestyle="--", zorder=0)
            axis.annotate(
                said, (value, 1), (0, 2), ("data", "axes fraction"), "offset points",
                ha="center", fontsize=TINY, color=INK,
            )  # fmt: skip
    titles = [wrapped(title_of(name), 1.5, SMALL) for name in found]
    axis.set_yticks(range(len(found)), titles)
    axis.set(xlabel="accuracy after the last task, Acc (%)", ylim=(len(found) - 0.5, -0.5))
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.14)
    named = [
        Line2D([], [], **drawn({**closed, "color": INK, "marker": "o"}), label="trained head"),
        Line2D([], [], **drawn(closed), label="best closed-form head, by name"),
    ]
    return finish(figure, title, named)
