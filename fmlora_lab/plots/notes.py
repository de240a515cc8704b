"""Small labels beside the points of curves, where they cover neither a mark nor each other."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from fmlora_lab.plots.sheet import MARK, TINY

COMPASS = ((1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (-1, -1), (1, -1))
SIDES = [(far * x, far * y) for far in (1, 2, 3) for x, y in COMPASS]
"""Where a label may stand as seen from its mark; the first that is free is taken."""
ANCHORS = {-1: ("right", "top"), 0: ("center", "center"), 1: ("left", "bottom")}


Curve = tuple[NDArray[np.float64], Sequence[str], str]
"""Points (k, 2) in data, k labels, a colour."""


def note_points(axis: Axes, curves: Sequence[Curve]) -> None:
    """Write each label of each curve beside its point, in a darker shade of the curve's colour.

    To be called when the layout is final: it measures on the canvas.
    """
    dot = axis.figure.dpi / 72  # a point, in pixels
    tracks = [axis.transData.transform(points) for points, _, _ in curves]
    half = (MARK / 2 + 0.5) * dot
    taken = [Bbox([mark - half, mark + half]) for track in tracks for mark in track]
    ink = np.concatenate([_along(track) for track in tracks])
    for points, labels, color in curves:
        shade = 0.7 * np.array(to_rgb(color))
        for point, label in zip(points, labels, strict=True):
            note = axis.annotate(
                label, point, (0, 0), textcoords="offset points", fontsize=TINY, color=shade
            )
            note.set_in_layout(False)
            taken.append(_placed(note, taken, ink, axis.get_window_extent()))


def _placed(note, taken: Sequence[Bbox], ink: NDArray[np.float64], room: Bbox) -> Bbox:
    """Put the note on the side where it covers least; its box on the canvas."""

    def put(side) -> Bbox:
        (x, y), away = side, MARK / 2 + 1
        note.xyann = (x * away, y * away)
        note.set(ha=ANCHORS[np.sign(x)][0], va=ANCHORS[np.sign(y)][1])
        return note.get_window_extent()

    def covered(side) -> int:
        box = put(side)
        clashes = box.count_overlaps(taken)
        outside = room.count_contains(box.corners()) < 4
        return 1000 * (clashes + outside) + box.count_contains(ink)

    return put(min(SIDES, key=covered))


def _along(track: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (n, 2) along the lines that join the points of a track (k, 2)."""
    steps = np.linspace(0, 1, 30)[:, None]
    parts = [a + (b - a) * steps for a, b in pairwise(track)]
    return np.concatenate([track, *parts])
