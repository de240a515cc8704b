"""A benchmark is labelled images cut into a stream of tasks; this file is the cutting."""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from fmlora_lab.benchmarks.cut import arranged, sizes
from fmlora_lab.config import BadInput, some

TEMPLATES = ("a photo of a {}.",)
"""What is said of a class where nothing else is known of it."""

Scenario = Literal["class-incremental", "domain-incremental"]


@dataclass(frozen=True)
class Images:
    """Labelled images: `labels` int64 (n,), and which `rows` (n,) of a `source` uint8
    (N, 3, H, W) they are; None stands for all, in order.

    The source is mapped from a file where it can be, so that a selection of images costs no memory:
    pixels are read where they are asked for, a batch at a time.
    """

    source: Tensor
    labels: Tensor
    rows: Tensor | None = None

    @property
    def pixels(self) -> Tensor:
        """uint8 (n, 3, H, W)."""
        return self.source if self.rows is None else self.source[self.rows]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Self:
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            index = index.nonzero().flatten()
        if self.rows is not None:
            rows = self.rows[index]
        elif isinstance(index, Tensor):
            rows = index
        else:
            rows = torch.arange(len(self), device=self.labels.device)[index]
        return replace(self, labels=self.labels[index], rows=rows)

    def to(self, device: torch.device) -> "Images":
        """The same images on `device`, if they take at most half of what is free there; else as
        they are, and batches travel."""
        if device.type != "cuda":
            return self
        size = len(self) * self.source[:1].numel()
        if size > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        return Images(self.pixels.to(device), self.labels.to(device))


def together(parts: Iterable[Images]) -> Images:
    """The images of all parts, in their order."""
    parts = list(parts)
    labels, first = torch.cat([part.labels for part in parts]), parts[0].source
    if all(part.source is first and part.rows is not None for part in parts):
        return Images(first, labels, torch.cat([p.rows for p in parts if p.rows is not None]))
    return Images(torch.cat([part.pixels for part in parts]), labels)


@dataclass(frozen=True)
class Task:
    """What arrives at one moment of a stream. `classes` is the range of labels it shows.

    `validation` is for benchmarks that have such images; see `validation_stream`.
    """

    index: int
    name: str
    classes: range
    train: Images
    test: Images
    validation: Images | None = None


@dataclass(frozen=True)
class Stream:
    """Tasks in order. `class_names[k]` names label k; labels count in the order of arrival.

    `templates` are of each task, for a model that reads texts: sentences with {} for a class.
    """

    name: str
    scenario: Scenario
    class_names: tuple[str, ...]
    tasks: tuple[Task, ...]
    fingerprint: str
    templates: tuple[tuple[str, ...], ...] = ()

    @property
    def texts(self) -> list[list[str]]:
        """Of each class: its name in every template of the task that brings it first."""
        found: dict[int, list[str]] = {}
        for task in self.tasks:
            templates = self.templates[task.index] if self.templates else TEMPLATES
            for k in task.classes:
                said = spoken(self.class_names[k])
                found.setdefault(k, [template.format(said) for template in templates])
        return [found[k] for k in range(len(self.class_names))]


def class_incremental(
    name: str,
    train: Images,
    test: Images,
    class_names: tuple[str, ...],
    tasks: int | str | Sequence[int],
    order_seed: int,
    fingerprint: str,
    validation: Images | None = None,
    order: str | Sequence[str | int] = "drawn",
) -> Stream:
    """Cut images into groups of classes, by `tasks`, in an `order` (`cut.py`).

    The images are labelled by position in `class_names`; the stream's labels are
    positions in that order, so that task t owns one contiguous range.
    """
    came = arranged(order, class_names, order_seed)
    new_label = torch.as_tensor(np.argsort(came))
    parts = [part for part in (train, test, validation) if part is not None]
    parts = [replace(part, labels=new_label[part.labels]) for part in parts]
    cut, start = [], 0
    for index, size in enumerate(sizes(tasks, len(class_names))):
        classes = range(start, start + size)
        title = f"classes {classes.start + 1}–{classes.stop}"
        own = [part[_of(classes, part)] for part in parts]
        cut.append(Task(index, title, classes, *own))
        start += size
    names = tuple(class_names[k] for k in came)
    return Stream(name, "class-incremental", names, tuple(cut), fingerprint)


