"""How long it takes to be told the names of many runs over a large folder of images.

The first time, images are decoded and their fingerprint is noted; from then on a name costs a look
at the folder. A fresh process looks once at every file, this one only at the folders.
"""

import itertools
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from fmlora_lab.config import RunConfig
from fmlora_lab.methods.registry import in_order
from fmlora_lab.profiles import configure
from fmlora_lab.runs.identity import identity

CLASSES = 100
CONFIGURATIONS = 500
SIDE = 4
"""Pixels of a side: what is measured does not depend on what is in a file."""


def bench(images: int) -> dict[str, Any]:
    """Seconds for the names of 500 configurations over a folder of that many images.

    `first_seconds` includes reading every image, `again_seconds` is the same question once more,
    `fresh_seconds` the same in a new process when its imports are done. The folder and its cache
    are temporary.
    """
    with (
        TemporaryDirectory() as folder,
        patch.dict(os.environ, FMLORA_CACHE=str(Path(folder, "cache"))),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh,
    ):
        data = Path(folder, "images")
        made, configs = make_folder(data, images), configurations(data)
        first, names = timed(configs)
        again, others = timed(configs)
        there, rest = fresh.submit(timed, configs).result()
    assert names == others == rest
    return {
        "images": made,
        "classes": CLASSES,
        "configurations": len(names),
        "first_seconds": round(first, 3),
        "again_seconds": round(again, 3),
        "fresh_seconds": round(there, 3),
    }


def to_text(found: dict[str, Any]) -> str:
    """The measurement in a few lines."""
    return (
        f"{found['configurations']} names over {found['images']:,} images in {found['classes']} "
        "classes, in seconds\n"
        f"first time, images read  {found['first_seconds']:>8.2f}\n"
        f"again                    {found['again_seconds']:>8.2f}\n"
        f"in a fresh process       {found['fresh_seconds']:>8.2f}"
    )


def make_folder(data: Path, images: int) -> int:
    """Fill `data` with about that many images, a fifth of each class for testing; how many."""
    each = images // CLASSES
    test = max(1, each // 5)
    numbers = itertools.count()
    for label in range(CLASSES):
        for part, count in (("train", each - test), ("test", test)):
            folder = data / part / f"class{label:03d}"
            folder.mkdir(parents=True)
            for k in range(count):
                pixels = next(numbers).to_bytes(4, "little").ljust(3 * SIDE * SIDE, b"\0")
                (folder / f"{k:05d}.ppm").write_bytes(b"P6 %d %d 255\n" % (SIDE, SIDE) + pixels)
    return CLASSES * each


def timed(configs: list[RunConfig]) -> tuple[float, list[str]]:
    """Seconds to be told the names, and the names."""
    began = time.perf_counter()
    names = [identity(config) for config in configs]
    return time.perf_counter() - began, names


def configurations(data: Path) -> list[RunConfig]:
    """500 that differ in method, seed, order and a setting, over one folder."""
    axes = {
        "benchmark.tasks": (5, 10, 20),
        "seed": range(4),
        "order_seed": range(5),
        "training.lr_head": (1e-3, 5e-3, 1e-2),
    }
    fixed = {"benchmark.data": data}
    return [
        configure(method, "folder", "demo", fixed | dict(zip(axes, point, strict=True)))
        for method, *point in itertools.islice(
            itertools.product(in_order(), *axes.values()), CONFIGURATIONS
        )
    ]
