"""Images that take no drawing: each class a colour of its own, in noise, in class folders."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def coloured_folders(root: Path, classes: int, each: Mapping[str, int], noise: float) -> Path:
    """`root`/PART/classK/N.png of 32 px, `each` says how many images a part has of a class."""
    draw = np.random.default_rng(0)
    for k in range(classes):
        base = draw.integers(60, 200, 3)
        for part, count in each.items():
            folder = root / part / f"class{k}"
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = np.clip(base + draw.normal(0, noise, (32, 32, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")
    return root
