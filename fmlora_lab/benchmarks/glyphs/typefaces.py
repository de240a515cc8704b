"""Characters as pictures: rasterised once a typeface, and how much two of them look alike."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageFont
from torch import Tensor


def _family(name: str, slanted: str) -> tuple[str, ...]:
    return tuple(f"{name}{style}" for style in ("", "-Bold", f"-{slanted}", f"-Bold{slanted}"))


TRAIN_FACES = (*_family("DejaVuSans", "Oblique"), *_family("DejaVuSerif", "Italic"))
"""Typefaces of training images, and those in which pre-training saw other characters."""

VALIDATION_FACES = _family("DejaVuSansMono", "Oblique")
"""Typefaces of validation images: a family of which neither training nor testing sees any."""

TEST_FACES = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta")
"""Typefaces of test images: a family that training, pre-training and validation never see."""

CANVAS = 64
"""Side of a raster in pixels: twice an image's, so that one averaging step reduces it."""
BOX = 48
"""The longer side of a glyph. Its place within the line is not part of a class."""


def _path(face: str) -> Path:
    return Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")


@cache
def characters_of(face: str) -> frozenset[str]:
    """Every character that stands in a typeface."""
    return frozenset(map(chr, FT2Font(_path(face)).get_charmap()))


def rasters(characters: Sequence[str], faces: Sequence[str], in_proportion: bool = False) -> Tensor:
    """Coverage, uint8 (characters, faces, CANVAS, CANVAS); blank where a typeface lacks one.

    `in_proportion` keeps what is smaller than the typeface's H smaller than it, which is all that
    tells z from Z; otherwise every glyph fills the same box.
    """
    sheet = np.zeros((len(characters), len(faces), CANVAS, CANVAS), np.uint8)
    for f, face in enumerate(faces):
        # The basic layout engine, because the other one is not in every build of Pillow.
        font = ImageFont.truetype(_path(face), CANVAS, layout_engine=ImageFont.Layout.BASIC)
        for c, character in enumerate(characters):
            if character in characters_of(face):
                sheet[c, f] = _centred(font, character, in_proportion)
    return torch.from_numpy(sheet)


def _centred(font: ImageFont.FreeTypeFont, character: str, in_proportion: bool) -> np.ndarray:
    left, top, right, bottom = map(int, font.getbbox(character))  # pixels, which are whole
    canvas = Image.new("L", (CANVAS, CANVAS))
    if right > left and bottom > top:
        glyph = Image.new("L", (right - left, bottom - top))
        glyph.paste(255, (0, 0), Image.Image()._new(font.getmask(character)))
        _, top_of_H, _, foot_of_H = font.getbbox("H")
        shrink = BOX / max(*glyph.size, foot_of_H - top_of_H if in_proportion else 0)
        width, height = (max(1, round(side * shrink)) for side in glyph.size)
        glyph = glyph.resize((width, height), Image.Resampling.BILINEAR)
        canvas.paste(glyph, ((CANVAS - width) // 2, (CANVAS - height) // 2))
    return np.asarray(canvas)


def similarity(left: Tensor, right: Tensor) -> Tensor:
    """How much characters look alike: rasters (a, faces, ...) and (b, faces, ...) -> (a, b).

    The correlation of two rasters reduced to 16 x 16, averaged over the typefaces that have
    both characters: 1 for twins such as Latin A and Cyrillic А, 0 where no typeface has both.
    """
    total = torch.zeros(len(left), len(right))
    shared = torch.zeros(len(left), len(right))
    for face in range(left.shape[1]):
        a, b = (_reduced(sheet[:, face]) for sheet in (left, right))
        total += a @ b.T
        shared += a.any(1).float()[:, None] * b.any(1).float()
    return total / shared.clamp(min=1)


def _reduced(sheet: Tensor) -> Tensor:
    small = F.avg_pool2d(sheet[:, None].float(), CANVAS // 16).flatten(1)
    return F.normalize(small - small.mean(1, keepdim=True))
