"""Which colour and marker a name has, in every figure.

Colours are from the palettes of Okabe and Ito and of Paul Tol, chosen so that colour-blind readers
can tell them apart; with twelve methods colours alone do not suffice, so each has its own marker.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fmlora_lab.analysis.names import TITLES

METHOD_COLORS = {
    "fm-lora": "#0072B2",
    "lora": "#E69F00",
    "sd-lora": "#56B4E9",
    "inflora": "#117733",
    "l2p": "#882255",
    "dualprompt": "#994F88",
    "coda-prompt": "#332288",
    "hide-prompt": "#999933",
    "full": "#D55E00",
    "linear-probe": "#CC79A7",
    "prototypes": "#009E73",
    "joint": "#000000",
}
OTHER_COLORS = (
    "#33BBEE", "#DDAA33", "#A50026", "#762A83", "#EE6677", "#9970AB", "#DD3D2D", "#225555",
)  # fmt: skip
MARKERS = "osD^vPX*<>hp"
OTHER_MARKERS = "8d^svPX*<"
"""One more than the colours, so that names beyond the last colour still differ in their pair."""
INK = "#444444"
FAINT = "#E6E6E6"


def title_of(method: str) -> str:
    """A method's name for readers; any other name as it is."""
    return TITLES.get(method, method)


def styles(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each method; other names take the remaining ones in order."""
    other = dict.fromkeys(name for name in names if name not in METHOD_COLORS)
    looks = zip(METHOD_COLORS.values(), MARKERS, strict=True)
    found = dict(zip(METHOD_COLORS, looks, strict=True))
    for i, name in enumerate(other):
        found[name] = (OTHER_COLORS[i % len(OTHER_COLORS)], OTHER_MARKERS[i % len(OTHER_MARKERS)])
    return {name: {"color": color, "marker": marker} for name, (color, marker) in found.items()}


def interval(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray | None]:
    """Of (seeds, k): the mean (k,), and how far the lowest and highest lie from it (2, k).

    NaN are left out. With one seed there is no interval: None.
    """
    mean = np.nanmean(values, axis=0)
    if len(values) == 1:
        return mean, None
    return mean, np.stack([mean - np.nanmin(values, axis=0), np.nanmax(values, axis=0) - mean])
