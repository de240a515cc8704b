"""How far each kind of variation goes in a drawing: pre-training, the benchmark, its domains."""

from dataclasses import dataclass, fields

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
    ink_saturation: Range = (0, 0)
    ink_value: Range = (1, 1)
    ground_saturation: Range = (0, 0)
    ground_value: Range = (0, 0)
    inverted: float = 0  # ink and ground change places
    texture: float = 0  # amplitude, on the strokes
    hatched: float = 0  # share of textures that are stripes, not blobs
    busy: float = 0  # amplitude of coloured clutter on the ground
    ghost: float = 0  # opacity of another glyph behind
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


PRETRAINING = Style(
    rotation=12, shear=0.2, scale=(0.75, 1.1), shift=0.08, warp=0.03,
    ink_saturation=(0, 0.9), ink_value=(0.6, 1), ground_saturation=(0, 1), ground_value=(0, 0.45),
    inverted=0.5, texture=0.35, hatched=0.3, light=0.2, grain=0.05,
)  # fmt: skip
"""Filled strokes on plain ground: what the backbone has seen before the benchmark."""

RENDITION = Style(
    rotation=5, shear=0.08, scale=(0.95, 1.1), shift=0.03, warp=0.005,
    thick=0.25, outline=0.38,
    ink_saturation=(0, 0.8), ink_value=(0.7, 1), ground_saturation=(0, 1), ground_value=(0, 0.4),
    inverted=0.5, texture=0.35, hatched=0.3, busy=0.2, ghost=0.15, light=0.2, grain=0.06,
)  # fmt: skip
"""The class-incremental benchmark: every image its own mixture, as ImageNet-R is."""

_PLACED = dict(rotation=10, shear=0.15, scale=(0.8, 1.1), shift=0.06)

DOMAINS = {
    "clipart": Style(
        **_PLACED, warp=0.01, rim=1,
        ink_saturation=(0.7, 1), ink_value=(0.8, 1),
        ground_saturation=(0, 0.15), ground_value=(0.9, 1),
    ),
    "infograph": Style(
        **_PLACED, warp=0.01,
        ink_value=(0.95, 1), ground_saturation=(0.4, 0.8), ground_value=(0.35, 0.6),
        ghost=0.6,
    ),
    "painting": Style(
        **_PLACED, warp=0.04, thick=0.8,
        ink_saturation=(0.5, 0.9), ink_value=(0.6, 1),
        ground_saturation=(0.3, 0.8), ground_value=(0.2, 0.45),
        inverted=0.3, texture=0.6, busy=0.5,
    ),
    "quickdraw": Style(
        **_PLACED, warp=0.035, outline=1,
        ink_value=(0, 0), ground_value=(1, 1),
    ),
    "real": Style(
        **_PLACED, warp=0.02,
        ink_saturation=(0, 0.35), ink_value=(0.5, 0.85),
        ground_saturation=(0.1, 0.4), ground_value=(0.1, 0.35),
        inverted=0.5, texture=0.2, busy=0.25, light=0.5, grain=0.15,
    ),
    "sketch": Style(
        **_PLACED, warp=0.025,
        ink_value=(0.1, 0.3), ground_saturation=(0, 0.1), ground_value=(0.8, 0.95),
        texture=0.6, hatched=1, light=0.1, grain=0.12,
    ),
}  # fmt: skip
"""The domain-incremental benchmark's six, which echo DomainNet's."""
