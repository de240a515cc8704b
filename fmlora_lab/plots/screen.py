"""Figures on a screen, shown again and again: what stays is drawn once, what moves over it.

Drawing a whole figure takes a few hundred milliseconds, mostly for ticks and text; drawing only
what moves takes some ten. So such a figure is laid out by hand, in inches: as wide as a page, and
as high as the window has room for, which stretches the axes and leaves text and margins alone. It
is shown as two SVGs that lie on each other and are sharp at any size.
"""

import io
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.colorbar import Colorbar
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import IdentityTransform
from numpy.typing import NDArray

from fmlora_lab.plots.sheet import EDGE, PAGE, SMALL, TEXT, fine, open_over_grid

LOWEST, HIGHEST = 3.4, 6.4
"""Inches between which a figure's height follows the window."""
STEP = 0.05
"""Inches in which it does."""
POINTS = 72
"""Of an inch, in which an SVG counts."""

Box = tuple[float, float, float, float]
"""Left, bottom, width, height in inches."""
Moves = TypeVar("Moves", bound=Artist)


class Screen:
    """A figure of the page's width with a headline and artists that move; it is laid out at
    `height` inches."""

    said: Text
    """The headline."""

    def __init__(self, height: float):
        self.figure = Figure(figsize=(PAGE, height), dpi=200)
        self.laid_out = self.height = height
        self.moving: list[Artist] = []
        self._boxes: dict[Axes, Box] = {}
        self._background = ""

    def place(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes whose frame lies there, in inches from the figure's lower left corner."""
        axis = self.figure.add_axes(self._share((left, bottom, width, height)))
        self._boxes[axis] = (left, bottom, width, height)
        fine(axis)
        open_over_grid(axis)
        return axis

    def fit(self, height: float | None) -> None:
        """Be about as high as that, in inches, or as high as it is laid out."""
        height = self.laid_out if height is None else min(max(height, LOWEST), HIGHEST)
        height = STEP * round(height / STEP)
        if height == self.height:
            return
        fixed = self._margins()
        free = self.laid_out - sum(top - bottom for bottom, top in fixed)
        by = 1 + (height - self.laid_out) / free

        def moved(y: float) -> float:
            margin = sum(min(max(y - bottom, 0), top - bottom) for bottom, top in fixed)
            return margin + by * (y - margin)

        self.height, self._background = height, ""
        self.figure.set_figheight(height)
        for axis, (left, bottom, width, tall) in self._boxes.items():
            low, high = moved(bottom), moved(bottom + tall)
            axis.set_position(self._share((left, low, width, high - low)))
        self.said.set_y(1 - EDGE / height)

    def moves(self, artist: Moves) -> Moves:
        """The artist, which from now on is drawn over the rest, in the order of these calls."""
        artist.set_animated(True)
        self.moving.append(artist)
        return artist

    def headline(self, axis: Axes) -> Text:
        """A line of text at the top left that moves; it belongs to some `axis`."""
        self.said = axis.text(
            EDGE / PAGE, 1 - EDGE / self.height, "", fontsize=TEXT, ha="left", va="top",
            clip_on=False, transform=self.figure.transFigure,
        )  # fmt: skip
        return self.moves(self.said)

    def legend(self, handles: Sequence[Artist], columns: int) -> None:
        """At the lower left, of labelled artists."""
        self.figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 0), ncols=columns, frameon=False,
            fontsize=SMALL, handlelength=2.2, columnspacing=1.4, borderaxespad=0.1,
        )  # fmt: skip

    def scale(self, axis: Axes, shades: AxesImage, label: str) -> Colorbar:
        """What the shades of an image stand for, in axes of its own."""
        bar = self.figure.colorbar(shades, cax=axis)
        bar.set_label(label, size=SMALL)
        assert bar.solids is not None  # shades are filled
        bar.solids.set_edgecolor("face")  # else there are seams between them
        bar.outline.set_linewidth(0.6)
        return bar

    def svg(self) -> tuple[str, str]:
        """The figure as it is now: what stays, the same text until it is `fit` anew, and what
        moves, to be laid over it."""
        self._background = self._background or self._drawn([self.figure])
        return self._background, self._drawn(self.moving)

    def at(self, x: float, y: float) -> tuple[Axes, float, float] | None:
        """The axes at a place, and the place in their data; the place is in shares of the figure
        from its upper left corner. None beside all axes."""
        spot = (x, 1 - y)
        for axis in self._boxes:
            if axis.get_position().contains(*spot):
                inside = self.figure.transFigure + axis.transData.inverted()
                return axis, *inside.transform(spot)
        return None

    def shown_at(self, axis: Axes, points: NDArray) -> NDArray:
        """Where points (n, 2) of an axis's data are: shares of the figure from its upper left
        corner, (n, 2)."""
        shown = axis.transData + self.figure.transFigure.inverted()
        return shown.transform(points) * (1, -1) + (0, 1)

    def _margins(self) -> list[tuple[float, float]]:
        """What does not stretch, as intervals of the layout's height: what lies beneath and above
        all axes, and between two of them that stand over each other."""
        columns: list[list[Box]] = []
        for left, bottom, width, height in sorted(self._boxes.values()):
            if not columns or left >= max(x + wide for x, _, wide, _ in columns[-1]):
                columns.append([])
            columns[-1].append((left, bottom, width, height))
        spans = [_merged((y, y + high) for _, y, _, high in column) for column in columns]
        between = [(a[1], b[0]) for span in spans for a, b in pairwise(span)]
        lowest, highest = min(s[0][0] for s in spans), max(s[-1][1] for s in spans)
        return _merged([(0.0, lowest), *between, (highest, self.laid_out)])

    def _share(self, box: Box) -> Box:
        """A box in shares of the figure."""
        w, h = self.figure.get_size_inches()
        left, bottom, width, height = box
        return left / w, bottom / h, width / w, height / h

    def _drawn(self, artists: Iterable[Artist]) -> str:
        """An SVG of artists; of the figure without what moves."""
        out, dpi = io.StringIO(), self.figure.dpi
        self.figure.dpi = POINTS
        try:
            width, height = POINTS * self.figure.get_size_inches()
            renderer = RendererSVG(width, height, out, image_dpi=POINTS, metadata={"Date": None})
            for artist in artists:
                artist.draw(renderer)
            renderer.finalize()
        finally:
            self.figure.dpi = dpi
        return out.getvalue()


