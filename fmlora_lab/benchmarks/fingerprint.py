"""What can be known of a benchmark without reading an image: its fingerprint and its classes.

Files are told apart by place, size and modification time; the fingerprint of their pixels was
noted when they were decoded, and is checked again whenever they are really read.
"""

import os
from typing import NamedTuple, TypeGuard

from fmlora_lab.benchmarks.folders import Selection, select_files
from fmlora_lab.benchmarks.glyphs import streams
from fmlora_lab.benchmarks.hub import select_hub
from fmlora_lab.benchmarks.stream import Stream, check_tasks
from fmlora_lab.config import Benchmark, Domains, Folder, GlyphDomains, Glyphs, Hub


class Known(NamedTuple):
    """Of a benchmark: what `Stream.fingerprint` will be, and how many classes there are."""

    fingerprint: str
    classes: int


_asked: dict[tuple, tuple[list[tuple[str, int]], Known]] = {}
"""What was found in this process, with the modification times of where it was found. An image
file that changes in its place is noticed when it is read, or by the next process."""


def known(
    benchmark: Benchmark, image_size: int, data_seed: int, with_validation: bool = False
) -> Known:
    """What `load` would give; only images that were never read are read. BadInput as `load`."""
    if isinstance(benchmark, Glyphs | GlyphDomains):
        found = Known(streams.fingerprint(benchmark, data_seed), len(streams.CHARACTERS))
    else:
        found = _of_files(benchmark, image_size, data_seed, with_validation)
    if classes_are_cut(benchmark):
        check_tasks(benchmark.tasks, found.classes)
    return found


def check_stream(
    benchmark: Benchmark, image_size: int, data_seed: int, with_validation: bool, stream: Stream
) -> None:
    """Forget what was known in this process where other images were read than that."""
    asked = _key(benchmark, image_size, data_seed, with_validation)
    if asked in _asked and _asked[asked][1].fingerprint != stream.fingerprint:
        del _asked[asked]


def classes_are_cut(benchmark: Benchmark) -> TypeGuard[Glyphs | Folder | Hub]:
    """Whether tasks bring classes of their own; otherwise every class is in every task."""
    if isinstance(benchmark, Hub):
        return benchmark.scenario == "class-incremental"
    return isinstance(benchmark, Glyphs | Folder)


def _of_files(
    benchmark: Folder | Domains | Hub, image_size: int, data_seed: int, with_validation: bool
) -> Known:
    asked = _key(benchmark, image_size, data_seed, with_validation)
    if asked in _asked and all(_modified(f) == at for f, at in _asked[asked][0]):
        return _asked[asked][1]
    selection = select(benchmark, data_seed, with_validation)
    watched = [(place, _modified(place)) for place in selection.watched()]
    found = Known(selection.fingerprint(image_size), len(selection.names))
    _asked[asked] = watched, found
    return found


def _key(benchmark: Benchmark, image_size: int, data_seed: int, with_validation: bool) -> tuple:
    return benchmark.model_dump_json(exclude={"tasks"}), image_size, data_seed, with_validation


def select(
    benchmark: Folder | Domains | Hub, data_seed: int, with_validation: bool = False
) -> Selection:
    """The files of a benchmark of files. BadInput where they are not there or not laid out so."""
    if isinstance(benchmark, Hub):
        return select_hub(benchmark, data_seed)
    return select_files(benchmark, data_seed, with_validation)


def _modified(place: str) -> int:
    try:
        return os.stat(place).st_mtime_ns
    except OSError:
        return -1
