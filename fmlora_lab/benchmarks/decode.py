"""Image files of any kind to square RGB, all of them or one error that lists the bad ones."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fmlora_lab import progress, threads
from fmlora_lab.config import BadInput, some

DECODER = 1
"""Raised when `decode` gives other pixels than before, so that old caches are not used."""

BAR_AFTER = 2.0
"""Seconds of decoding after which a progress bar appears."""

LISTED = 20
"""Unreadable files that an error names; it counts the rest."""


LOSSES = {
    "frames": "hold several images, of which the first alone is read",
    "bands": "have more than three colours and transparency, of which the first three are read",
    "dark": "use at most a sixteenth of the range of their 16 bits, so that they are nearly black",
    "blank": "are of one colour on white, since all that they show is in their transparency",
}
"""What images may lose on their way to three channels of 8 bits, as it is said of them."""


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

    BadInput, once every file has been tried, lists those under `root` that cannot be read. What
    others lose (`LOSSES`) is said on stderr.
    """
    start = os.path.join(root, "")
    unreadable: list[str] = []
    losing: dict[str, list[str]] = {}
    pool = ThreadPoolExecutor(threads.cores())
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
                unreadable.append(f"{path.removeprefix(start)} ({outcome})")
            else:
                square, losses = outcome
                for loss in losses:
                    losing.setdefault(loss, []).append(path.removeprefix(start))
                yield square
    finally:
        # Without this an interrupt would wait until the whole queue is decoded.
        pool.shutdown(cancel_futures=True)
    if unreadable:
        more = f"; and {len(unreadable) - LISTED} more" if len(unreadable) > LISTED else ""
        raise BadInput(
            f"{len(unreadable)} of {len(files)} images under {root} cannot be read: "
            f"{'; '.join(unreadable[:LISTED])}{more}"
        )
    for loss, places in losing.items():
        progress.once(
            f"{len(places)} of {len(files)} images under {root} {LOSSES[loss]}: {some(places)}"
        )


def _attempt(path: str, size: int) -> tuple[np.ndarray, list[str]] | str:
    """The decoded image and what it has lost, or why there is none."""
    try:
        if os.stat(path).st_size == 0:
            return "the file is empty"
        square = decode(path, size)
        return square, _losses(path, square)
    except UnidentifiedImageError:
        return "not an image that Pillow knows"
    except OSError as error:
        return error.strerror or str(error)
    except Exception as error:  # damaged bytes raise nearly any type inside Pillow
        return str(error) or type(error).__name__


def _losses(path: str, square: np.ndarray) -> list[str]:
    """Of `LOSSES`, those of an image that was decoded to `square`."""
    with Image.open(path) as image:
        raw = str(image.tile[0][3]) if image.tile else ""
        found = {
            "frames": _has_more(image),
            "bands": image.format == "TIFF" and "X" in raw,
            "dark": square.max() < 64 and _is_dark(image, raw),
            "blank": image.has_transparency_data and np.ptp(square) == 0 and _hides(image),
        }
    return [loss for loss, there in found.items() if there]


def _has_more(image: Image.Image) -> bool:
    """Whether more than one image is meant. What phones add to a photo (MPO) is not."""
    try:
        return image.format not in ("MPO", "PSD") and getattr(image, "is_animated", False)
    except Exception:  # a damaged second one
        return True


def _is_dark(image: Image.Image, raw: str) -> bool:
    """Whether a picture of 16 bits has 12 of them or less; of colours Pillow reads the upper 8."""
    grey = image.mode.startswith("I")
    return (grey or ";16" in raw) and np.asarray(image).max() < (4096 if grey else 16)


def _hides(image: Image.Image) -> bool:
    """Whether a picture is of one colour on white without being so itself."""

    def flat(picture: Image.Image) -> bool:
        return all(low == high for low, high in np.reshape(picture.getextrema(), (-1, 2)))

    return flat(_rgb(image)) and not flat(image.convert("RGBA"))


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
