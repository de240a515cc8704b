"""The embedded benchmark: 100 characters as renditions, drawn here instead of downloaded.

Test images are drawn in a family of typefaces that no training image uses, validation images in
another, so what is tested is the character and not its outline. The pre-trained backbone that
ships with the lab has seen neither these characters, nor these families, nor contour lines behind
what it had to read: that shift is the same for all classes, so a few can teach to undo it.
"""

import hashlib
import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fmlora_lab.benchmarks.glyphs.renditions import render
from fmlora_lab.benchmarks.glyphs.scripts import ORDERS, SCRIPTS
from fmlora_lab.benchmarks.glyphs.styles import DOMAINS, RENDITION, Style
from fmlora_lab.benchmarks.glyphs.typefaces import (
    TEST_FACES,
    TRAIN_FACES,
    VALIDATION_FACES,
    rasters,
)
from fmlora_lab.benchmarks.stream import (
    Images,
    Stream,
    class_incremental,
    domain_incremental,
    of_domains,
)
from fmlora_lab.config import GlyphDomains, Glyphs, GlyphScripts
from fmlora_lab.files import cache_dir, write_atomically

RENDERER = 3
"""Raised when the images change: it enters every fingerprint, so stored runs stay apart."""

LOOKALIKE = 0.83
"""Similarity (`typefaces.similarity`) from which two characters count as look-alikes."""

CHARACTERS = (
    "0123456789ABCDEGHJKLMNPQRSTUVWXYZabdefgijkmnopqrtyz"
    "ΓΘΞΣΦΨΩαβγεζηικλμνξπςστυφχωДЖЛЦЧШЩЪЫЭЮЯгдзмтфцщъь"
)
"""The 100 classes. The rule that chose them: digits, A–Z, a–z, Α–ω, А–я in this order, each
taken if it stands in all 16 typefaces, does not decompose, and is no look-alike, over all 16,
of one taken before; the first 100 of these."""


def relatives(character: str) -> set[str]:
    """What a character is made of and its other case: é -> e, acute, E; K -> K, k."""
    parts = unicodedata.normalize("NFKD", character)
    return set(unicodedata.normalize("NFKD", parts + parts.casefold() + parts.upper()))


def load_glyphs(settings: Glyphs, order_seed: int, data_seed: int) -> Stream:
    """The class-incremental stream.

    Its fingerprint is a hash of the renderer's version, the settings and `data_seed`, not of
    the pixels: those may differ by a rounding step between processors, and a stored run shall
    be found again all the same.
    """
    train, test, validation = _drawn("glyphs", RENDITION, settings, data_seed)
    names, mark = tuple(CHARACTERS), fingerprint(settings, data_seed)
    return class_incremental(
        "glyphs", train, test, names, settings.tasks, order_seed, mark, validation, settings.order
    )


def load_glyph_domains(settings: GlyphDomains, order_seed: int, data_seed: int) -> Stream:
    """The domain-incremental stream: every character in each of six styles.

    The fingerprint is made as that of `load_glyphs`.
    """
    domains = [(name, *_drawn(name, style, settings, data_seed)) for name, style in DOMAINS.items()]
    mark = fingerprint(settings, data_seed)
    return domain_incremental(
        "glyph-domains", domains, tuple(CHARACTERS), order_seed, mark, settings.order
    )


def load_glyph_scripts(settings: GlyphScripts, order_seed: int, data_seed: int) -> Stream:
    """Six scripts, each with characters and a style of its own. Of training images it has no
    others for validation: not every character is in those typefaces."""
    domains = []
    for name, script in SCRIPTS.items():
        train, test, _ = _drawn(name, script.style, settings, data_seed, script.characters)
        domains.append((name, tuple(script.characters), train, test))
    templates = {name: script.templates for name, script in SCRIPTS.items()}
    mark = fingerprint(settings, data_seed)
    order = ordered(settings.order)
    return of_domains("glyph-scripts", domains, order_seed, mark, order, templates)


def ordered(order: int | str | Sequence[str | int]) -> str | Sequence[str | int]:
    """An order of scripts with its names, where it is one of the lab's own by number."""
    return ORDERS[order] if isinstance(order, int) else order


def fingerprint(settings: Glyphs | GlyphDomains | GlyphScripts, data_seed: int) -> str:
    """The stream's; nothing is drawn for it."""
    if isinstance(settings, Glyphs):
        return _recipe("glyphs", settings, data_seed)
    names = SCRIPTS if isinstance(settings, GlyphScripts) else DOMAINS
    prints = [_recipe(name, settings, data_seed) for name in names]
    return hashlib.sha256("".join(prints).encode()).hexdigest()


def _recipe(name: str, settings: Glyphs | GlyphDomains | GlyphScripts, data_seed: int) -> str:
    """The fingerprint of one style's images."""
    recipe = repr((RENDERER, name, settings.train_images, settings.test_images, data_seed))
    return hashlib.sha256(recipe.encode()).hexdigest()


def _drawn(
    name: str,
    style: Style,
    settings: Glyphs | GlyphDomains | GlyphScripts,
    data_seed: int,
    characters: str = CHARACTERS,
) -> list[Images]:
    """Training, test and validation images of one style, from the cache or drawn."""
    counts = settings.train_images, settings.test_images, settings.test_images
    mark = _recipe(name, settings, data_seed)
    path = cache_dir() / "glyphs" / f"{name}-{mark[:16]}.npy"
    pixels = _cached(path)
    if pixels is None:
        # The fingerprint holds the seed and the style's name: no two drawings share noise.
        generator = torch.Generator().manual_seed(int(mark[:15], 16))
        faces = TRAIN_FACES, TEST_FACES, VALIDATION_FACES
        parts = zip(faces, counts, strict=True)
        pixels = torch.cat(
            [_draw(characters, own, count, style, generator) for own, count in parts]
        )
        write_atomically(path, lambda file: file.write(_sealed(pixels)))
    labels = [torch.arange(len(characters)).repeat_interleave(count) for count in counts]
    return list(map(Images, pixels.split([len(own) for own in labels]), labels))


def _draw(
    characters: str, faces: tuple[str, ...], count: int, style: Style, generator: torch.Generator
) -> Tensor:
    """`count` images of each class, class by class, the typefaces that have it taking turns."""
    sheet = rasters(characters, faces, in_proportion=True)
    has = [row.nonzero().flatten() for row in sheet.flatten(2).any(2)]
    turns = [own[torch.arange(count) % max(len(own), 1)] if len(own) else own.new_zeros(count)
             for own in has]  # fmt: skip
    glyphs = torch.cat([row[turn] for row, turn in zip(sheet, turns, strict=True)])
    order = torch.randperm(len(glyphs), generator=generator)
    images = [render(glyphs[some], style, generator) for some in order.split(500)]
    return torch.cat(images)[order.argsort()]


def _sealed(pixels: Tensor) -> bytes:
    """An .npy file with a digest behind it, so that a damaged file is known for one."""
    file = io.BytesIO()
    np.save(file, pixels.numpy(), allow_pickle=False)
    return file.getvalue() + hashlib.sha256(file.getvalue()).digest()


def _cached(path: Path) -> Tensor | None:
    """The images at `path`; None if there are none or they are damaged."""
    if not path.exists():
        return None
    content = path.read_bytes()
    body, digest = content[:-32], content[-32:]
    if hashlib.sha256(body).digest() != digest:
        return None
    return torch.from_numpy(np.load(io.BytesIO(body), allow_pickle=False))
