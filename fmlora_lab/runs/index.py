"""What a list of many runs reads of each, kept beside them in one file.

Opening ten thousand folders takes seconds on a disk and minutes over a network. What was read once
is noted under the size and the time of the run's `result.json`, which is written last and once;
a list looks at that and opens what it does not know. The file is one for all who share the folder,
whoever writes it, and is no more than a note: lost, damaged or of another version, it is made anew.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fmlora_lab import progress
from fmlora_lab.files import TEMPORARY, where_it_can_be_kept, write_atomically

INDEX = ".index.json"
"""In a runs folder: the checksum of what follows, then the notes."""
VERSION = 3
"""Of what is noted."""
MANY = 200
"""Runs from which it pays: reading fewer takes a tenth of a second."""
SHARE = 50
"""It is written anew when one in so many notes is to be changed: writing takes as long as reading
a few hundred runs."""

RUN = re.compile("[0-9a-f]{16}")
"""A run's name."""

Brief = dict[str, Any]
"""Of a run, JSON: see `Run.brief`."""
Stamp = list[int]


def briefs(root: Path, read: Callable[[str], Brief]) -> dict[str, Brief | None]:
    """By name, what is noted of each complete run of a folder, or, where it is new, was now `read`;
    None for all of a folder of few. OSError where the folder cannot be read."""
    there = progress.bar(names(root), desc="runs there", unit="run", delay=2, leave=False)
    stamps = {name: stamp for name in there if (stamp := _stamp(root, name)) is not None}
    if len(stamps) < MANY:
        return dict.fromkeys(stamps)
    noted = _noted(root)
    old = {name: note for name, note in noted.items() if stamps.get(name) == note["stamp"]}
    each = progress.bar(stamps.items(), desc="runs read", unit="run", delay=2, leave=False)
    found = {n: old[n] if n in old else {"stamp": s, **read(n)} for n, s in each}
    if SHARE * (len(found) + len(noted) - 2 * len(old)) > len(found):
        _note(root, found)
    return {**found}


def names(root: Path) -> list[str]:
    """What is in a folder, in order, but for what is being deleted; nothing where there is none."""
    try:
        return sorted(name for name in os.listdir(root) if not name.startswith(TEMPORARY))
    except FileNotFoundError:
        return []


def _stamp(root: Path, name: str) -> Stamp | None:
    try:
        status = os.stat(f"{root}/{name}/result.json")
        if not RUN.fullmatch(name):  # of a run, what is missing is damage; a folder of another kind
            os.stat(f"{root}/{name}/config.json")  # that has a result is none
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [status.st_size, status.st_mtime_ns]


def _noted(root: Path) -> dict[str, Brief]:
    try:
        seal, _, text = (root / INDEX).read_bytes().partition(b"\n")
    except OSError:
        return {}
    if seal != _seal(text):
        return {}
    found = json.loads(text)
    return found["runs"] if found["version"] == VERSION else {}


def _note(root: Path, found: dict[str, Brief]) -> None:
    text = json.dumps({"version": VERSION, "runs": found}, separators=(",", ":")).encode()
    with where_it_can_be_kept():
        write_atomically(root / INDEX, lambda file: file.write(_seal(text) + b"\n" + text))


def _seal(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()
