"""Figures on a screen, shown again and again: what stays is drawn once, what moves over it.

Drawing a whole figure takes a few hundred milliseconds, mostly for ticks and text; drawing only
what moves over a picture of the rest takes some ten. So such a figure is laid out by hand, in
inches, and its axes never change.
"""

import io
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from fmlora_lab.plots.sheet import EDGE, PAGE, SMALL, TEXT, fine, open_over_grid

SCREEN_DPI = 120
WIDTH = round(PAGE * SCREEN_DPI)
"""Of a figure on screen, in pixels: 864, which leaves room for words beside it in 1280."""

Moves = TypeVar("Moves", bound=Artist)


class Screen:
    """A figure of the page's width and `height` inches with a headline and artists that move."""

    def __init__(self, height: float):
        self.figure = Figure(figsize=(PAGE, height), dpi=200)
        self.moving: list[Artist] = []
        self._background = None

    def place(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes whose frame lies there, in inches from the figure's lower left corner."""
        w, h = self.figure.get_size_inches()
        axis = self.figure.add_axes((left / w, bottom / h, width / w, height / h))
        fine(axis)
        open_over_grid(axis)
        return axis

    def moves(self, artist: Moves) -> Moves:
        """The artist, which from now on is drawn over the rest, in the order of these calls."""
        artist.set_animated(True)
        self.moving.append(artist)
        return artist

    def headline(self, axis: Axes) -> Text:
        """A line of text at the top left that moves; it belongs to some `axis`."""
        w, h = self.figure.get_size_inches()
        text = axis.text(
            EDGE / w, 1 - EDGE / h, "", fontsize=TEXT, ha="left", va="top", clip_on=False,
            transform=self.figure.transFigure,
        )  # fmt: skip
        return self.moves(text)

    def legend(self, handles: Sequence[Artist], columns: int) -> None:
        """At the lower left, of labelled artists."""
        self.figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 0), ncols=columns, frameon=False,
            fontsize=SMALL, handlelength=2.2, columnspacing=1.4, borderaxespad=0.1,
        )  # fmt: skip

    def png(self) -> bytes:
        """The figure as it is now, at screen resolution; fast rather than small."""
        if self._background is None:
            self.figure.set_dpi(SCREEN_DPI)
            self._canvas = FigureCanvasAgg(self.figure)
            self._canvas.draw()
            self._background = self._canvas.copy_from_bbox(self.figure.bbox)
        self._canvas.restore_region(self._background)
        for artist in self.moving:
            self.figure.draw_artist(artist)
        pixels = Image.fromarray(np.asarray(self._canvas.buffer_rgba())).convert("RGB")
        data = io.BytesIO()
        pixels.save(data, "png", compress_level=1)
        return data.getvalue()
