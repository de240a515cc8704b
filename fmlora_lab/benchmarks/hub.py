"""CIFAR-100, ImageNet-R, CUB-200 and DomainNet from the Hugging Face hub, or a mirror of it.

A dataset's parquet files are unpacked once into class folders in the cache, counted and
fingerprinted; from there on its images are read like anyone's own (`folders.py`). Nothing of a
dataset is executed.

ImageNet-R has no split of its own. Ours is a rule, not a list: images sorted by the SHA-256 of
"fmlora-lab/imagenet-r/" and their bytes; the first 6,000 are for testing, the other 24,000 for
training. It does not depend on the order of rows or files.
"""

import hashlib
import itertools
import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from fmlora_lab import progress
from fmlora_lab.benchmarks.folders import Chosen, Selection, draw
from fmlora_lab.benchmarks.layout import images_in
from fmlora_lab.config import BadInput, Hub
from fmlora_lab.files import cache_dir, make_folder, write_atomically

SPLIT_BY_CONTENT = "fmlora-lab/imagenet-r/"
ROLES: tuple[str, ...] = ("train", "test")


@dataclass(frozen=True)
class Source:
    """Where a dataset is, what its columns are called, and what must come out of it."""

    repository: str
    image: str
    label: str
    classes: int
    counts: dict[str, int]
    """Images for training and for testing."""
    gigabytes: float
    """Size of the download, about; unpacked it takes as much again."""
    domain: str | None = None
    revision: str | None = None
    """The pinned commit; None where it is to be pinned at the first download, which prints it."""


_LISTED = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
DATASETS = {name: Source(**listed) for name, listed in _LISTED.items()}


def select_hub(settings: Hub, data_seed: int) -> Selection:
    """Files of a hub dataset, by domain and role, or by role alone where classes are cut.

    BadInput if it is not here and cannot be had, or is not what it should be.
    """
    source = DATASETS[settings.dataset]
    by_domain = settings.scenario == "domain-incremental"
    if by_domain and not source.domain:
        raise BadInput(
            f"benchmark.scenario is 'domain-incremental', but {settings.dataset} has no domains; "
            "domainnet has"
        )
    root = unpacked(settings.dataset, settings.data)
    domains = sorted(path.name for path in root.iterdir() if path.is_dir())
    names = tuple(sorted({path.name for path in root.glob("*/*/*") if path.is_dir()}))
    caps = {"train": settings.train_images, "test": settings.test_images}
    groups: Chosen = {}
    for domain, role in itertools.product(domains, ROLES):
        own = groups.setdefault(f"{domain}/{role}" if by_domain else role, [[] for _ in names])
        for files, name in zip(own, names, strict=True):
            folder = root / domain / role / name
            found = images_in(folder, 0) if folder.is_dir() else []
            files += draw(found, caps[role], data_seed, role, domain, name)
    return Selection(root, groups, names)


def unpacked(name: str, mirror: Path | None = None) -> Path:
    """The folder `<domain>/{train,test}/<class>/` of a dataset, made if it is not there.

    `mirror` is a folder with the repository's parquet files. What was unpacked before an
    interruption is kept. BadInput names what is wrong: no library, no hub, other counts.
    """
    root = place(name, mirror)
    make_folder(root)
    with FileLock(f"{root}.lock"):
        if not (root / "complete.json").exists():
            note = _unpack(DATASETS[name], name, mirror, root)
            text = json.dumps(note, indent=1).encode()
            write_atomically(root / "complete.json", lambda file: file.write(text))
    return root


def place(name: str, mirror: Path | None = None) -> Path:
    """Where a dataset is unpacked; a mirror has a place of its own for what it holds now."""
    if mirror is None:
        version = DATASETS[name].revision or "unpinned"
    else:
        files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in _parquet(mirror)]
        version = hashlib.sha256(repr([str(mirror.resolve()), files]).encode()).hexdigest()
    return cache_dir() / "hub" / f"{name}-{version[:12]}"


def is_here(name: str, mirror: Path | None = None) -> dict[str, Any] | None:
    """What is known of an unpacked dataset (counts, fingerprint, revision); None if it is not."""
    note = place(name, mirror) / "complete.json"
    return json.loads(note.read_text("utf-8")) if note.exists() else None


