"""Which colour, marker and line a name has, in every figure.

A method's family gives hue and marker; within a family lightness and dashes differ, in the order of
the figure. So many methods are told apart by their family and by labels beside their lines and
points, not by as many hues. All stand out from white by at least 3:1, and readers who are colour-
blind can tell the hues apart.
"""

from collections.abc import Iterable
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb

from fmlora_lab.config import FAMILIES, METHOD_LABELS

OWN = FAMILIES[0]
"""The family whose lines are thicker."""
FAMILY_LOOKS = {
    OWN: ("#C84B00", "o"),
    "low-rank": ("#0072B2", "s"),
    "prompts": ("#146B35", "^"),
    "references": ("#6B6B6B", "X"),
}
OTHER_COLORS = (
    "#4295A6", "#D97E00", "#8600E5", "#734517", "#453D99", "#DA61F2", "#991F52", "#A69063",
)  # fmt: skip
OTHER_MARKERS = "8v<>pPhD^"
"""One more than the colours, so that names beyond the last colour still differ in their pair."""
DASHES = ("-", (0, (4, 1.2)), (0, (1.2, 1)), (0, (5, 1, 1.2, 1)))
INK = "#444444"
FAINT = "#E6E6E6"


def family_of(name: str) -> str:
    """A method's family; any other name is a family of its own."""
    return METHOD_LABELS[name].family if name in METHOD_LABELS else name


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """How each name is drawn: its color, marker, linewidth and linestyle.

    Families that have no look of their own take the remaining ones in order.
    """
    members: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        members.setdefault(family_of(name), []).append(name)
    others = [family for family in members if family not in FAMILY_LOOKS]
    free = zip(cycle(OTHER_COLORS), cycle(OTHER_MARKERS), strict=True)
    looks = FAMILY_LOOKS | dict(zip(others, free, strict=False))
    return {
        name: {
            "color": shade(looks[family][0], k / (len(own) - 1) if len(own) > 1 else 0.5),
            "marker": looks[family][1],
            "linewidth": 1.8 if family == OWN else 1.0,
            "linestyle": DASHES[k % len(DASHES)],
        }
        for family, own in members.items()
        for k, name in enumerate(own)
    }


def shade(color: str, light: float) -> str:
    """The colour from half as bright (0) over itself (0.5) to as light as may be (1)."""
    own = np.array(to_rgb(color))
    luminance = ((own + 0.055) / 1.055) ** 2.4 @ (0.2126, 0.7152, 0.0722)
    white = (0.3 - luminance) / (1 - luminance)  # as much of it as leaves a contrast of 3:1
    ramp = LinearSegmentedColormap.from_list("", [own / 2, own, own + white * (1 - own)])
    return to_hex(ramp(light)).upper()
