"""The rank selector's probabilities at settings that move, and what its choices cost; and the ranks
that training left where there are no probabilities."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fmlora_lab.analysis.rank_choice import Choices
from fmlora_lab.plots.ranks_by_task import draw_ranks
from fmlora_lab.plots.screen import Screen
from fmlora_lab.plots.sheet import MARK, SMALL, TEXT, whole_numbers
from fmlora_lab.plots.style import INK, styles

GRID = 120
"""Points of a curve."""
WON: dict[str, Any] = {
    "marker": "o", "color": "white", "markeredgecolor": "black", "linestyle": "none",
}  # fmt: skip
WITHIN: dict[str, Any] = {"fontsize": SMALL, "ha": "center", "va": "center_baseline"}
PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}


class RankChoice(Screen):
    """Of one run: its `choices`, and its accuracy at smaller ranks (`smaller_ranks`) or, as a
    text, why there is none. Complexity is drawn up to `highest`."""

    def __init__(self, choices: Choices, smaller: Mapping[str, Any] | str, highest: float):
        super().__init__(4.65)
        self.choices, self.smaller = choices, smaller
        self.n, count = len(choices.H), len(choices.candidates)
        self.shades = mpl.colormaps["cividis"](np.linspace(0, 0.92, count))
        self.H = np.linspace(0, highest, GRID)
        self._add_bars(self.place(0.55, 2.72, 3.75, 1.45))
        self._add_smaller(self.place(0.55, 0.72, 3.75, 1.5))
        self._add_curves(self.place(4.85, 0.72, 2.2, 3.45), highest)
        self._add_legend()
        self.headline(self.figure.axes[0])

    def show(self, H: float, form: str, tau: float, cost: float) -> None:
        """p(r | T_t) of every task, and of one more of complexity H, at these settings."""
        choices = self.choices
        own = choices.probabilities(form, tau, cost)
        p = np.concatenate([own, choices.at([H], form, tau, cost)])
        winners, ends = p.argmax(1), p.cumsum(1)
        for k, bars in enumerate(self.bars):
            for bar, height, end in zip(bars, p[:, k], ends[:, k], strict=True):
                bar.set(y=end - height, height=height)
        rows = np.arange(len(p))
        middle = ends[rows, winners] - p[rows, winners] / 2
        self.winners.set_data(self.places, middle)
        for number, x, y, k in zip(self.won, self.places, middle, winners, strict=True):
            number.set(x=x, y=y, text=str(choices.candidates[k]))
        curves = choices.at(self.H, form, tau, cost)
        for line, values in zip(self.curves, curves.T, strict=True):
            line.set_data(self.H, values)
        for k, name in enumerate(self.names):
            name.set_y(curves[self.named_at[k], k])
        self.tasks.set_data(choices.H, own.max(1))
        self.now.set_xdata([H, H])
        self._mark(choices.candidates[winners[:-1]])
        best = int(winners[-1])
        tail = "" if form == "paper" else f", λ = {cost:.2f}"
        self.said.set_text(
            f"The {'paper’s' if form == 'paper' else form} form, τ = {tau:.2f}{tail}: at "
            f"H = {H:.2f} rank {choices.candidates[best]} wins with {100 * p[-1, best]:.0f}%"
        )

    def _mark(self, ranks: np.ndarray) -> None:
        """Ring the accuracies at these ranks (N,), or at all that the task had where it had less,
        since of more there is no accuracy."""
        if not isinstance(self.smaller, str):
            reached = np.minimum(ranks, self.smaller["rank"])
            ringed = (reached[:, None] == self.smaller["ranks"]) & ~np.isnan(self.accuracy)
            self.rings.set_data(self.spots[ringed], self.accuracy[ringed])

    def _add_bars(self, axis: Axes) -> None:
        self.places = np.array([*range(1, self.n + 1), self.n + 1.6])
        self.bars = [
            [self.moves(bar) for bar in axis.bar(self.places, 0.0, 0.8, color=shade)]
            for shade in self.shades
        ]
        self.winners = self.moves(axis.plot([], [], **WON, markersize=11)[0])
        self.won = [self.moves(axis.text(x, 0, "", **WITHIN)) for x in self.places]
        axis.set(ylim=(0, 1), ylabel="p(r | Tₜ)", xlim=(0.4, self.n + 2.2))
        axis.set_xticks(self.places, [*map(str, range(1, self.n + 1)), "slider"])
        axis.set_title("probability of each rank", fontsize=TEXT)

    def _add_smaller(self, axis: Axes) -> None:
        axis.set(xlim=(0.4, self.n + 2.2), xlabel="task, t", ylabel="accuracy (%)")
        axis.set_xticks(range(1, self.n + 1))
        title = "accuracy on the task just learned"
        if isinstance(self.smaller, str):
            axis.set_title(title, fontsize=TEXT)
            axis.set_yticks([])
            axis.text(0.5, 0.5, self.smaller, transform=axis.transAxes, fontsize=SMALL,
                      ha="center", va="center", wrap=True)  # fmt: skip
            return
        ranks = ", ".join(map(str, self.smaller["ranks"]))
        axis.set_title(f"{title}, from the left at rank {ranks}", fontsize=TEXT)
        values = self.accuracy = np.array(self.smaller["accuracy"], float)
        axis.set_ylim(max(0.0, np.nanmin(values) - 4), min(103.0, np.nanmax(values) + 4))
        shifts = np.linspace(-0.3, 0.3, values.shape[1])  # small ranks at the left of a task
        self.spots = np.arange(1, self.n + 1)[:, None] + shifts
        axis.plot(self.spots.T, values.T, color="#BBBBBB", linewidth=0.8)
        for k, rank in enumerate(self.smaller["ranks"]):
            axis.plot(self.spots[:, k], values[:, k], linestyle="none", **self._look(rank))
        ring = {"marker": "o", "markersize": 7, "markerfacecolor": "none", "linestyle": "none"}
        self.rings = self.moves(axis.plot([], [], **ring, markeredgecolor="black")[0])

    def _add_curves(self, axis: Axes, highest: float) -> None:
        widths = np.linspace(1, 2.4, len(self.shades))
        self.curves = [
            self.moves(axis.plot([], [], color=shade, linewidth=width)[0])
            for shade, width in zip(self.shades, widths, strict=True)
        ]
        places = np.linspace(0.6, 0.95, len(self.curves)) * GRID  # where few tasks are
        self.named_at = places.round().astype(int)
        self.names = [
            self.moves(axis.text(float(self.H[at]), 0, f"r = {rank}", **WITHIN, bbox=PLATE))
            for at, rank in zip(self.named_at, self.choices.candidates, strict=True)
        ]
        look = {"marker": "v", "markersize": 5, "color": "black"}
        self.tasks = self.moves(axis.plot([], [], linestyle="none", **look)[0])
        self.now = self.moves(axis.axvline(0, color=INK, linewidth=0.8))
        axis.set(xlim=(0, highest), ylim=(0, 1), ylabel="p(r | H)")
        axis.set_xlabel("complexity H (1: guessing)")
        axis.set_title("probability against complexity", fontsize=TEXT)

    def _look(self, rank: int) -> dict[str, Any]:
        """A mark for a rank: the shade of its bar; ranks that are no candidates are pale."""
        size = {"marker": "D" if rank else "x", "markersize": MARK - 1.5}
        known = list(self.choices.candidates)
        if rank in known:
            return {**size, "color": self.shades[known.index(rank)]}
        return {**size, "color": "#767676"}

    def _add_legend(self) -> None:
        named = zip(self.choices.candidates, self.shades, strict=True)
        known = [] if isinstance(self.smaller, str) else self.smaller["ranks"]
        handles: list[Any] = [
            Line2D([], [], linestyle="none", **self._look(rank), label=f"r = {rank}")
            for rank in known
            if rank not in self.choices.candidates
        ]
        handles += [Patch(color=shade, label=f"r = {rank}") for rank, shade in named]
        mark: dict[str, Any] = {"linestyle": "none", "color": "black", "marker": "v"}
        handles += [
            Line2D([], [], **WON, markersize=8, label="winner, ringed below"),
            Line2D([], [], **mark, label="the run's tasks"),
        ]
        self.legend(handles, len(handles))


class RanksLeft(Screen):
    """Of a run that drops directions as it trains: how many stay of `of`, by task and site.

    `ranks` is (N, S). Nothing moves: there are no probabilities that settings could change.
    """

    def __init__(self, ranks: np.ndarray, of: int):
        super().__init__(3.2)
        axis = self.place(0.55, 0.55, 6.5, 2.2)
        draw_ranks(axis, ranks, styles(["sora"])["sora"])
        axis.axhline(of, color=INK, linewidth=0.8, linestyle="--")
        axis.set(xlim=(0.4, len(ranks) + 0.6), ylim=(-0.4, of + 0.4), xlabel="task, t")
        axis.set_ylabel("directions that stay")
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(whole_numbers())
        axis.set_title("line: the mean over sites; marks: as large as the share of sites that "
                       "keep that many", fontsize=TEXT)  # fmt: skip
        self.headline(axis).set_text(
            f"Of {of} directions a site {ranks.mean():.1f} stay on average, from "
            f"{ranks.min():.0f} to {ranks.max():.0f}"
        )
