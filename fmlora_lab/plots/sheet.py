"""A figure as it lies on paper: its width, its title and legend, its files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fmlora_lab.config import METHOD_LABELS
from fmlora_lab.files import write_atomically
from fmlora_lab.plots.style import FAINT, INK, family_of, styles

COLUMN, PAGE = 3.5, 7.2
"""Width of a paper's column and of its page, in inches."""
TEXT, SMALL, TINY = 8, 7, 6
"""Sizes in points: titles and axis labels; ticks and legends; notes inside the axes."""
MARK = 4.5
"""Size of a mark, in points."""
EDGE = 0.04
"""Inches left free at the figure's edges."""
MANY = 12
"""Of more names than this a figure is as wide as the page, with less ink for each."""
EDGED = {"markeredgecolor": "white", "markeredgewidth": 0.4}
"""A white edge keeps marks apart that lie on each other."""
DETERMINISTIC: dict[Any, str] = {"svg.fonttype": "none", "svg.hashsalt": "fmlora-lab"}

Layout = Literal["constrained", "compressed"]


def panels(
    rows: int, columns: int, width: float, height: float, layout: Layout = "constrained", **how: Any
) -> tuple[Figure, NDArray]:
    """A figure of `width` × `height` inches with a grid of axes (rows, columns)."""
    figure = Figure(figsize=(width, height), dpi=200, layout=layout)  # a notebook shows 200 dpi
    axes = figure.subplots(rows, columns, squeeze=False, **how)
    for axis in axes.flat:
        fine(axis)
    return figure, axes


def panel(
    height: float = 2.4, grid: Literal["x", "y"] = "y", width: float = COLUMN
) -> tuple[Figure, Axes]:
    """A figure with one panel of `height` inches, by default of one column's width."""
    figure, ((axis,),) = panels(1, 1, width, height)
    open_over_grid(axis, grid)
    return figure, axis


def fine(axis: Axes) -> None:
    """Small print and thin lines."""
    axis.xaxis.label.set_fontsize(TEXT)
    axis.yaxis.label.set_fontsize(TEXT)
    axis.tick_params(which="both", labelsize=SMALL, width=0.6, length=2.5, pad=2)
    axis.spines[:].set_linewidth(0.6)


def open_over_grid(axis: Axes, grid: Literal["x", "y"] = "y") -> None:
    """No frame above and at the right; a faint grid beneath."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)


def drawn(look: Mapping[str, Any], size: float = MARK) -> dict[str, Any]:
    """A look from `styles` as a thin line with marks, for matplotlib to draw."""
    return {"linewidth": 1.0, **look, **EDGED, "markersize": size}


def keys(looks: Mapping[str, Mapping[str, Any]]) -> list[Artist]:
    """A mark for each label, to stand in a legend."""
    return [
        Line2D([], [], **drawn({**look, "linestyle": "none"}), label=label)
        for label, look in looks.items()
    ]


def family_keys(names: Iterable[str]) -> list[Artist]:
    """A mark for each family of methods, where a family has several of these names."""
    methods = [name for name in names if name in METHOD_LABELS]
    families = {family_of(name) for name in methods}
    looks = styles(map(family_of, names))
    named = {family: look for family, look in looks.items() if family in families}
    return keys(named) if 1 < len(named) < len(methods) else []


def count_from_one(axis: Axes, n: int, first: float = 0.0) -> None:
    """Ticks for n tasks on both sides of a map whose first cell has its middle at `first`."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, n) if n <= 6 * step)
    counted = np.arange(step, n + 1, step)
    axis.set_xticks(counted - 1 + first, counted)
    axis.set_yticks(counted - 1 + first, counted, rotation=0)


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


def finish(figure: Figure, title: str, named: Sequence[Artist] = (), heading: str = "") -> Figure:
    """Title above the panels and, where labelled artists are given, a legend of them below.

    The figure grows by what they need, axis labels are wrapped to the length of their axis, and
    the layout is fixed, so that it is the same at every resolution and in every file.
    """
    width = figure.get_figwidth() - 2 * EDGE
    above = figure.suptitle(
        wrapped(title, width), x=EDGE / figure.get_figwidth(), ha="left", fontsize=TEXT
    )
    extra = [above, _legend_below(figure, named, heading, width)] if named else [above]
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


def _legend_below(figure: Figure, named: Sequence[Artist], heading: str, width: float) -> Legend:
    """In as few rows as there is room for."""
    names = [wrapped(str(artist.get_label()), COLUMN - 0.5, SMALL) for artist in named]
    rows = 0
    while True:
        rows += 1
        columns = -(-len(named) // rows)
        legend = figure.legend(
            named, names, loc="outside lower left", ncols=columns, frameon=False, fontsize=SMALL,
            title=heading or None, title_fontsize=SMALL, alignment="left", labelspacing=0.3,
            handlelength=1.2, columnspacing=1.2, handletextpad=0.4, borderpad=0.2,
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
