"""Data sets one after another, each with classes and texts of its own: MTIL and X-TAIL.

    <data>/<dataset>/{train,test}/<class>/*

The eleven names, their orders and what is said of an image of each are those of Zheng et al. 2023,
"Preventing Zero-Shot Transfer Degradation in Continual Learning of Vision-Language Models", ICCV,
arXiv 2303.06628 (ZSCL); templates are the first of CLIP's for each. Any other name is a data set
like these, of which it is said that it is a photo. X-TAIL (Xu et al. 2024, arXiv 2410.21088) has
the same stream with the task unknown.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fmlora_lab.benchmarks.folders import Selection, select_files
from fmlora_lab.benchmarks.stream import Images, Stream, of_domains
from fmlora_lab.config import BadInput, Folder, Mtil, some

DATASETS = {
    "aircraft": ("a photo of a {}, a type of aircraft.",),
    "caltech101": ("a photo of a {}.", "itap of a {}."),
    "cifar100": ("a photo of a {}.", "a blurry photo of a {}."),
    "dtd": ("a photo of a {} texture.", "a photo of a {} pattern."),
    "eurosat": ("a centered satellite photo of {}.", "a centered satellite photo of the {}."),
    "flowers": ("a photo of a {}, a type of flower.",),
    "food": ("a photo of {}, a type of food.",),
    "mnist": ('a photo of the number: "{}".',),
    "oxford_pet": ("a photo of a {}, a type of pet.",),
    "stanford_cars": ("a photo of a {}.", "a photo of my new {}."),
    "sun397": ("a photo of a {}.", "a photo of the {}."),
}
"""Templates by data set, in the first order, which is alphabetical."""
SECOND = (
    *("stanford_cars", "food", "mnist", "oxford_pet", "flowers", "sun397", "aircraft"),
    *("caltech101", "dtd", "eurosat", "cifar100"),
)


def select_mtil(settings: Mtil, data_seed: int) -> dict[str, Selection]:
    """The files of every data set that is there, by its name, in the first order. BadInput where
    there are none, or one is laid out otherwise."""
    root = settings.data.expanduser()
    there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if len(there) < 2:
        raise BadInput(
            f"benchmark.data is {root}; expected are the folders of two or more data sets, each "
            f"with train and test in it, named such as {some(list(DATASETS), 3)}"
        )
    place = list(DATASETS)
    there.sort(key=lambda name: (place.index(name) if name in DATASETS else len(place), name))
    return {
        name: select_files(
            Folder(
                data=root / name,
                train_images=settings.train_images,
                test_images=settings.test_images,
            ),
            data_seed,
        )
        for name in there
    }


def load_mtil(settings: Mtil, image_size: int, order_seed: int, data_seed: int) -> Stream:
    """The stream: a task a data set."""
    chosen = select_mtil(settings, data_seed)
    domains: list[tuple[str, Sequence[str], Images, Images]] = []
    marks = {}
    for name, selection in chosen.items():
        images, mark = selection.images(image_size)
        marks[name] = mark
        domains.append((name, selection.names, images["train"], images["test"]))
    order = ordered(settings.order, tuple(chosen))
    return of_domains("mtil", domains, order_seed, joined(marks), order, DATASETS)


def ordered(
    order: int | str | Sequence[str | int], there: Sequence[str]
) -> str | Sequence[str | int]:
    """An order with its names, where it is a published one by number: what is there of it, and then
    what it does not name."""
    if not isinstance(order, int):
        return order
    named = tuple(DATASETS) if order == 1 else SECOND
    return (*(n for n in named if n in there), *(n for n in there if n not in named))


def joined(marks: Mapping[str, str]) -> str:
    """One fingerprint of several data sets' by their names, which say how their classes are put
    into words."""
    said = [[name, DATASETS.get(name), mark] for name, mark in marks.items()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def watched(chosen: dict[str, Selection], root: Path) -> list[str]:
    """Every folder in which a file could be added or lost."""
    return sorted({str(root), *(place for own in chosen.values() for place in own.watched())})
