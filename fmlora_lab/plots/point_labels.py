"""Names beside lines and points, where they cover neither a mark nor each other.

A name that had to move away is joined to its place by a thin line. All of it is done when the
layout is final, for it is measured on the canvas.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text
from numpy.typing import ArrayLike, NDArray

from fmlora_lab.plots.sheet import MARK, SMALL, TINY, wrapped
from fmlora_lab.plots.style import shade

WIDE = 1.2
"""Inches that a name at a line's end may take."""
BESIDE = 1.06
"""Where it begins, in widths of the axes."""
COMPASS = [(np.cos(a), np.sin(a)) for a in np.arange(16) * np.pi / 8]
STEPS = (1.1, 1.6, 2.5, 4, 6, 8, 11, 14, 18, 22)
"""How far from its mark a point's name may stand, in radii of the mark."""

Point = tuple[float, float]
Name = tuple[str, Point, str]
"""What is said, of which point in data, in which colour."""


def height_of(said: Iterable[str]) -> float:
    """Inches that a column of names takes."""
    return 0.115 * sum(wrapped(text, WIDE, SMALL).count("\n") + 1 for text in said)


def name_ends(axis: Axes, ends: Sequence[Name]) -> list[Text]:
    """Names of lines in a column right of the axes.

    To be called before the layout, for they take room; `part_ends` moves them apart after it.
    """
    return [
        axis.text(
            BESIDE, 0.5, wrapped(said, WIDE, SMALL), transform=axis.transAxes, fontsize=SMALL,
            color=shade(color, 0.2), va="center",
        )
        for said, _, color in ends
    ]  # fmt: skip


def part_ends(axis: Axes, notes: Sequence[Text], ends: Sequence[Name]) -> None:
    """Put each name as near to the height of its line's end as the others let it, and join them."""
    room = axis.get_window_extent()
    at = [axis.transData.transform(point)[1] for _, point, _ in ends]
    tall = [note.get_window_extent().height + 1 for note in notes]  # so that they do not touch
    middles = (apart(at, tall, room.y0, room.y1) - room.y0) / room.height
    for note, (_, point, color), y in zip(notes, ends, middles, strict=True):
        note.set_position((BESIDE, y))
        _join(axis, point, (BESIDE - 0.01, y), "axes fraction", color)


def apart(wanted: ArrayLike, sizes: ArrayLike, low: float, high: float) -> NDArray[np.float64]:
    """Middles of spans of these sizes, in the order of those wanted, none on another.

    They are the nearest to those wanted (isotonic regression), between `low` and `high` as far as
    there is room.
    """
    wanted, sizes = np.asarray(wanted, float), np.asarray(sizes, float)
    order = np.argsort(wanted, kind="stable")
    stacked = np.cumsum(sizes[order]) - sizes[order] / 2  # the middles if each stood on the last
    pools: list[list[float]] = []  # shifts of neighbours that must move together
    for shift in wanted[order] - stacked:
        pools.append([shift])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    shifts = [np.mean(pool) for pool in pools for _ in pool]
    middles = np.empty_like(wanted)
    middles[order] = stacked + np.clip(shifts, low, max(low, high - sizes.sum()))
    return middles


def name_points(
    axis: Axes,
    names: Sequence[Name],
    tracks: Sequence[ArrayLike] = (),
    others: Sequence[Point] = (),
) -> None:
    """Names beside points, covering no mark, of `others` that have no name neither; `tracks` (k, 2)
    in data are lines that they had better not cover."""
    dot = axis.figure.dpi / 72  # a point, in pixels
    radius = (MARK / 2 + 1) * dot
    marks = axis.transData.transform([point for _, point, _ in names])  # (n, 2)
    every = axis.transData.transform([*(point for _, point, _ in names), *others])
    ink = np.concatenate([marks, *(_along(axis.transData.transform(track)) for track in tracks)])
    notes = [
        axis.annotate(
            said, point, (0, 0), textcoords="offset points", fontsize=TINY, ha="center",
            va="center", color=shade(color, 0.2),
        )
        for said, point, color in names
    ]  # fmt: skip
    halves = np.array([note.get_window_extent().size for note in notes]) / 2
    room = axis.get_window_extent()
    centre, reach = np.mean([room.min, room.max], axis=0), np.array(room.size) / 2
    away = np.array([(far * x, far * y) for far in STEPS for x, y in COMPASS])
    middles = marks.copy()
    for i in 3 * list(range(len(names))):  # once more, when the others have found their places
        tried = marks[i] + away * radius + np.clip(1.5 * away, -1, 1) * halves[i]
        rest = np.arange(len(names)) != i
        cost = np.hypot(*away.T)
        cost += 1000 * _covered(tried, halves[i], middles[rest], halves[rest])
        cost += 1000 * _covered(tried, halves[i], every, radius)
        cost += 1000 * (np.abs(tried - centre) > reach - halves[i]).any(axis=1)
        cost += _covered(tried, halves[i], ink, 0)
        middles[i] = tried[cost.argmin()]
    for note, (_, point, color), mark, middle, half in zip(
        notes, names, marks, middles, halves, strict=True
    ):
        note.xyann = tuple((middle - mark) / dot)
        near = np.clip(mark, middle - half, middle + half) - mark
        if np.hypot(*near) > 2 * radius:
            _join(axis, point, tuple(near / dot), "offset points", color)


def _covered(tried: NDArray, half: NDArray, middles: NDArray, halves: ArrayLike) -> NDArray:
    """How many of the boxes around `middles` each box around `tried` (m, 2) overlaps."""
    distance = np.abs(tried[:, None] - middles)
    return (distance < half + halves).all(axis=2).sum(axis=1)


def _along(track: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (n, 2) along the lines that join the points of a track (k, 2)."""
    steps = np.linspace(0, 1, 30)[:, None]
    return np.concatenate([track, *(a + (b - a) * steps for a, b in pairwise(track))])


def _join(axis: Axes, point: Point, name: Point, where: str, color: str) -> None:
    line = {"arrowstyle": "-", "linewidth": 0.4, "color": color, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", point, name, textcoords=where, arrowprops=line, annotation_clip=False)
