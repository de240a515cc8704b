"""The test images of a stored run, for explorers that show them: they are not kept with a run.

Glyphs draws its own; those of a folder must be where the run's configuration says. This needs
torch, and is imported when images are asked for.
"""

import base64
import io
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fmlora_lab.benchmarks.stream import Stream
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.runs.run import stream_of_run, tower_of_run
from fmlora_lab.runs.stored import Run

SHOWN = 96
"""Pixels to which the side of an image is reduced."""


@dataclass
class TestImages:
    """Of a run's n test images, task after task: `labels` (n,) and `tasks` (n,), both from 0, the
    tasks' `classes` and all `names`."""

    __test__ = False  # to pytest, which its name would tell otherwise
    labels: NDArray[np.int64]
    tasks: NDArray[np.int64]
    classes: list[range]
    names: list[str]
    stream: Stream
    _drawn: dict[int, str] = field(default_factory=dict)

    def address(self, image: int) -> str:
        """An image as the address of a PNG that holds it."""
        if image not in self._drawn:
            self._drawn[image] = self._draw(image)
        return self._drawn[image]

    def pixels(self, image: int) -> NDArray[np.uint8]:
        """An image, (H, W, 3)."""
        task = int(self.tasks[image])
        own = image - int(np.searchsorted(self.tasks, task))
        chosen = self.stream.tasks[task].test[torch.tensor([own])]
        return chosen.pixels[0].permute(1, 2, 0).numpy()

    def _draw(self, image: int) -> str:
        picture = Image.fromarray(self.pixels(image))
        picture.thumbnail((SHOWN, SHOWN))
        out = io.BytesIO()
        picture.save(out, "png")
        return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


@lru_cache(4)
def images_of(run: Run) -> TestImages:
    """BadInput where the images are not there, or are not those that the run was tested on."""
    config = RunConfig.model_validate(run.config)
    try:
        drawn = config.benchmark.name in ("glyphs", "glyph-domains")  # at one size alone
        size = 32 if drawn else tower_of_run(config).image_size
        stream = stream_of_run(config, size)
    except BadInput as lacking:
        raise BadInput(f"the test images of run {run.id} are not here: {lacking}") from lacking
    if stream.fingerprint != run.environment["data"]:
        raise BadInput(f"run {run.id} was tested on other images than there are today")
    counts = [len(task.test) for task in stream.tasks]
    return TestImages(
        labels=np.concatenate([task.test.labels.numpy() for task in stream.tasks]),
        tasks=np.repeat(np.arange(len(counts)), counts),
        classes=[task.classes for task in stream.tasks],
        names=list(stream.class_names),
        stream=stream,
    )
