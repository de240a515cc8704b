"""Which experts of its pools a domain uses in both towers, what of them is merged, whose columns
they meet, and the accuracy on every domain as domains are learned."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from fmlora_lab.analysis.experts import TOWERS, Course, Experts, block_of, kind_of
from fmlora_lab.plots.screen import Screen
from fmlora_lab.plots.sheet import EDGED, SMALL, TEXT, count_from_one, drawn, whole_numbers
from fmlora_lab.plots.style import INK, styles

A_ROW = 6
"""Domains in a row of the legend."""
MERGED = {"color": "black", "marker": "s", "markersize": 2, "linestyle": "none"}
BOTTOM, HEIGHT = 1.1, 3.1
"""Of the maps, in inches."""
DOT = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * (0.12, 0.16)
"""A mark's corners around the middle of a cell: (5, 2)."""


class ExpertsUsed(Screen):
    """Of one run: its `experts`, and by whether the task is given its `courses`."""

    def __init__(self, experts: Experts, courses: dict[bool, Course]):
        super().__init__(4.65)
        self.experts, self.courses = experts, courses
        self.names = courses[True].names
        self.looks = {n: drawn(look, 3.5) for n, look in styles(self.names).items()}
        self.maps, self.dots, self.columns = [], [], []
        norms = []
        for tower, left in zip(TOWERS, (0.42, 2.75), strict=True):
            norms.append(self._add_tower(tower, left))
        self._add_scale(self.maps[0], 0.42, "images that vote for it", ("0", "all"))
        self._add_scale(norms[0], 2.75, "‖ΔW‖ that is merged", None)
        self._add_overlap(self.place(5.2, 2.75, 1.3, 1.45))
        self._add_course(self.place(5.2, 0.9, 1.9, 1.2))
        self._add_legend()
        self.said = self.headline(self.figure.axes[0])

    def show(self, domain: int, other: int, given: bool) -> None:
        """The experts of a `domain`, and how another one (both from 0) fared."""
        experts, course = self.experts, self.courses[given]
        for tower, shades, dots in zip(TOWERS, self.maps, self.dots, strict=True):
            own = experts.within(tower)
            shades.set_data(experts.votes[domain, own])
            merged = experts.merged[domain, own]
            rows = np.repeat(np.arange(len(own)), merged.shape[1])
            dots.set_path(_marks(np.stack([merged.ravel(), rows], axis=1)))
        for column in self.columns:
            column.set_x(domain - 0.5)
        for cell, (x, y) in zip(self.cells, ((other, domain), (domain, other)), strict=True):
            cell.set_xy((x - 0.5, y - 0.5))
            cell.set_visible(domain != other)
        steps = np.arange(len(self.names) + 1)
        for i, (ahead, learned) in enumerate(self.lines):
            ahead.set_data(steps[: i + 2], course.along[: i + 2, i])
            learned.set_data(steps[i + 1 :], course.along[i + 1 :, i])
            for line in (ahead, learned):
                line.set_linewidth(2.2 if i == other else 0.8)
        self.now.set_xdata([domain + 1, domain + 1])
        self.said.set_text(self._sentence(domain, other, course))

    def _sentence(self, domain: int, other: int, course: Course) -> str:
        name, beside = self.names[domain], self.names[other]
        now, before = course.after[domain, other], course.before[other]
        learned = "is learned" if other <= domain else "is yet to come"
        return (
            f"Domain {domain + 1}, {name}. After it {beside}, which {learned}: {now:.0f}% right, "
            f"zero-shot {before:.0f}%"
        )

    def _add_tower(self, tower: str, left: float) -> AxesImage:
        """Sites by experts, and beside them sites by domains; the latter's shades."""
        experts, own = self.experts, self.experts.within(tower)
        blocks = [block_of(experts.sites[k]) for k in own]
        first = [k for k, block in enumerate(blocks) if k == 0 or blocks[k - 1] != block]
        middles = np.convolve([*first, len(own)], (0.5, 0.5), "valid") - 0.5
        used, stays = (
            self.place(left + x, BOTTOM, wide, HEIGHT) for x, wide in ((0, 1.3), (1.37, 0.6))
        )
        r = experts.votes.shape[2]
        self.maps.append(self.moves(_map(used, np.zeros((len(own), r)), 1.0)))
        dots = PathPatch(_marks(np.zeros((0, 2))), facecolor="black", edgecolor="none")
        self.dots.append(self.moves(used.add_patch(dots)))
        found = _map(stays, experts.norm[own], float(experts.norm.max()))
        for axis in (used, stays):
            ends = axis.get_xlim()
            between = axis.hlines(np.array(first[1:]) - 0.5, *ends, "white", linewidth=0.8)
            self.moves(between)
            axis.set_yticks(middles, [str(blocks[k] + 1) for k in first])
        stays.tick_params(labelleft=False, left=False)
        kinds = ", ".join(dict.fromkeys(kind_of(site) for site in experts.sites))
        rows = f"block; in each, from above: {kinds}" if tower == TOWERS[0] else "block"
        used.set(xlabel="expert", ylabel=rows)
        stays.set_xlabel("domain")
        used.set_title(f"{tower} tower: experts", fontsize=TEXT)
        stays.set_title("merged", fontsize=TEXT)
        for axis, count in ((used, r), (stays, len(self.names))):
            shown = np.arange(1, count + 1, 1 if count <= 6 else 2)
            axis.set_xticks(shown - 1, shown)
        column = Rectangle((0, -0.5), 1, len(own), fill=False, edgecolor="white", lw=1.3)
        self.columns.append(self.moves(stays.add_patch(column)))
        return found

    def _add_scale(
        self, shades: AxesImage, left: float, label: str, ends: tuple[str, str] | None
    ) -> None:
        axis = self.place(left + 0.9, 0.63, 0.9, 0.08)
        bar = self._bar(shades, axis, "horizontal")
        if ends is not None:
            bar.set_ticks([0, 1], labels=ends)
        axis.text(
            -0.08, 0.5, label, fontsize=SMALL, ha="right", va="center", transform=axis.transAxes
        )

    def _bar(self, shades: AxesImage, axis: Axes, orientation: str) -> Colorbar:
        bar = self.figure.colorbar(shades, cax=axis, orientation=orientation)
        for solids in bar.ax.collections:
            solids.set_edgecolor("face")  # else there are seams between its shades
        bar.outline.set_linewidth(0.6)
        return bar

    def _add_overlap(self, axis: Axes) -> None:
        table = self.experts.cosine.mean(0)
        chance = self.experts.chance.mean()
        shades = _map(axis, table, max(np.nanmax(table), 1.2 * chance))
        axis.set_facecolor("#dddddd")
        axis.set_title("overlap of used columns", fontsize=TEXT)
        axis.set(xlabel="domain", ylabel="domain")
        count_from_one(axis, len(table))
        self.cells = [Rectangle((0, 0), 1, 1, fill=False, edgecolor="white") for _ in range(2)]
        for cell in self.cells:
            self.moves(axis.add_patch(cell))
        bar = self._bar(shades, self.place(6.55, 2.75, 0.09, 1.45), "vertical")
        bar.set_ticks([0, chance], labels=["0", "chance"])
        bar.ax.axhline(chance, color="white", linewidth=0.8)

    def _add_course(self, axis: Axes) -> None:
        n = len(self.names)
        axis.set(xlim=(-0.3, n + 0.3), ylim=(0, 100), xlabel="domains learned", ylabel="right (%)")
        axis.set_title("accuracy on every domain", fontsize=TEXT)
        axis.xaxis.set_major_locator(whole_numbers())
        self.now = self.moves(axis.axvline(0, color=INK, linewidth=0.8))
        self.lines = []
        for look in self.looks.values():
            kinds = ({"linestyle": ":", "markerfacecolor": "white"}, {"linestyle": "-"})
            own = [{**look, **EDGED, "markeredgecolor": look["color"], **kind} for kind in kinds]
            self.lines.append([self.moves(axis.plot([], [], **one)[0]) for one in own])

    def _add_legend(self) -> None:
        named = [
            Line2D([], [], **{**look, "linestyle": "-"}, label=f"{i + 1} {name}")
            for i, (name, look) in enumerate(self.looks.items())
        ]
        ahead = {"color": INK, "marker": "o", "markerfacecolor": "white", "markersize": 3.5}
        named += [
            Line2D([], [], **ahead, linestyle=":", linewidth=1, label="yet to come"),
            Line2D([], [], **MERGED, label="merged"),
        ]
        self.legend(named, min(A_ROW, len(self.names)) + 2)


def _marks(spots: np.ndarray) -> Path:
    """Marks at places (n, 2) as one path: a screen draws it faster than so many marks."""
    corners = spots[:, None] + DOT
    codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * len(spots)
    return Path(corners.reshape(-1, 2), codes or None)


def _map(axis: Axes, values: np.ndarray, high: float) -> AxesImage:
    """Cells from 0 to `high`, the first row above."""
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    return axis.imshow(values, cmap="cividis", vmin=0, vmax=high, aspect="auto")
