"""A figure as it lies on paper: its width, its title and legend, its files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from fmlora_lab.config import METHOD_LABELS, BadInput
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
DETERMINISTIC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fmlora-lab",
    "pdf.fonttype": 42,  # text stays text, in fonts that publishers take
}
ONE_SEED = "(one seed)"
"""What a title says where its numbers are of one class order, one draw of images, one seed."""
DRAWS = "draws"
"""The id by which dots that stand for single draws are known among a figure's artists."""
FAR = 0.5
"""A level further from the data than this share of their span is named at the edge and not drawn:
drawn, it would leave a third of the axis empty."""

Layout = Literal["constrained", "compressed"]
Width = Literal["column", "page"]
WIDTHS: dict[str, float] = {"column": COLUMN, "page": PAGE}


def inches(width: Width | None, own: float) -> float:
    """Of a figure as wide as is asked for, else as its `own` needs; BadInput for another width."""
    if width is None:
        return own
    if width not in WIDTHS:
        raise BadInput(f"width is {width!r}; a figure is as wide as a {' or a '.join(WIDTHS)}")
    return WIDTHS[width]


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


def whole_numbers(most: int = 12) -> MaxNLocator:
    """Ticks for tasks: 5, 10, 15 rather than 6, 12, 18."""
    return MaxNLocator(most, integer=True, steps=[1, 2, 5, 10])


def draw_dots(axis: Axes, x: ArrayLike, y: ArrayLike, color: str, zorder: float = 1.9) -> None:
    """A small dot for every single draw, beneath what is drawn of their mean."""
    look = {"marker": "o", "markersize": 1.7, "markeredgewidth": 0, "alpha": 0.6, "color": color}
    axis.plot(np.ravel(x), np.ravel(y), linestyle="none", zorder=zorder, gid=DRAWS, **look)


def draws_in(values: Iterable[ArrayLike]) -> list[int]:
    """How many draws each of these has: (draws,), or (draws, k) with NaN where there is none; none
    of a bare number."""
    known = [np.asarray(own, float) for own in values]
    rows = [own.reshape(len(own), -1) for own in known if own.ndim]
    return [n for own in rows if (n := int((~np.isnan(own)).any(axis=1).sum()))]


def counted_draws(values: Iterable[ArrayLike]) -> list[Artist]:
    """A key for the dots of several draws, that says of how many they are; none for one draw."""
    n = draws_in(values)
    if max(n, default=0) < 2:
        return []
    many = f"{min(n)}" if min(n) == max(n) else f"{min(n)} to {max(n)}"
    look = {"marker": "o", "markersize": 2.2, "markeredgewidth": 0, "linestyle": "none"}
    return [Line2D([], [], color=INK, **look, label=f"one order or seed (n = {many})")]


def of_one_seed(title: str, values: Iterable[ArrayLike]) -> str:
    """The title, which says so where all values are of one draw."""
    one = max(draws_in(values), default=0) == 1
    return f"{title} {ONE_SEED}" if one and title and ONE_SEED not in title else title


def within_reach(level: float, low: float, high: float) -> bool:
    """Whether a level can be drawn beside data from `low` to `high` without an empty third."""
    return low - FAR * (high - low) <= level <= high + FAR * (high - low)


def spread_out(axis: Axes, values: ArrayLike) -> None:
    """A logarithmic x axis where it leaves less of the axis empty between these values (n,), all
    above 0, than a linear one that would leave a third of it."""
    known = np.asarray(values, float)
    known = np.sort(known[~np.isnan(known)])
    if len(known) > 1 and known[0] > 0 and _widest_gap(np.log(known)) < _widest_gap(known) > 1 / 3:
        axis.set_xscale("log")
        if known[-1] < 30 * known[0]:
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())


def _widest_gap(rising: NDArray) -> float:
    """As a share of the span of rising values."""
    return float(np.diff(rising).max() / max(np.ptp(rising), 1e-12))


def whole_where_whole(axis: Axes) -> None:
    """Ticks at whole numbers alone along a linear axis whose data are whole numbers."""
    lines = [line.get_xydata() for line in axis.get_lines()
             if line.get_transform().contains_branch(axis.transData)]  # fmt: skip
    clouds = [c.get_offsets() for c in axis.collections if isinstance(c, PathCollection)]
    points = [np.ma.filled(np.ma.asarray(p, float), np.nan) for p in chain(lines, clouds)]
    if not points:
        return
    for side, values in zip((axis.xaxis, axis.yaxis), np.concatenate(points).T, strict=True):
        values = values[np.isfinite(values)]
        named = isinstance(side.get_major_locator(), FixedLocator)
        if side.get_scale() == "linear" and not named and (values == values.round()).all():
            side.set_major_locator(whole_numbers(12 if side is axis.xaxis else 8))
            if len(values) and np.ptp(np.array(side.get_view_interval())) < 1:
                side.set_view_interval(values.min() - 1, values.max() + 1, ignore=True)


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

    The figure grows by what they need, axis labels are wrapped to the length of their axis, whole
    numbers have whole ticks, and the layout is fixed, so that it is the same at every resolution
    and in every file.
    """
    for axis in figure.axes:
        whole_where_whole(axis)
    width = figure.get_figwidth() - 2 * EDGE
    title = re.sub(r"(?<![\w.)])-(?=\d)", "−", title)
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
    """Write NAME.png (300 dpi), NAME.svg and NAME.pdf (text as text), of the figure's own width;
    the same figure, the same bytes."""
    dateless = {"CreationDate": None}
    kinds = {
        "png": {"dpi": 300},
        "svg": {"metadata": {"Date": None}},
        "pdf": {"metadata": dateless},
    }
    written = []
    with mpl.rc_context(DETERMINISTIC):
        for kind, how in kinds.items():
            path = Path(folder) / f"{name}.{kind}"
            write_atomically(
                path, lambda file, kind=kind, how=how: figure.savefig(file, format=kind, **how)
            )
            written.append(path)
    return written
