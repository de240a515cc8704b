"""Small images in class folders, and configurations on them that train in a second."""

import numpy as np
import pytest
from PIL import Image

from fmlora_lab import configure


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Four classes of coloured noise, in class folders."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 3)):
        for k in range(4):
            folder = root / part / f"class{k}"
            folder.mkdir(parents=True)
            base = rng.integers(60, 200, 3)
            for n in range(count):
                pixels = np.clip(base + rng.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{n}.png")
    return root


@pytest.fixture
def small(images):
    """`small(method, **overrides)`: a configuration of two tasks that trains in a second."""

    def make(method="fm-lora", **overrides):
        fixed = {"benchmark.data": images, "benchmark.tasks": 2, "training.epochs": 3}
        return configure(method, "folder", "smoke", {**fixed, **overrides})

    return make
