"""Folders of images of one colour, which resizing keeps exactly: a pixel of a stream tells which
file it came from."""

from pathlib import Path

import pytest
from PIL import Image

from fmlora_lab.benchmarks import load
from fmlora_lab.benchmarks.stream import Images, Stream
from fmlora_lab.config import BadInput, Domains, Folder

SIZE = 8
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
Colour = tuple[int, int, int]


def write(path: Path, colour: Colour, **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 12), colour).save(path, **how)
    return path


def colour_of(role: int, label: int, number: int) -> Colour:
    return role * 50, label * 50, number * 10


def make_folders(root: Path, classes=("ant", "bee", "cat", "dog"), train=6, test=4) -> Path:
    for role, (part, count) in enumerate((("train", train), ("test", test))):
        for label, name in enumerate(classes):
            for k in range(count):
                write(root / part / name / f"{k}.png", colour_of(role, label, k))
    return root


def make_domains(root: Path, domains=("photo", "quick", "sketch"), classes=2, count=10) -> Path:
    for role, domain in enumerate(domains):
        for label in range(classes):
            for k in range(count):
                write(root / domain / f"class{label}" / f"{k}.png", colour_of(role, label, k))
    return root


def folder(root: Path, size=SIZE, order_seed=0, data_seed=0, **settings) -> Stream:
    settings = {"tasks": 1, **settings}
    return load(Folder(data=root, **settings), size, order_seed, data_seed)


def domains(root: Path, order_seed=0, data_seed=0, **settings) -> Stream:
    return load(Domains(data=root, **settings), SIZE, order_seed, data_seed)


def colours(images: Images) -> list[Colour]:
    """The colour of each image, all of whose pixels must agree."""
    flat = images.pixels.flatten(2)
    assert (flat == flat[..., :1]).all()
    return [tuple(pixel) for pixel in flat[..., 0].tolist()]


def drawn(stream: Stream, part: str, name: str) -> list[Colour]:
    """The colours of all images of one class."""
    label = stream.class_names.index(name)
    found = [getattr(task, part) for task in stream.tasks]
    return [c for images in found for c in colours(images[images.labels == label])]


def error(load_it, *args, **settings) -> str:
    with pytest.raises(BadInput) as caught:
        load_it(*args, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message
