"""Images are shown under their own names."""

import numpy as np
import pytest
from reading import title

from fmlora_lab import plots

pytestmark = pytest.mark.unit


def test_the_stream_shows_one_image_of_each_class():
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), np.uint8)
    tasks = [("letters", pixels, np.array([1, 1, 0, 0, 1, 0])), ("digits", pixels, np.full(6, 2))]
    figure = plots.stream_samples(tasks, ["a", "b", "7"])
    shown = {
        axis.get_title(): int(axis.images[0].get_array()[0, 0, 0])
        for axis in figure.axes
        if axis.images
    }
    assert shown == {"a": 2, "b": 0, "7": 0}
    said = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert said == ["task 1\nletters", "task 2\ndigits"]
    assert "new classes" in title(figure)
    again = plots.stream_samples([tasks[0], tasks[0]], ["a", "b", "7"])
    assert "same classes" in title(again)