def _unpack(source: Source, name: str, mirror: Path | None, root: Path) -> dict[str, Any]:
    splits, revision = _splits(source, name, mirror)
    roles, total = _roles(source, splits), sum(map(len, splits.values()))
    counts, classes, digests = dict.fromkeys(ROLES, 0), set(), []
    found = progress.bar(
        _rows(splits), total=total, desc=f"unpacking {name}", unit="image", delay=2
    )
    for split, row, key in found:
        image, content = row[source.image], row[source.image]["bytes"]
        role, label = roles[key], _said(splits[split], source.label, row)
        domain = _said(splits[split], source.domain, row) if source.domain else "all"
        suffix = Path(image.get("path") or "").suffix or ".img"
        digest = hashlib.sha256(content).hexdigest()
        file = root / domain / role / label / f"{split}-{key[1]:07d}{suffix}"
        if not (file.exists() and file.stat().st_size == len(content)):
            write_atomically(file, lambda out, content=content: out.write(content))
        counts[role] += 1
        classes.add(label)
        digests.append(f"{domain}/{role}/{label}/{digest}")
    for role in ROLES:
        if counts[role] != source.counts[role]:
            raise BadInput(
                f"{name} has {counts[role]:,} images for {role}; expected are "
                f"{source.counts[role]:,}"
            )
    if len(classes) != source.classes:
        raise BadInput(f"{name} has {len(classes)} classes; expected are {source.classes}")
    whole = hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
    return {"dataset": name, "revision": revision, "counts": counts, "fingerprint": whole}


def _splits(source: Source, name: str, mirror: Path | None) -> tuple[dict[str, Any], str | None]:
    """The hub's splits by name, images as bytes, and the revision they are of, if the hub says."""
    try:
        import datasets
    except ImportError as error:
        raise BadInput(
            f"{name} comes through the datasets library: pip install 'fmlora-lab[hub]'"
        ) from error
    try:
        if mirror is not None:
            files: dict[str, list[str]] = {}
            for path in _parquet(mirror):
                files.setdefault(path.name.partition("-")[0], []).append(str(path))
            with progress.of(datasets, str(mirror)):
                loaded = datasets.load_dataset("parquet", data_files=files)
            revision = "mirror"
        else:
            from huggingface_hub import dataset_info

            revision = source.revision or dataset_info(source.repository).sha
            with progress.of(datasets, f"{source.repository} from the hub"):
                loaded = datasets.load_dataset(source.repository, revision=revision)
    except BadInput:
        raise
    except Exception as error:  # whatever the hub's client raises without a network
        raise BadInput(
            f"{name} ({source.repository}) cannot be had from the hub ({type(error).__name__}); "
            f"`fmlora-lab data get {name}` fetches it where there is a network, --data DIR takes a "
            "folder with its parquet files"
        ) from error
    as_bytes = datasets.Image(decode=False)
    splits = {str(split): of.cast_column(source.image, as_bytes) for split, of in loaded.items()}
    return splits, revision


def _parquet(mirror: Path) -> list[Path]:
    found = sorted(mirror.rglob("*.parquet"))
    if not found:
        raise BadInput(f"there are no parquet files in {mirror}")
    return found


def _rows(splits: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], tuple[str, int]]]:
    for split, rows in splits.items():
        for number, row in enumerate(rows):
            yield split, row, (split, number)


def _roles(source: Source, splits: dict[str, Any]) -> dict[tuple[str, int], str]:
    """`train` or `test` for every row, by the hub's splits or, where there is one, by content."""
    if set(ROLES) <= set(splits):
        return {key: key[0] for _, _, key in _rows(splits)}
    marks = []
    for _, row, key in _rows(splits):
        content = SPLIT_BY_CONTENT.encode() + row[source.image]["bytes"]
        marks.append((hashlib.sha256(content).hexdigest(), key))
    marks.sort()
    test = source.counts["test"]
    return {key: "test" if place < test else "train" for place, (_, key) in enumerate(marks)}


def _said(rows: Any, column: str, row: dict[str, Any]) -> str:
    """A label as the name of a folder."""
    value, feature = row[column], rows.features[column]
    name = feature.int2str(value) if hasattr(feature, "int2str") else str(value)
    return name.replace(os.sep, "_").strip() or "_"


def free_gigabytes() -> float:
    """Free space where datasets are unpacked."""
    folder = cache_dir()
    make_folder(folder)
    return shutil.disk_usage(folder).free / 1e9
