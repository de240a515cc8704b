"""One character, many renditions: batches of glyph rasters made into coloured images.

`render` draws every image of a batch independently of the others, within the ranges of a
style, from one explicit generator and never from global random state.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fmlora_lab.benchmarks.glyphs.styles import Range, Style
from fmlora_lab.benchmarks.glyphs.typefaces import CANVAS

SIDE = CANVAS // 2
"""Side of a rendered image in pixels."""


class _Draw:
    """Random numbers and fields for a batch of n images, all from one generator."""

    def __init__(self, n: int, generator: torch.Generator):
        self.n, self.generator = n, generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        draws = torch.rand(self.n, *shape, generator=self.generator, device=self.generator.device)
        return low + (high - low) * draws

    def chance(self, share: float) -> Tensor:
        return (self.uniform(0, 1, 1, 1, 1) < share).float()

    def blobs(self, channels: int, cells: int, side: int) -> Tensor:
        """Smooth noise in [-1, 1], (n, channels, side, side), of about `cells` blobs a side."""
        coarse = self.uniform(-1, 1, channels, cells, cells)
        device = self.generator.device
        # Bilinear, as two small matrix products: several times faster than `interpolate` here.
        place = torch.linspace(0, cells - 1, side, device=device)[:, None]
        weight = (1 - (place - torch.arange(cells, device=device)).abs()).clamp(min=0)
        return weight @ coarse @ weight.T

    def stripes(self) -> Tensor:
        """Stripes in [-1, 1] of a random direction and width, (n, 1, SIDE, SIDE)."""
        angle = self.uniform(0, 2 * math.pi, 1, 1, 1)
        along = _axis(self.generator.device)
        place = angle.cos() * along + angle.sin() * along[:, None]
        wavelength = self.uniform(2.5, 6, 1, 1, 1) * 2 / SIDE
        return (place / wavelength * 2 * math.pi + self.uniform(0, 6.28, 1, 1, 1)).sin()

    def contours(self) -> Tensor:
        """Contour lines of smooth noise, as a map has them, (n, 1, SIDE, SIDE) in [0, 1]."""
        height = self.blobs(1, 4, SIDE) * self.uniform(5, 10, 1, 1, 1)
        return ((height + self.uniform(0, 6.28, 1, 1, 1)).sin() * 3 - 1.2).clamp(0, 1)

    def colour(self, hue: Range, saturation: Range, value: Range) -> Tensor:
        """RGB in [0, 1], (n, 3, 1, 1); hues go from 0 over red, green and blue to 1."""
        thirds = torch.tensor([0, 4, 2], device=self.generator.device)[:, None, None]
        place = 6 * self.uniform(*hue, 1, 1, 1)
        pure = (((place + thirds) % 6 - 3).abs() - 1).clamp(0, 1)
        dulled = 1 - self.uniform(*saturation, 1, 1, 1) * (1 - pure)
        return dulled * self.uniform(*value, 1, 1, 1)


def render(glyphs: Tensor, style: Style, generator: torch.Generator) -> Tensor:
    """Rasters uint8 (n, CANVAS, CANVAS) -> images uint8 (n, 3, SIDE, SIDE).

    `glyphs` and `generator` are on one device.
    """
    draw = _Draw(len(glyphs), generator)
    coverage = glyphs[:, None].float() / 255
    strokes, rim = _stroked(_bent(coverage, style, draw), style, draw)

    ink = draw.colour(style.ink_hue, style.ink_saturation, style.ink_value)
    ground = draw.colour((0, 1), style.ground_saturation, style.ground_value)
    swapped = draw.chance(style.inverted)
    ink, ground = torch.lerp(ink, ground, swapped), torch.lerp(ground, ink, swapped)

    if style.busy:
        clutter = (draw.blobs(3, 4, SIDE) + draw.blobs(3, 9, SIDE) + draw.stripes() / 2) / 1.5
        ground = ground + draw.uniform(0, style.busy, 1, 1, 1) * clutter
    if style.ghost:
        others = torch.rand(len(glyphs), generator=generator, device=glyphs.device).argsort()
        ghost = F.avg_pool2d(_bent(coverage[others], style, draw), 2)
        ground = torch.lerp(ground, ink, draw.uniform(0, style.ghost, 1, 1, 1) * ghost)
    if style.contours:
        tint = draw.colour(style.contour_hue, style.contour_saturation, style.contour_value)
        opacity = draw.uniform(style.contours / 2, style.contours, 1, 1, 1)
        ground = torch.lerp(ground, tint, opacity * draw.contours())
    if style.texture:
        hatched = draw.chance(style.hatched)
        pattern = torch.lerp(draw.blobs(3, 10, SIDE), draw.stripes(), hatched)
        ink = ink + draw.uniform(0, style.texture, 1, 1, 1) * pattern

    image = torch.lerp(ground, ink.clamp(0, 1), strokes)
    image = image * (1 - rim)
    if style.light:
        slope = draw.uniform(-1, 1, 1, 1, 1) * _axis(glyphs.device)
        slope = slope + draw.uniform(-1, 1, 1, 1, 1) * _axis(glyphs.device)[:, None]
        image = image * (1 + style.light * slope)
    if style.grain:
        image = image + style.grain * draw.uniform(-1, 1, 3, SIDE, SIDE)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def _axis(device: torch.device, side: int = SIDE) -> Tensor:
    """The centres of a side's pixels in `grid_sample`'s coordinates, from -1 to 1."""
    return (torch.arange(side, device=device) + 0.5) * 2 / side - 1


def _bent(coverage: Tensor, style: Style, draw: _Draw) -> Tensor:
    """Each raster (n, 1, CANVAS, CANVAS) rotated, sheared, scaled, moved and warped."""
    angle = draw.uniform(-style.rotation, style.rotation, 1, 1) * (math.pi / 180)
    shear = draw.uniform(-style.shear, style.shear, 1, 1)
    grow = 1 / draw.uniform(*style.scale, 1, 1)
    x = _axis(coverage.device, CANVAS)
    y = x[:, None]
    dx, dy = draw.uniform(-2 * style.shift, 2 * style.shift, 2, 1, 1).unbind(1)
    x, y = x + shear * y + dx, y + dy
    x, y = grow * (angle.cos() * x - angle.sin() * y), grow * (angle.sin() * x + angle.cos() * y)
    if style.warp:
        bend_x, bend_y = (2 * style.warp * draw.blobs(2, 5, CANVAS)).unbind(1)
        x, y = x + bend_x, y + bend_y
    grid = torch.stack([x, y], 3)
    return F.grid_sample(coverage, grid, align_corners=False)


def _stroked(solid: Tensor, style: Style, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Strokes and their dark rim, each (n, 1, SIDE, SIDE) in [0, 1]."""
    thick = draw.chance(style.thick)
    outline = draw.chance(style.outline)
    rimmed = draw.chance(style.rim)
    if style.thick or style.outline or style.rim:
        wide = F.max_pool2d(solid, 5, 1, 2)
        contour = wide + F.max_pool2d(-solid, 3, 1, 1)
        rim = rimmed * (wide - solid)
        solid = torch.lerp(torch.lerp(solid, wide, thick), contour, outline)
    else:
        rim = torch.zeros_like(solid)
    return F.avg_pool2d(solid, 2), F.avg_pool2d(rim, 2)