def domain_incremental(
    name: str,
    domains: Sequence[tuple[str, *tuple[Images, ...]]],
    class_names: tuple[str, ...],
    order_seed: int,
    fingerprint: str,
    order: str | Sequence[str | int] = "drawn",
) -> Stream:
    """One task a domain, every class in each, the domains in an `order` (`cut.py`).

    A domain is its name, its training, its test and, where it has them, its validation images.
    """
    came = arranged(order, [name for name, *_ in domains], order_seed, "domains")
    classes = range(len(class_names))
    tasks = tuple(
        Task(index, domains[d][0], classes, *domains[d][1:]) for index, d in enumerate(came)
    )
    return Stream(name, "domain-incremental", tuple(class_names), tasks, fingerprint)


def of_domains(
    name: str,
    domains: Sequence[tuple[str, Sequence[str], *tuple[Images, ...]]],
    order_seed: int,
    fingerprint: str,
    order: str | Sequence[str | int],
    templates: Mapping[str, tuple[str, ...]],
) -> Stream:
    """One task a domain, each with classes of its own, the domains in an `order` (`cut.py`).

    A domain is its name, its classes' names, and images labelled by position in these: training,
    test and, where it has them, validation.
    """
    tasks, names, start = [], [], 0
    for index, d in enumerate(
        arranged(order, [name for name, *_ in domains], order_seed, "domains")
    ):
        title, own, *parts = domains[d]
        shifted = [replace(part, labels=part.labels + start) for part in parts]
        tasks.append(Task(index, title, range(start, start + len(own)), *shifted))
        names += [f"{title}/{one}" for one in own]
        start += len(own)
    said = tuple(templates.get(task.name, TEMPLATES) for task in tasks)
    return Stream(name, "class-incremental", tuple(names), tuple(tasks), fingerprint, said)


def spoken(class_name: str) -> str:
    """A class's name as a text has it: without its domain, underscores as spaces; of a character
    its Unicode name."""
    name = class_name.rpartition("/")[2] or class_name
    if len(name) == 1:
        return unicodedata.name(name, name).lower()
    return name.replace("_", " ")


def content_fingerprint(*parts: Images | str) -> str:
    """SHA-256 of what the model will see: pixels, labels and names, not files or paths."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            digest.update(np.ascontiguousarray(part.pixels.numpy()).data)
            digest.update(np.ascontiguousarray(part.labels.numpy()).data)
    return digest.hexdigest()


def stratified(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A boolean mask that picks `share` of every class, at least one image and never all: of a
    class of one image none."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        count = min(max(1, round(share * len(members))), len(members) - 1)
        chosen[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return chosen


def validation_stream(stream: Stream, generator: torch.Generator) -> Stream:
    """The same stream with validation images in the place of its tests: the benchmark's own, or,
    where it has none, a quarter of each class's training images, which are then not trained on.

    BadInput names the classes that have one training image, where they are needed.
    """
    tasks = []
    for task in stream.tasks:
        if task.validation is not None:
            tasks.append(replace(task, test=task.validation))
            continue
        seen, counts = task.train.labels.unique(return_counts=True)
        if few := [stream.class_names[k] for k in seen[counts < 2]]:
            where = f" in {task.name}" if stream.scenario == "domain-incremental" else ""
            raise BadInput(
                f"evaluate_on is 'validation', for which a quarter of each class's training images "
                f"is kept back, but {some(few)}{where} have one; allowed: test, or "
                "at least 2 training images a class"
            )
        chosen = stratified(task.train.labels, 0.25, generator)
        tasks.append(replace(task, train=task.train[~chosen], test=task.train[chosen]))
    return replace(stream, tasks=tuple(tasks))


def _of(classes: range, images: Images) -> Tensor:
    return (images.labels >= classes.start) & (images.labels < classes.stop)