class Marks(Line2D):
    """Marks without a line, drawn as one shape: hundreds of them are written one by one slowly."""

    def draw(self, renderer: RendererBase) -> None:
        assert self.axes is not None
        style = MarkerStyle(self.get_marker())
        point = np.asarray(renderer.points_to_pixels(1)).item()
        shape = style.get_path().transformed(style.get_transform())
        corners = point * self.get_markersize() * np.asarray(shape.vertices)
        spots = self.axes.transData.transform(self.get_xydata())
        lines = [Path.MOVETO, *[Path.LINETO] * (len(corners) - 1)]
        codes = lines if shape.codes is None else shape.codes
        vertices = (spots[:, None] + corners).reshape(-1, 2)
        gc = renderer.new_gc()
        gc.set_clip_rectangle(self.axes.bbox)
        gc.set_foreground(self.get_markeredgecolor())
        gc.set_linewidth(point * self.get_markeredgewidth())
        whole = Path(vertices, np.tile(codes, len(spots)))
        face = self.get_markerfacecolor()
        filled = None if face == "none" else to_rgba(face)
        renderer.draw_path(gc, whole, IdentityTransform(), filled)
        gc.restore()


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Intervals that together cover what these cover, none touching another."""
    found: list[tuple[float, float]] = []
    for low, high in sorted(spans):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found
