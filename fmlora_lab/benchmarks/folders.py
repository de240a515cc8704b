"""Images of one's own: class folders and domain folders, cut into a stream of tasks.

Which images are drawn for a class depends on `data_seed`, the class and its files alone, so
that another class, or another cap, moves none of them.
"""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from fmlora_lab.benchmarks.pixel_cache import decoded_once
from fmlora_lab.benchmarks.stream import (
    Images,
    Stream,
    check_tasks,
    class_incremental,
    content_fingerprint,
    domain_incremental,
    stratified,
)
from fmlora_lab.config import BadInput, Domains, Folder

Chosen = dict[str, list[list[Path]]]
"""For every role ("train", or "sketch/test") the files of each class, classes in order."""

SIDECARS = {".txt", ".json", ".csv", ".md", ".db", ".ini"}
"""Files that lie beside images and are not meant as images. Any other must be one."""


def load_folder(settings: Folder, image_size: int, order_seed: int, data_seed: int) -> Stream:
    """Class-incremental stream of `<data>/{train,test}/<class>/*`, square at `image_size`.

    BadInput where the folders are not laid out so, or where images cannot be read.
    """
    root = settings.data.expanduser()
    expected = f"{root}/{{train,test}}/<class>/*"
    for role in ("train", "test"):
        if not (root / role).is_dir():
            raise BadInput(f"there is no folder {root / role}; expected is {expected}")
    names = _common_classes([root / "train", root / "test"], expected)
    check_tasks(settings.tasks, len(names))
    chosen: Chosen = {
        role: [
            draw(images_in(root / role / name, 1), cap, purpose_generator(data_seed, role, name))
            for name in names
        ]
        for role, cap in (("train", settings.train_images), ("test", settings.test_images))
    }
    images, fingerprint = read(root, chosen, names, image_size)
    return class_incremental(
        settings.name,
        images["train"],
        images["test"],
        names,
        settings.tasks,
        order_seed,
        fingerprint,
    )


def load_domains(settings: Domains, image_size: int, order_seed: int, data_seed: int) -> Stream:
    """Domain-incremental stream of `<data>/<domain>/<class>/*`, square at `image_size`.

    `test_share` of every class of every domain is held out first; the caps draw from what is on
    either side. BadInput as for `load_folder`.
    """
    root = settings.data.expanduser()
    expected = f"{root}/<domain>/<class>/*"
    domains = _subfolders(root) if root.is_dir() else []
    if not domains:
        raise BadInput(f"there are no domain folders in {root}; expected is {expected}")
    names = _common_classes([root / domain for domain in domains], expected)
    chosen: Chosen = {}
    for domain in domains:
        halves = []
        for name in names:
            files = images_in(root / domain / name, 2)
            halves.append(
                _split(
                    files, settings.test_share, purpose_generator(data_seed, "split", domain, name)
                )
            )
        for side, role, cap in (
            (0, "train", settings.train_images),
            (1, "test", settings.test_images),
        ):
            chosen[f"{domain}/{role}"] = [
                draw(half[side], cap, purpose_generator(data_seed, role, domain, name))
                for name, half in zip(names, halves, strict=True)
            ]
    images, fingerprint = read(root, chosen, names, image_size)
    tasks = [(domain, images[f"{domain}/train"], images[f"{domain}/test"]) for domain in domains]
    return domain_incremental(settings.name, tasks, names, order_seed, fingerprint)


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _common_classes(folders: list[Path], expected: str) -> tuple[str, ...]:
    """The names of the class folders, which must be the same in each of `folders`."""
    first = folders[0]
    names = _subfolders(first)
    if len(names) < 2:
        raise BadInput(
            f"{first} has {len(names)} class folders, at least 2 are needed; expected is {expected}"
        )
    for other in folders[1:]:
        found = set(_subfolders(other))
        for here, there, lonely in (
            (first, other, sorted(set(names) - found)),
            (other, first, sorted(found - set(names))),
        ):
            if lonely:
                more = f" and {len(lonely) - 5} more" if len(lonely) > 5 else ""
                raise BadInput(
                    f"{here} and {there} must hold the same class folders, but only {here} has "
                    f"{', '.join(lonely[:5])}{more}; expected is {expected}"
                )
    return tuple(names)


def images_in(folder: Path, at_least: int) -> list[Path]:
    """The image files of a class folder, sorted by name."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                raise BadInput(
                    f"{entry.path} is a folder; expected are image files directly in {folder}"
                )
            if Path(entry.name).suffix.lower() not in SIDECARS:
                names.append(entry.name)
    if len(names) < at_least:
        raise BadInput(f"{folder} holds {len(names)} images; expected is at least {at_least}")
    return [folder / name for name in sorted(names)]


def purpose_generator(data_seed: int, *purpose: str) -> np.random.Generator:
    """A generator of this purpose alone, so that no draw depends on another."""
    return np.random.default_rng([data_seed, zlib.crc32(os.fsencode("\n".join(purpose)))])


def draw(files: list[Path], cap: int | None, generator: np.random.Generator) -> list[Path]:
    """At most `cap` of `files`, in their order; a larger cap keeps what a smaller one drew."""
    return [files[k] for k in sorted(generator.permutation(len(files))[:cap])]


def _split(
    files: list[Path], share: float, generator: np.random.Generator
) -> tuple[list[Path], list[Path]]:
    """The files of one class to train on, and the `share` of them that is held out."""
    seed = torch.Generator().manual_seed(int(generator.integers(2**63)))
    held_out = stratified(torch.zeros(len(files)), share, seed).tolist()
    train = [file for file, held in zip(files, held_out, strict=True) if not held]
    test = [file for file, held in zip(files, held_out, strict=True) if held]
    return train, test


def read(
    root: Path, chosen: Chosen, names: tuple[str, ...], size: int
) -> tuple[dict[str, Images], str]:
    """The images of every role, and the fingerprint of pixels, labels, names and roles."""
    files = [file for classes in chosen.values() for group in classes for file in group]
    pixels, digest = decoded_once(root, files, size)
    counts = {role: [len(group) for group in classes] for role, classes in chosen.items()}
    images, start = {}, 0
    for role, sizes in counts.items():
        labels = torch.arange(len(names)).repeat_interleave(torch.tensor(sizes))
        images[role] = Images(pixels[start : start + len(labels)], labels)
        start += len(labels)
    return images, content_fingerprint(digest, json.dumps([names, counts]))
