"""Two runs side by side: how all tasks' updates overlap at one weight, and two tasks of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fmlora_lab.analysis.overlap import Relation
from fmlora_lab.config import title_of
from fmlora_lab.plots.screen import Screen
from fmlora_lab.plots.sheet import TEXT, count_from_one, drawn, whole_numbers, wrapped
from fmlora_lab.plots.style import INK

DASHES = ("-", (0, (2, 1.2)))
"""Of the pair's first task and of its second."""
MINUS = {"color": "black", "marker": "_", "linestyle": "none", "markeredgewidth": 0.7}
SEEN = 0.005
"""Overlap from which a cell is not "−0.00"."""


class OverlapPair(Screen):
    """`looks` has a style for each run's name, a method's or any other; `titles` say at length what
    they are, `n` are their numbers of tasks. All scales stay, so that pictures can be compared:
    overlaps reach from −`high` to `high`, singular values to `strongest`, directions are counted to
    `widest`.
    """

    def __init__(
        self,
        looks: Mapping[str, Mapping[str, Any]],
        titles: Sequence[str],
        n: Sequence[int],
        high: float,
        strongest: float,
        widest: int,
    ):
        super().__init__(4.65)
        self.names = [title_of(name) for name in looks]
        self.maps, self.minus, self.cells = [], [], []
        for title, size, left in zip(titles, n, (0.5, 3.45), strict=True):
            self._add_map(title, size, left, high)
        scale = self.place(6.05, 2.35, 0.12, 1.8)
        self.scale(scale, self.maps[0], "overlap of ΔW$_i$ and ΔW$_j$")
        lines = [drawn({**look, "linestyle": "-"}) for look in looks.values()]
        sides = ("principal angles of what both write to", "of what both read from")
        self.angles = [
            self._add_angles(left, side, lines)
            for left, side in zip((0.5, 2.9), sides, strict=True)
        ]
        self._add_strengths(lines, strongest)
        for axis in self.figure.axes[-3:]:
            axis.set(xlim=(0.4, widest + 0.6), xlabel="direction")
            axis.xaxis.set_major_locator(whole_numbers())
        runs = [Line2D([], [], **k, label=n) for k, n in zip(lines, self.names, strict=True)]
        tasks = [
            Line2D([], [], color=INK, linewidth=1, linestyle=dashes, label=f"{which} task")
            for dashes, which in zip(DASHES, ("first", "second"), strict=True)
        ]
        opposite = Line2D([], [], **MINUS, markersize=5, label="opposite senses")
        self.legend([*runs, *tasks, opposite], 5)
        self.headline(self.figure.axes[0])

    def show(self, where: str, pair: tuple[int, int], of: Sequence[Relation]) -> None:
        """Both runs' relations at the weight named `where`, and of them the tasks `pair` (from 0).

        A task and itself have angles of 0.
        """
        i, j = pair
        said = []
        for k, found in enumerate(of):
            table = np.array(found.overlap, float)
            np.fill_diagonal(table, np.nan)  # it is 1 and would make all else pale
            self.maps[k].set_data(table)
            rows, columns = np.nonzero(table <= -SEEN)
            self.minus[k].set_data(columns, rows)
            for cell, (column, row) in zip(self.cells[k], ((i, j), (j, i)), strict=True):
                cell.set_xy((column - 0.5, row - 0.5))
            for lines, cosines in zip(self.angles, (found.outputs, found.inputs), strict=True):
                _count(lines[k], degrees_of(cosines[i, j]))
            for line, task in zip(self.strengths[k], pair, strict=True):
                _count(line, found.sigma[task])
            said.append(f"{signed(found.overlap[i, j])} in {self.names[k]}")
        self.said.set_text(f"Tasks {i + 1} and {j + 1} at {where}: overlap {', '.join(said)}")

    def _add_map(self, title: str, size: int, left: float, high: float) -> None:
        axis = self.place(left, 2.35, 2.25, 1.8)
        shades = axis.imshow(
            np.zeros((size, size)), cmap="PuOr", vmin=-high, vmax=high, aspect="auto"
        )
        self.maps.append(self.moves(shades))
        self.minus.append(self.moves(axis.plot([], [], **MINUS, markersize=50 / size)[0]))
        axis.set_title(wrapped(title, 2.7), fontsize=TEXT)
        axis.set(xlabel="task", ylabel="task", facecolor="#dddddd")
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        count_from_one(axis, size)
        marks = [Rectangle((0, 0), 1, 1, fill=False, edgecolor="black", lw=1.3) for _ in "ij"]
        self.cells.append([self.moves(axis.add_patch(mark)) for mark in marks])

    def _add_angles(self, left: float, title: str, looks: list) -> list[Line2D]:
        axis = self.place(left, 0.65, 1.9, 1.05)
        axis.set(ylim=(0, 90), yticks=(0, 30, 60, 90), ylabel="angle (°)")
        axis.set_title(title, fontsize=TEXT)
        return [self.moves(axis.plot([], [], **look, clip_on=False)[0]) for look in looks]

    def _add_strengths(self, looks: list, strongest: float) -> None:
        axis = self.place(5.3, 0.65, 1.85, 1.05)
        axis.set_title("strength of each direction", fontsize=TEXT)
        axis.set(ylabel="singular value", ylim=(0, 1.05 * strongest))
        self.strengths = [
            [
                self.moves(axis.plot([], [], **{**look, "marker": None, "linestyle": dashes})[0])
                for dashes in DASHES
            ]
            for look in looks
        ]


def degrees_of(cosines: NDArray) -> NDArray:
    """Angles in degrees, rising, of cosines (k,) that may have NaN at their end."""
    return np.degrees(np.arccos(cosines[~np.isnan(cosines)].astype(float).clip(-1, 1)))


def signed(value: float) -> str:
    """Two decimals, with a sign and a real minus."""
    return f"{round(float(value), 2) + 0:+.2f}".replace("-", "−")


def _count(line: Line2D, values: NDArray) -> None:
    """Values against 1, 2, …; NaN at their end are left out."""
    values = values[~np.isnan(values)]
    line.set_data(np.arange(1, len(values) + 1), values)
