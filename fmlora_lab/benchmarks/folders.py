"""Images of one's own, in folders or in a list of files, cut into a stream of tasks.

Which images are drawn for a class depends on `data_seed`, the class and its files alone, so
that another class, or another cap, moves none of them.
"""

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from fmlora_lab import progress
from fmlora_lab.benchmarks.cache import decoded_once, digest_of
from fmlora_lab.benchmarks.layout import (
    ALL,
    Layout,
    Part,
    Seen,
    nfc,
    of_domains,
    of_folder,
)
from fmlora_lab.benchmarks.listed import of_list
from fmlora_lab.benchmarks.stream import (
    Images,
    Stream,
    class_incremental,
    content_fingerprint,
    domain_incremental,
    stratified,
)
from fmlora_lab.config import BadInput, Domains, Folder, some

Chosen = dict[str, list[list[str]]]
"""For every role ("train", or "sketch/test") the files of each class, classes in order. Files are
plain strings: making tens of thousands of Path objects takes longer than looking at the files."""

LISTS = (".csv", ".tsv")
"""Suffixes of a file of paths and labels."""


@dataclass(frozen=True)
class Selection:
    """The files that a stream is made of, chosen without reading any of them."""

    root: Path
    chosen: Chosen
    names: tuple[str, ...]
    """Of the classes."""
    seen: Seen = field(default_factory=Seen)

    @property
    def files(self) -> list[str]:
        return [file for classes in self.chosen.values() for group in classes for file in group]

    def watched(self) -> list[str]:
        """Every folder in which a file could be added or lost, and the sources."""
        inner = {Path(folder) for folder in {file.rpartition(os.sep)[0] for file in self.files}}
        outer = {parent for folder in inner for parent in folder.parents}
        every = inner | {parent for parent in outer if parent.is_relative_to(self.root)}
        return sorted({*map(str, every), *map(str, self.seen.sources)})

    def fingerprint(self, size: int) -> str:
        """The stream's at this size; decodes only what never was."""
        return self._fingerprint(digest_of(self.root, self.files, size))

    def images(self, size: int) -> tuple[dict[str, Images], str]:
        """The images of every role, and the fingerprint of pixels, labels, names and roles."""
        pixels, digest = decoded_once(self.root, self.files, size)
        images, start = {}, 0
        for role, sizes in self.counts().items():
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
            train, test, validation = images["train"], images["test"], images.get("validation")
            return class_incremental(
                name, train, test, self.names, tasks, order_seed, mark, validation, order
            )
        domains: dict[str, list[Images]] = {}
        for role, own in images.items():
            domains.setdefault(role.rpartition("/")[0], []).append(own)
        cut = [(domain, *own) for domain, own in domains.items()]
        return domain_incremental(name, cut, self.names, order_seed, mark, order)

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(role.rpartition("/")[0] for role in self.chosen))

    def counts(self) -> dict[str, list[int]]:
        """The images of each class, by role."""
        return {role: [len(group) for group in classes] for role, classes in self.chosen.items()}

    def _fingerprint(self, digest: str) -> str:
        for note in self.seen.notes:  # nothing was refused
            progress.once(note)
        return content_fingerprint(digest, json.dumps([self.names, self.counts()]))


def select_files(
    settings: Folder | Domains, data_seed: int, with_validation: bool = False
) -> Selection:
    """The files in folders or in a CSV: the split that is there, or `test_share` of every class (of
    every domain) held out. The caps draw from what is on either side.

    Validation images, where there are such beside test images, are taken only `with_validation`.
    BadInput where the images are laid out otherwise.
    """
    root, by_domain = settings.data.expanduser(), isinstance(settings, Domains)
    if root.suffix.lower() in LISTS and not os.path.isdir(root):
        layout = of_list(root, by_domain, with_validation)
    elif os.path.isfile(root):
        raise BadInput(
            f"benchmark.data is the file {root}; expected is a folder (unpack archives), or a "
            f"file of paths and labels that ends in {' or '.join(LISTS)}"
        )
    else:
        layout = (of_domains if by_domain else of_folder)(root, with_validation)
    names = layout.names()
    _check_share(settings, layout, names)
    chosen: Chosen = {}
    for at, parts in layout.parts.items():
        for name in names:
            for role, files in _of_class(parts, name, settings.test_share, data_seed, at).items():
                cap = settings.train_images if role == "train" else settings.test_images
                drawn = draw(files, cap, data_seed, role, *at, name)
                chosen.setdefault("/".join((*at, role)), []).append(drawn)
    return Selection(layout.root, chosen, names, layout.seen)


def _of_class(
    parts: dict[str, Part], name: str, share: float, data_seed: int, at: tuple[str, ...]
) -> dict[str, list[str]]:
    """The files of one class (of the domain `at`) by role."""
    if ALL not in parts:
        return {role: part.files(nfc(name), 1) for role, part in parts.items()}
    train, test = _split(parts[ALL].files(nfc(name), 2), share, data_seed, *at, name)
    return {"train": train, "test": test}


def _check_share(settings: Folder | Domains, layout: Layout, names: tuple[str, ...]) -> None:
    """Note what is held out; BadInput where nothing has to be, but a share was asked for."""
    share, default = settings.test_share, type(settings).model_fields["test_share"].default
    if ALL in next(iter(layout.parts.values())):
        layout.seen.notes.append(
            f"{settings.data} is not split: {share:.0%} of the images of each of its "
            f"{len(names)} classes ({some(list(names))}) are held out for testing, by data_seed "
            "(benchmark.test_share)"
        )
    elif share != default:
        raise BadInput(
            f"benchmark.test_share is {share}, but {settings.data} has test images of its own; "
            "leave the setting out"
        )


def draw(files: list[str], cap: int | None, data_seed: int, *purpose: str) -> list[str]:
    """At most `cap` of `files`, in their order; a larger cap keeps what a smaller one drew."""
    order = _generator(data_seed, *purpose).permutation(len(files))
    return [files[k] for k in sorted(order[:cap])]


def _split(
    files: list[str], share: float, data_seed: int, *purpose: str
) -> tuple[list[str], list[str]]:
    """The files of one class to train on, and the `share` of them that is held out."""
    drawn = _generator(data_seed, "split", *purpose).integers(2**63)
    seed = torch.Generator().manual_seed(int(drawn))
    held_out = stratified(torch.zeros(len(files)), share, seed).tolist()
    train = [file for file, held in zip(files, held_out, strict=True) if not held]
    test = [file for file, held in zip(files, held_out, strict=True) if held]
    return train, test


def _generator(data_seed: int, *purpose: str) -> np.random.Generator:
    """A generator of this purpose alone, so that no draw depends on another."""
    return np.random.default_rng([data_seed, zlib.crc32(os.fsencode("\n".join(purpose)))])
