"""What each class is called, in blocks of tasks, beside the accuracy among all classes and within
the task."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fmlora_lab.plots.screen import Screen
from fmlora_lab.plots.sheet import TEXT, drawn, whole_numbers
from fmlora_lab.plots.style import INK, OTHER_COLORS

AMONG = {"color": OTHER_COLORS[3], "marker": "o", "linestyle": "-"}
WITHIN = {"color": OTHER_COLORS[0], "marker": "s", "linestyle": "--"}
MEAN = {"color": INK, "linewidth": 1.0}
FEW = 6
"""Classes from which a cell is large enough to be framed as it is."""


class ConfusionMap(Screen):
    """Of one run and head: accuracies `among` all classes and `within` the task, both (N, N), and
    over all images seen (2, N), in percent; `tasks` are the ranges of classes, of K in all."""

    def __init__(self, among: NDArray, within: NDArray, over_all: NDArray, tasks: Sequence[range]):
        super().__init__(4.65)
        self.among, self.within, self.tasks = among, within, tasks
        self.steps = np.arange(1, len(among) + 1)
        self._add_map(self.place(0.5, 0.72, 3.6, 3.45), max(task.stop for task in tasks))
        scale = self.scale(
            self.place(4.18, 0.72, 0.1, 3.45), self.map, "share of the class's images"
        )
        scale.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0", "5%", "20%", "50%", "100%"])
        self._add_accuracy(self.place(5.4, 0.72, 1.7, 3.45), over_all)
        looks = {
            "among all classes": drawn(AMONG),
            "within the task": drawn(WITHIN),
            "all images, among all classes": MEAN,
            "within their tasks": {**MEAN, "linestyle": "--"},
        }
        self.legend([Line2D([], [], **look, label=name) for name, look in looks.items()], 4)
        self.headline(self.map.axes)

    def show(self, t: int, shares: NDArray, block: int, cell: tuple[int, int], said: str) -> None:
        """After task t: `shares` (K, K) of each class's images that are called each class, NaN for
        classes yet to come; the rows of task `block` and one cell are marked. All from 0."""
        self.map.set_data(shares)
        own, seen = self.tasks[block], max(task.stop for task in self.tasks[: t + 1])
        self.rows.set_bounds(-0.5, own.start - 0.5, seen, len(own))
        self.mark.set_data([cell[1]], [cell[0]])
        for line, a in ((self.own, self.among), (self.own_within, self.within)):
            line.set_data(self.steps[block:], a[block:, block])
        self.now.set_xdata([t + 1, t + 1])
        self.said.set_text(said)

    def _add_map(self, axis: Axes, classes: int) -> None:
        look = {"norm": PowerNorm(0.5, 0, 1), "aspect": "auto", "interpolation": "none"}
        blank = np.full((classes, classes), np.nan)
        self.map = self.moves(axis.imshow(blank, cmap=mpl.colormaps["Blues"], **look))
        ends = sorted({task.stop - 0.5 for task in self.tasks})[:-1]
        low, high = -0.5, classes - 0.5
        cuts = [[(low, e), (high, e)] for e in ends] + [[(e, low), (e, high)] for e in ends]
        self.moves(axis.add_collection(LineCollection(cuts, colors="#888888", linewidths=0.5)))
        self.rows = self.moves(Rectangle((0, 0), 1, 1, fill=False, linewidth=1.2))
        axis.add_patch(self.rows)
        size = 9 if classes > FEW else 30
        ring = {"marker": "s", "markersize": size, "markerfacecolor": "none"}
        self.mark = self.moves(axis.plot([], [], **ring, color="#C84B00", markeredgewidth=1.8)[0])
        middles = [task.start + len(task) / 2 - 0.5 for task in self.tasks]
        if len(set(middles)) > 1:
            numbers = [str(t) for t in range(1, len(middles) + 1)]
            axis.set_xticks(middles, numbers)
            axis.set_yticks(middles, numbers)
            axis.set(xlabel="called a class of task", ylabel="a class of task")
        else:
            axis.set(xticks=[], yticks=[], xlabel="called", ylabel="class")
        axis.set(facecolor="#dddddd", xlim=(low, high), ylim=(high, low))
        axis.tick_params(length=0)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        axis.set_title("what each class is called", fontsize=TEXT)

    def _add_accuracy(self, axis: Axes, over_all: NDArray) -> None:
        axis.set(ylim=(0, 103), xlim=(0.6, len(self.steps) + 0.4), xlabel="tasks seen")
        axis.set_ylabel("accuracy (%)")
        axis.set_title("the marked task's images", fontsize=TEXT)
        axis.xaxis.set_major_locator(whole_numbers())
        for values, dashes in zip(over_all, ("-", "--"), strict=True):
            axis.plot(self.steps, values, **MEAN, linestyle=dashes)
        self.own_within = self.moves(axis.plot([], [], **drawn(WITHIN))[0])
        self.own = self.moves(axis.plot([], [], **drawn(AMONG))[0])
        self.now = self.moves(axis.axvline(1, color=INK, linewidth=0.8))
