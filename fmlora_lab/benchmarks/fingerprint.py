"""What can be known of a benchmark without reading an image: its fingerprint and its classes.

Files are told apart by place, size and modification time; the fingerprint of their pixels was
noted when they were decoded, and is checked again whenever they are really read.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

from fmlora_lab.benchmarks import mtil
from fmlora_lab.benchmarks.cut import arranged, shortest, sizes
from fmlora_lab.benchmarks.folders import Selection, select_files
from fmlora_lab.benchmarks.glyphs import streams
from fmlora_lab.benchmarks.hub import select_hub
from fmlora_lab.benchmarks.stream import Stream
from fmlora_lab.config import (
    Benchmark,
    Domains,
    Folder,
    GlyphDomains,
    Glyphs,
    GlyphScripts,
    Hub,
    Mtil,
)


class Known(NamedTuple):
    """Of a benchmark: what `Stream.fingerprint` will be, and the names of what comes in an order,
    its classes or, where each task has all of these, its domains."""

    fingerprint: str
    names: tuple[str, ...]


_asked: dict[tuple, tuple[list[tuple[str, int]], Known]] = {}
"""What was found in this process, with the modification times of where it was found. An image
file that changes in its place is noticed when it is read, or by the next process."""


def known(
    benchmark: Benchmark, image_size: int, data_seed: int, with_validation: bool = False
) -> Known:
    """What `load` would give; only images that were never read are read. BadInput as `load`."""
    if isinstance(benchmark, Glyphs | GlyphDomains | GlyphScripts):
        names = {"glyphs": streams.CHARACTERS, "glyph-domains": streams.DOMAINS}
        found = Known(
            streams.fingerprint(benchmark, data_seed),
            tuple(names.get(benchmark.name, streams.SCRIPTS)),
        )
    else:
        found = _of_files(benchmark, image_size, data_seed, with_validation)
    cut_of(benchmark, found.names)  # refuses what does not come out
    return found


def cut_of(benchmark: Benchmark, names: Sequence[str]) -> Benchmark:
    """The benchmark with `tasks` and `order` in their plainest form, so that the same stream, in
    whichever words, has one name: a number of tasks where sizes are as equal as can be, and an
    order that is not drawn by its names."""
    plain = {}
    if classes_are_cut(benchmark):
        plain["tasks"] = shortest(sizes(benchmark.tasks, len(names)))
    if isinstance(benchmark, GlyphScripts):
        benchmark = benchmark.model_copy(update={"order": streams.ordered(benchmark.order)})
    if isinstance(benchmark, Mtil):
        benchmark = benchmark.model_copy(update={"order": mtil.ordered(benchmark.order, names)})
    if isinstance(benchmark.order, int):
        raise AssertionError  # an order by number has its names by now
    if benchmark.order != "drawn":
        what = "classes" if classes_are_cut(benchmark) else "domains"
        came = arranged(benchmark.order, names, 0, what)
        natural = came == sorted(came)
        plain["order"] = "natural" if natural else tuple(names[k] for k in came)
    return benchmark.model_copy(update=plain)


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
    benchmark: Folder | Domains | Mtil | Hub, image_size: int, data_seed: int, with_validation: bool
) -> Known:
    asked = _key(benchmark, image_size, data_seed, with_validation)
    if asked in _asked and all(_modified(f) == at for f, at in _asked[asked][0]):
        return _asked[asked][1]
    if isinstance(benchmark, Mtil):
        chosen = mtil.select_mtil(benchmark, data_seed)
        places = mtil.watched(chosen, benchmark.data)
        marks = {name: own.fingerprint(image_size) for name, own in chosen.items()}
        found = Known(mtil.joined(marks), tuple(chosen))
    else:
        selection = select(benchmark, data_seed, with_validation)
        places = selection.watched()
        found = Known(selection.fingerprint(image_size), ordered(benchmark, selection))
    watched = [(place, _modified(place)) for place in places]
    _asked[asked] = watched, found
    return found


def _key(benchmark: Benchmark, image_size: int, data_seed: int, with_validation: bool) -> tuple:
    plain = benchmark.model_dump_json(exclude={"tasks", "order"})
    return plain, image_size, data_seed, with_validation


def select(
    benchmark: Folder | Domains | Hub, data_seed: int, with_validation: bool = False
) -> Selection:
    """The files of a benchmark of files. BadInput where they are not there, not laid out so, or
    cannot be cut or ordered as asked."""
    if isinstance(benchmark, Hub):
        selection = select_hub(benchmark, data_seed)
    else:
        selection = select_files(benchmark, data_seed, with_validation)
    cut_of(benchmark, ordered(benchmark, selection))
    return selection


def ordered(benchmark: Benchmark, selection: Selection) -> tuple[str, ...]:
    """The names of what comes in an order."""
    return selection.names if classes_are_cut(benchmark) else selection.domains


def _modified(place: str) -> int:
    try:
        return os.stat(place).st_mtime_ns
    except OSError:
        return -1
