"""What a drawn figure says: its marks, ranges, names and colours, read from its artists."""

import numpy as np
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.text import Text

from fmlora_lab.plots.sheet import DRAWS


def title(figure) -> str:
    return " ".join(figure.get_suptitle().split())


def marks(axis) -> list[list[list[float]]]:
    """Points of every line and cloud of marks, in the order in which they were drawn, without the
    dots of single draws."""
    marked = [line for line in axis.get_lines() if line.get_marker() != "None"]
    lines = [line.get_xydata() for line in marked if line.get_gid() != DRAWS]
    clouds = [c.get_offsets() for c in axis.collections if isinstance(c, PathCollection)]
    return [np.asarray(points, float).tolist() for points in (*lines, *clouds)]


def draws(axis) -> list[list[list[float]]]:
    """The dots of single draws, a list a mean."""
    found = [line.get_xydata() for line in axis.get_lines() if line.get_gid() == DRAWS]
    return [np.asarray(points, float).tolist() for points in found]


def clouds(axis) -> dict[str, list[list[float]]]:
    """Points by their colour, of marks that no line joins."""
    found: dict[str, list[list[float]]] = {}
    for cloud in axis.collections:
        if isinstance(cloud, PathCollection):
            points, faces = cloud.get_offsets(), cloud.get_facecolors()
            for point, face in zip(points, np.broadcast_to(faces, (len(points), 4)), strict=True):
                found.setdefault(to_hex(face).upper(), []).append(point.tolist())
    return found


def intervals(axis) -> list[list[list[float]]]:
    """Ends of every range that is drawn as a line."""
    found = [c.get_segments() for c in axis.collections if isinstance(c, LineCollection)]
    return [segment.tolist() for segments in found for segment in segments if len(segment)]


def surrounds(axis, points) -> bool:
    x, y = np.transpose(points)
    (left, right), (bottom, top) = sorted(axis.get_xlim()), sorted(axis.get_ylim())
    return bool(left < min(x) and max(x) < right and bottom < min(y) and max(y) < top)


def names(axis) -> dict[str, Text]:
    """The names beside lines and points, from top to bottom."""
    found = [text for text in axis.texts if text.get_text()]
    found.sort(key=lambda text: -text.get_window_extent().y0)
    return {" ".join(text.get_text().split()): text for text in found}


def legend(figure) -> dict[str, tuple[str, str]]:
    """Colour and marker by the name in the legend."""
    (found,) = figure.legends
    looks = [(to_hex(h.get_color()).upper(), h.get_marker()) for h in found.legend_handles]
    return dict(zip((text.get_text() for text in found.get_texts()), looks, strict=True))


def written(figure) -> list[Text]:
    """Every text that is drawn, tick labels within the axes' limits among them."""
    texts = [text for key in figure.legends for text in (*key.get_texts(), key.get_title())]
    for axis in figure.axes:
        texts += [axis.xaxis.label, axis.yaxis.label, axis.title, *axis.texts]
        for side in (axis.xaxis, axis.yaxis) if axis.axison else ():
            low, high = sorted(side.get_view_interval())
            ticks = [tick for tick in side.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [label for tick in ticks for label in (tick.label1, tick.label2)]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]
