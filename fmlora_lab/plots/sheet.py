"""A figure as it lies on paper: its width, its title and legend, its files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fmlora_lab.files import write_atomically
from fmlora_lab.plots.style import FAINT, INK

COLUMN, PAGE = 3.5, 7.2
"""Width of a paper's column and of its page, in inches."""
TEXT, SMALL, TINY = 8, 7, 6
"""Sizes in points: titles and axis labels; ticks and legends; notes inside the axes."""
MARK = 4.5
"""Size of a mark, in points."""
FILL = {"*": 1.6, "d": 1.3, "P": 1.2, "X": 1.2, "D": 0.85}
"""Marks that look smaller or larger than a disc of their size, and what makes up for it."""
ERROR = {"elinewidth": 0.8, "capsize": 1.5, "capthick": 0.8}
EDGE = 0.04
"""Inches left free at the figure's edges."""
DETERMINISTIC = {"svg.fonttype": "none", "svg.hashsalt": "fmlora-lab"}


def panels(
    rows: int, columns: int, width: float, height: float, layout: str = "constrained", **how: Any
) -> tuple[Figure, NDArray]:
    """A figure of `width` × `height` inches with a grid of axes (rows, columns)."""
    figure = Figure(figsize=(width, height), dpi=200, layout=layout)  # a notebook shows 200 dpi
    axes = figure.subplots(rows, columns, squeeze=False, **how)
    for axis in axes.flat:
        axis.xaxis.label.set_size(TEXT)
        axis.yaxis.label.set_size(TEXT)
        axis.tick_params(which="both", labelsize=SMALL, width=0.6, length=2.5, pad=2)
        axis.spines[:].set_linewidth(0.6)
    return figure, axes


def panel(height: float = 2.4, grid: str = "y") -> tuple[Figure, Axes]:
    """A figure of one column's width with one panel of `height` inches."""
    figure, ((axis,),) = panels(1, 1, COLUMN, height)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)
    return figure, axis


def drawn(look: Mapping[str, str], size: float = MARK) -> dict[str, Any]:
    """A colour and marker from `styles` as a thin line with marks, for matplotlib to draw.

    A white edge keeps marks apart that lie on each other.
    """
    size *= FILL.get(look["marker"], 1)
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}
    return {**look, **edge, "markersize": size, "linewidth": 1.0}


def whole_numbers() -> MaxNLocator:
    """Ticks for tasks: 5, 10, 15 rather than 6, 12, 18."""
    return MaxNLocator(12, integer=True, steps=[1, 2, 5, 10])


def wrapped(text: str, width: float, size: float = TEXT) -> str:
    """`text` in as few lines of at most `width` inches as it takes at `size` points.

    It breaks at spaces, but not within "R = 16", and into lines as equal as can be.
    """
    words = re.split("(?<!=) (?!=)", text)
    inches = [TextPath((0, 0), w, size=size).get_extents().width / 72 if w else 0 for w in words]
    space = 0.4 * size / 72

    def broken(width: float) -> list[list[str]]:
        lines, left = [], 0.0
        for word, inch in zip(words, inches, strict=True):
            if lines and inch + space <= left:
                lines[-1].append(word)
                left -= inch + space
            else:
                lines.append([word])
                left = width - inch
        return lines

    fewest = len(broken(width))
    narrow = next(w for w in np.linspace(width / fewest, width, 20) if len(broken(w)) <= fewest)
    return "\n".join(" ".join(line) for line in broken(narrow))


def finish(figure: Figure, title: str, legend: str | None = None) -> Figure:
    """Title above the panels and, where its heading is given (or ""), a legend below them.

    The figure grows by what they need, axis labels are wrapped to the length of their axis, and
    the layout is fixed, so that it is the same at every resolution and in every file.
    """
    width = figure.get_figwidth() - 2 * EDGE
    above = figure.suptitle(
        wrapped(title, width), x=EDGE / figure.get_figwidth(), ha="left", fontsize=TEXT
    )
    extra = [above] if legend is None else [above, _legend_below(figure, legend, width)]
    grown = sum(artist.get_window_extent().height for artist in extra) / figure.dpi
    figure.set_figheight(figure.get_figheight() + grown)
    figure.draw_without_rendering()  # lays the axes out
    for axis in figure.axes:
        room = axis.get_window_extent()
        axis.set_ylabel(wrapped(axis.get_ylabel(), room.height / figure.dpi))
        line = 0.15 if "\n" in axis.get_ylabel() else 0  # which makes the axes narrower
        axis.set_xlabel(wrapped(axis.get_xlabel(), room.width / figure.dpi - line))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def _legend_below(figure: Figure, heading: str, width: float):
    """Three columns, or as many as there is room for."""
    found = [axis.get_legend_handles_labels() for axis in figure.axes]
    bare = [h[0] if isinstance(h, ErrorbarContainer) else h for hs, _ in found for h in hs]
    names = [wrapped(label, COLUMN - 0.5, SMALL) for _, labels in found for label in labels]
    for columns in (3, 2, 1):
        legend = figure.legend(
            bare, names, loc="outside lower left", ncols=columns, frameon=False, fontsize=SMALL,
            title=heading or None, title_fontsize=SMALL, alignment="left", labelspacing=0.3,
            handlelength=1.6, columnspacing=1.2, borderpad=0.2,
        )  # fmt: skip
        legend.get_title().set_color(INK)
        if columns == 1 or legend.get_window_extent().width <= width * figure.dpi:
            return legend
        legend.remove()


def save(figure: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write NAME.png (300 dpi) and NAME.svg (text as text); the same figure, the same bytes."""
    kinds = {"png": {"dpi": 300}, "svg": {"metadata": {"Date": None}}}
    written = []
    with mpl.rc_context(DETERMINISTIC):
        for kind, how in kinds.items():
            path = Path(folder) / f"{name}.{kind}"
            write_atomically(
                path, lambda file, kind=kind, how=how: figure.savefig(file, format=kind, **how)
            )
            written.append(path)
    return written
