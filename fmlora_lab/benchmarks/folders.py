"""Images of one's own: class folders and domain folders, cut into a stream of tasks.

Which images are drawn for a class depends on `data_seed`, the class and its files alone, so
that another class, or another cap, moves none of them.
"""

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fmlora_lab.benchmarks.cache import decoded_once, digest_of
from fmlora_lab.benchmarks.stream import (
    Images,
    Stream,
    class_incremental,
    content_fingerprint,
    domain_incremental,
    stratified,
)
from fmlora_lab.config import BadInput, Domains, Folder

Chosen = dict[str, list[list[str]]]
"""For every role ("train", or "sketch/test") the files of each class, classes in order. Files are
plain strings: making tens of thousands of Path objects takes longer than looking at the files."""


@dataclass(frozen=True)
class Selection:
    """The files that a stream is made of, chosen without reading any of them."""

    root: Path
    chosen: Chosen
    names: tuple[str, ...]
    """Of the classes."""

    @property
    def files(self) -> list[str]:
        return [file for classes in self.chosen.values() for group in classes for file in group]

    def folders(self) -> list[str]:
        """Every folder in which a file could be added or lost."""
        inner = {Path(folder) for folder in {file.rpartition(os.sep)[0] for file in self.files}}
        outer = {parent for folder in inner for parent in folder.parents}
        every = inner | {parent for parent in outer if parent.is_relative_to(self.root)}
        return sorted(map(str, every))

    def fingerprint(self, size: int) -> str:
        """The stream's at this size; decodes only what never was."""
        return self._fingerprint(digest_of(self.root, self.files, size))

    def images(self, size: int) -> tuple[dict[str, Images], str]:
        """The images of every role, and the fingerprint of pixels, labels, names and roles."""
        pixels, digest = decoded_once(self.root, self.files, size)
        images, start = {}, 0
        for role, sizes in self._counts().items():
            labels = torch.arange(len(self.names)).repeat_interleave(torch.tensor(sizes))
            images[role] = Images(pixels, labels, torch.arange(start, start + len(labels)))
            start += len(labels)
        return images, self._fingerprint(digest)

    def stream(
        self,
        name: str,
        tasks: int | str | Sequence[int] | None,
        size: int,
        order_seed: int,
        order: str | Sequence[str | int] = "drawn",
    ) -> Stream:
        """The stream of these images, square at `size`: classes cut into `tasks`, or (None) a task
        a domain. BadInput where images cannot be read."""
        images, mark = self.images(size)
        if tasks is not None:
            train, test = images["train"], images["test"]
            return class_incremental(
                name, train, test, self.names, tasks, order_seed, mark, order=order
            )
        cut = [(d, images[f"{d}/train"], images[f"{d}/test"]) for d in self.domains]
        return domain_incremental(name, cut, self.names, order_seed, mark, order)

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(role.rpartition("/")[0] for role in self.chosen))

    def _counts(self) -> dict[str, list[int]]:
        return {role: [len(group) for group in classes] for role, classes in self.chosen.items()}

    def _fingerprint(self, digest: str) -> str:
        return content_fingerprint(digest, json.dumps([self.names, self._counts()]))


SIDECARS = (".txt", ".json", ".csv", ".md", ".db", ".ini")
"""Files that lie beside images and are not meant as images. Any other must be one."""


def select_folder(settings: Folder, data_seed: int) -> Selection:
    """Files of `<data>/{train,test}/<class>/*`.

    BadInput where the folders are not laid out so.
    """
    root = settings.data.expanduser()
    expected = f"{root}/{{train,test}}/<class>/*"
    for role in ("train", "test"):
        if not (root / role).is_dir():
            raise BadInput(f"there is no folder {root / role}; expected is {expected}")
    names = _common_classes([root / "train", root / "test"], expected)
    chosen: Chosen = {
        role: [draw(images_in(root / role / name, 1), cap, data_seed, role, name) for name in names]
        for role, cap in (("train", settings.train_images), ("test", settings.test_images))
    }
    return Selection(root, chosen, names)


def select_domains(settings: Domains, data_seed: int) -> Selection:
    """Files of `<data>/<domain>/<class>/*`.

    `test_share` of every class of every domain is held out first; the caps draw from what is on
    either side. BadInput as for `select_folder`.
    """
    root = settings.data.expanduser()
    expected = f"{root}/<domain>/<class>/*"
    domains = _subfolders(root) if root.is_dir() else []
    if not domains:
        raise BadInput(f"there are no domain folders in {root}; expected is {expected}")
    names = _common_classes([root / domain for domain in domains], expected)
    caps = {"train": settings.train_images, "test": settings.test_images}
    chosen: Chosen = {f"{domain}/{role}": [] for domain in domains for role in caps}
    for domain in domains:
        for name in names:
            files = images_in(root / domain / name, 2)
            halves = _split(files, settings.test_share, data_seed, domain, name)
            for (role, cap), half in zip(caps.items(), halves, strict=True):
                chosen[f"{domain}/{role}"].append(draw(half, cap, data_seed, role, domain, name))
    return Selection(root, chosen, names)


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


def images_in(folder: Path, at_least: int) -> list[str]:
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
            if not entry.name.lower().endswith(SIDECARS):
                names.append(entry.name)
    if len(names) < at_least:
        raise BadInput(f"{folder} holds {len(names)} images; expected is at least {at_least}")
    start = os.path.join(folder, "")
    return [start + name for name in sorted(names)]


def draw(files: list[str], cap: int | None, data_seed: int, *purpose: str) -> list[str]:
    """At most `cap` of `files`, in their order; a larger cap keeps what a smaller one drew."""
    order = _generator(data_seed, *purpose).permutation(len(files))
    return [files[k] for k in sorted(order[:cap])]


def _split(
    files: list[str], share: float, data_seed: int, domain: str, name: str
) -> tuple[list[str], list[str]]:
    """The files of one class to train on, and the `share` of them that is held out."""
    drawn = _generator(data_seed, "split", domain, name).integers(2**63)
    seed = torch.Generator().manual_seed(int(drawn))
    held_out = stratified(torch.zeros(len(files)), share, seed).tolist()
    train = [file for file, held in zip(files, held_out, strict=True) if not held]
    test = [file for file, held in zip(files, held_out, strict=True) if held]
    return train, test


def _generator(data_seed: int, *purpose: str) -> np.random.Generator:
    """A generator of this purpose alone, so that no draw depends on another."""
    return np.random.default_rng([data_seed, zlib.crc32(os.fsencode("\n".join(purpose)))])
