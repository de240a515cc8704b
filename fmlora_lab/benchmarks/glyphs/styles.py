"""How far each kind of variation goes in a drawing: pre-training, the benchmark, its domains."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

Range = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """Ranges from which each image draws its own values; the defaults are white on black.

    A single number is the largest value (±, where the thing has a sign) or, for `thick`,
    `outline`, `rim` and `inverted`, the share of images that have it. Lengths are shares of
    the side; saturations, values and amplitudes are in [0, 1].
    """

    rotation: float = 0  # degrees
    shear: float = 0
    scale: Range = (1, 1)
    shift: float = 0
    warp: float = 0
    thick: float = 0
    outline: float = 0  # only the contour of the strokes is left
    rim: float = 0  # a dark contour around the strokes
    ink_hue: Range = (0, 1)  # from red over green and blue to red again
    ink_saturation: Range = (0, 0)
    ink_value: Range = (1, 1)
    ground_saturation: Range = (0, 0)
    ground_value: Range = (0, 0)
    inverted: float = 0  # ink and ground change places
    texture: float = 0  # amplitude, on the strokes
    hatched: float = 0  # share of textures that are stripes, not blobs
    busy: float = 0  # amplitude of coloured clutter on the ground
    ghost: float = 0  # opacity of another glyph behind
    contours: float = 0  # opacity of a map's contour lines behind
    contour_hue: Range = (0, 1)
    contour_saturation: Range = (0, 0)
    contour_value: Range = (1, 1)
    light: float = 0  # a gradient across the image
    grain: float = 0  # pixel noise


def blend(start: Style, end: Style, share: float) -> Style:
    """The style `share` of the way from one to another, field by field."""
    between = {}
    for field in fields(Style):
        a, b = getattr(start, field.name), getattr(end, field.name)
        if isinstance(a, tuple):
            between[field.name] = tuple(x + share * (y - x) for x, y in zip(a, b, strict=True))
        else:
            between[field.name] = a + share * (b - a)
    return Style(**between)


def _style(settings: Mapping[str, Any]) -> Style:
    own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    return Style(**own)


_STYLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
PRETRAINING, RENDITION = _style(_STYLES["pretraining"]), _style(_STYLES["rendition"])
DOMAINS = {name: _style(_STYLES["placed"] | own) for name, own in _STYLES["domains"].items()}
