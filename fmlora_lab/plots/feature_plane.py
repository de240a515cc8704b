"""One task's test images as points in a plane that stays, with the means of their classes, beside
where [CLS] looks in one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fmlora_lab.plots.screen import Marks, Screen
from fmlora_lab.plots.sheet import EDGED, SMALL, TEXT
from fmlora_lab.plots.style import OTHER_COLORS, OTHER_MARKERS

COLORS = (*OTHER_COLORS, "#C84B00", "#0072B2")
MARKS = (*OTHER_MARKERS, "s", "o")
"""One more than the colours or less, so that of many classes no two have the same pair."""
BLACK: dict[str, Any] = {"color": "black", "linestyle": "none", "markerfacecolor": "none"}
MEANS: dict[str, dict[str, Any]] = {
    "kept mean": {**BLACK, "marker": "D", "markersize": 10, "markeredgewidth": 1.3},
    "carried mean": {**BLACK, "marker": "x", "markersize": 8, "markeredgewidth": 1.8},
    "class mean": {**BLACK, "marker": "*", "markersize": 10, "markerfacecolor": "#FFD21F"},
}
"""Such that all are seen where they lie on each other."""
RING: dict[str, Any] = {
    "marker": "o", "linestyle": "none", "markerfacecolor": "none", "markeredgecolor": "black",
    "markersize": 6.5, "markeredgewidth": 0.7,
}  # fmt: skip
CHOSEN: dict[str, Any] = {**RING, "marker": "s", "markersize": 10, "markeredgewidth": 1.6}
MOST = 0.99
"""Share of the attentions that the scale reaches; the others have its last shade."""


@dataclass
class Followed:
    """Of one task: `points` (S, n, 2) of its n test images in S states, their `labels` (n,), the
    `classes` (c,) and their `names`, `means` (3, S, c, 2) as they are, kept and carried.
    `attention` (S, 2, a, 2 + P) is that of [CLS] in a of the images, with and without prompt: to
    itself, to the prompt, to P patches."""

    points: NDArray
    labels: NDArray
    classes: NDArray
    names: list[str]
    means: NDArray
    attention: NDArray


class FeaturePlane(Screen):
    """Of one run, a task at a time; scales are the same for all `tasks`."""

    def __init__(self, tasks: Sequence[Followed]):
        super().__init__(4.65)
        self.tasks = tasks
        self._add_plane(self.place(0.5, 0.72, 4.0, 3.45))
        self._add_attention()
        looks = {**MEANS, "called wrongly": RING, "chosen image": CHOSEN}
        self.legend([Line2D([], [], **look, label=name) for name, look in looks.items()], 5)
        self.headline(self.plane)

    def show(
        self,
        task: int,
        s: int,
        wrong: NDArray | None,
        place: int,
        number: int,
        image: NDArray,
        said: str,
    ) -> None:
        """A task (from 0) in its state s (from 0); `wrong` (n,) where an answer is known. Of the
        images whose attention is known the one of that `number`, which has that `place` among the
        n, and its pixels."""
        of = self.tasks[task]
        now, (own, kept, carried) = of.points[s], of.means[:, s]
        for dots in self.dots:
            dots.set_data([], [])
        for dots, k in zip(self.dots, of.classes, strict=False):
            dots.set_data(*now[of.labels == k].T)
        self.rings.set_data(*now[np.zeros(len(now), bool) if wrong is None else wrong].T)
        self.chosen.set_data(*now[[place]].T)
        for marks, spots in zip(self.marks, (kept, carried, own), strict=True):
            marks.set_data(*spots.T)
        for text in self.named:
            text.set_text("")
        for text, name, spot in zip(self.named, of.names, own, strict=False):
            text.set_text(name)
            text.xy = tuple(spot)
        self.image.set_data(image)
        side = round((of.attention.shape[3] - 2) ** 0.5)
        for row, state in zip(self.maps, (s - 1, s), strict=True):
            for k, shades in enumerate(row):
                blank = np.full((side, side), np.nan)
                there = of.attention[state, k, number, 2:].reshape(side, side)
                shades.set_data(there if state >= 0 else blank)
        self.said.set_text(said)

    def _add_plane(self, axis: Axes) -> None:
        self.plane = axis
        whole = np.concatenate([task.points.reshape(-1, 2) for task in self.tasks])
        axis.update_datalim([whole.min(0), whole.max(0)])
        axis.autoscale_view()
        axis.set_aspect("equal", adjustable="datalim")
        axis.set(xlabel="first discriminant", ylabel="second discriminant")
        axis.set_title("the task's test images, in the plane of its discriminants", fontsize=TEXT)
        dot: dict[str, Any] = {"linestyle": "none", "markersize": 4, **EDGED}
        looks: list[dict[str, Any]] = [
            {"color": COLORS[k % len(COLORS)], "marker": MARKS[k % len(MARKS)]}
            for k in range(max(len(task.classes) for task in self.tasks))
        ]
        self.dots = [self._marks(**dot, **look) for look in looks]
        self.rings = self._marks(**RING)
        self.chosen = self.moves(axis.plot([], [], **CHOSEN)[0])
        self.marks = [self.moves(axis.plot([], [], **look)[0]) for look in MEANS.values()]
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.75}
        self.named = [
            self.moves(axis.annotate(
                "", (0, 0), xytext=(8, 5), textcoords="offset points", fontsize=SMALL,
                weight="bold", bbox=plate, annotation_clip=False,
            ))
            for _ in looks
        ]  # fmt: skip

    def _marks(self, **look: Any) -> Marks:
        marks = Marks([], [], **look)
        self.plane.add_line(marks)
        return self.moves(marks)

    def _add_attention(self) -> None:
        picture = self.place(5.3, 3.12, 1.05, 1.05)
        picture.set_title("chosen image", fontsize=TEXT)
        self.image = self.moves(picture.imshow(np.zeros((2, 2, 3))))
        to_patches = [task.attention[..., 2:].ravel() for task in self.tasks]
        top = float(np.quantile(np.concatenate(to_patches), MOST))
        look = {"vmin": 0, "vmax": top, "interpolation": "none"}
        prompted = self.prompted = any((task.attention[..., 1] > 0).any() for task in self.tasks)
        self.maps = []
        for bottom, when in ((1.92, "before the task"), (0.72, "after it")):
            row = []
            for left, how in ((5.0, "with prompt"), (6.1, "without")):
                axis = self.place(left, bottom, 1.0, 1.0)
                row.append(self.moves(axis.imshow(np.zeros((2, 2)), cmap="cividis", **look)))
                axis.set_title(how if prompted else "", fontsize=SMALL, pad=2)
                axis.set_xticks([])
                axis.set_yticks([])
                axis.grid(visible=False)
                if left < 6:
                    axis.set_ylabel(when)
            self.maps.append(row)
        picture.set_xticks([])
        picture.set_yticks([])
        picture.grid(visible=False)
        if not prompted:  # both are the same
            for row in self.maps:
                row[1].set_visible(False)
                row[1].axes.set_visible(False)
        self.scale(self.place(6.62, 3.12, 0.1, 1.05), self.maps[0][0], "attention")
