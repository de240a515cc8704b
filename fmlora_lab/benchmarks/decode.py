"""Image files of any kind to square RGB, all of them or one error that lists the bad ones."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fmlora_lab import progress
from fmlora_lab.config import BadInput

DECODER = 1
"""Raised when `decode` gives other pixels than before, so that old caches are not used."""

BAR_AFTER = 2.0
"""Seconds of decoding after which a progress bar appears."""

LISTED = 20
"""Unreadable files that an error names; it counts the rest."""


def decode(path: Path | str, size: int) -> np.ndarray:
    """The upright image as uint8 (3, size, size): short side resized, then centre-cropped.

    Raises whatever Pillow raises where the file is not a whole image.
    """
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    square = ImageOps.fit(_rgb(upright), (size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def decode_all(root: Path, files: list[str], size: int) -> Iterator[np.ndarray]:
    """Decode `files` in order, on all cores, each as uint8 (3, size, size).

    BadInput, once every file has been tried, lists those under `root` that cannot be read.
    """
    unreadable = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        outcomes = progress.bar(
            pool.map(partial(_attempt, size=size), files),
            desc="decoding images",
            total=len(files),
            unit="image",
            delay=BAR_AFTER,
        )
        for path, outcome in zip(files, outcomes, strict=True):
            if isinstance(outcome, str):
                unreadable.append(f"{Path(path).relative_to(root)} ({outcome})")
            else:
                yield outcome
    finally:
        # Without this an interrupt would wait until the whole queue is decoded.
        pool.shutdown(cancel_futures=True)
    if unreadable:
        more = f"; and {len(unreadable) - LISTED} more" if len(unreadable) > LISTED else ""
        raise BadInput(
            f"{len(unreadable)} of {len(files)} images under {root} cannot be read: "
            f"{'; '.join(unreadable[:LISTED])}{more}"
        )


def _attempt(path: str, size: int) -> np.ndarray | str:
    """The decoded image, or why there is none."""
    try:
        if os.stat(path).st_size == 0:
            return "the file is empty"
        return decode(path, size)
    except UnidentifiedImageError:
        return "not an image that Pillow knows"
    except OSError as error:
        return error.strerror or str(error)
    except Exception as error:  # damaged bytes raise nearly any type inside Pillow
        return str(error) or type(error).__name__


def _rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB; transparency shows a white ground."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        # Pillow's own conversion of 16-bit grey to 8 bits has clipped at 255.
        grey = np.asarray(image, np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("grey values outside 16 bits have no known range")
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
