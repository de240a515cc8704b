"""The embedded benchmark: 100 characters as renditions, drawn here instead of downloaded.

Test images are drawn in typefaces that no training image uses, so what is tested is the
character and not its outline. The pre-trained backbone that ships with the lab has seen
neither these characters nor the test typefaces.
"""

import hashlib
import io
import unicodedata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fmlora_lab.benchmarks.cache import cache_dir
from fmlora_lab.benchmarks.renditions import render
from fmlora_lab.benchmarks.stream import (
    Images,
    Stream,
    class_incremental,
    domain_incremental,
)
from fmlora_lab.benchmarks.styles import DOMAINS, RENDITION, Style
from fmlora_lab.benchmarks.typefaces import TEST_FACES, TRAIN_FACES, rasters
from fmlora_lab.config import GlyphDomains, Glyphs
from fmlora_lab.files import write_atomically

RENDERER = 2
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
    train, test, fingerprint = _drawn("glyphs", RENDITION, settings, data_seed)
    return class_incremental(
        "glyphs", train, test, tuple(CHARACTERS), settings.tasks, order_seed, fingerprint
    )


def load_glyph_domains(settings: GlyphDomains, order_seed: int, data_seed: int) -> Stream:
    """The domain-incremental stream: every character in each of six styles.

    The fingerprint is made as that of `load_glyphs`.
    """
    domains, prints = [], []
    for name, style in DOMAINS.items():
        train, test, fingerprint = _drawn(name, style, settings, data_seed)
        domains.append((name, train, test))
        prints.append(fingerprint)
    fingerprint = hashlib.sha256("".join(prints).encode()).hexdigest()
    return domain_incremental("glyph-domains", domains, tuple(CHARACTERS), order_seed, fingerprint)


def _drawn(
    name: str, style: Style, settings: Glyphs | GlyphDomains, data_seed: int
) -> tuple[Images, Images, str]:
    """Training and test images of one style, from the cache or drawn, and their fingerprint."""
    counts = settings.train_images, settings.test_images
    recipe = repr((RENDERER, name, *counts, data_seed))
    fingerprint = hashlib.sha256(recipe.encode()).hexdigest()
    path = cache_dir() / "glyphs" / f"{name}-{fingerprint[:16]}.npy"
    pixels = _cached(path)
    if pixels is None:
        # The fingerprint holds the seed and the style's name: no two drawings share noise.
        generator = torch.Generator().manual_seed(int(fingerprint[:15], 16))
        pixels = torch.cat(
            [
                _draw(faces, count, style, generator)
                for faces, count in zip((TRAIN_FACES, TEST_FACES), counts, strict=True)
            ]
        )
        write_atomically(path, lambda file: file.write(_sealed(pixels)))
    parts = []
    for part, count in zip(
        pixels.split([len(CHARACTERS) * count for count in counts]), counts, strict=True
    ):
        parts.append(Images(part, torch.arange(len(CHARACTERS)).repeat_interleave(count)))
    return *parts, fingerprint


def _draw(faces: tuple[str, ...], count: int, style: Style, generator: torch.Generator) -> Tensor:
    """`count` images of each class, class by class, the typefaces taking turns."""
    sheet = rasters(CHARACTERS, faces, in_proportion=True)
    glyphs = sheet[:, torch.arange(count) % len(faces)].flatten(0, 1)
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
