"""How a file gets to its place in one piece, and what is remembered of files that are large.

Nothing here imports torch.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs


def cache_dir() -> Path:
    """The cache's root: `$FMLORA_CACHE`, else the user's cache folder. Not created here."""
    return Path(os.environ.get("FMLORA_CACHE") or platformdirs.user_cache_dir("fmlora-lab"))


TEMPORARY = ".writing-"
"""How the names of files begin that are not whole yet."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file that stands at `path` whole or not at all; makes the folder.

    The temporary file lies in the same folder, because a rename is atomic only within one
    file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # as an ordinary new file, not for its owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def stamp(path: Path) -> tuple[str, int, int]:
    """What tells a changed file without reading it: place, size, modification time.

    A file that is not there has size −1: reading it says so.
    """
    try:
        status = path.stat()
    except OSError:
        return str(path), -1, 0
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def remembered(key: Any, compute: Callable[[], Any]) -> Any:
    """What `compute` gave for this key when it was first asked for, a JSON value; from then on
    read from the cache. A damaged note is made anew."""
    try:
        note = json.loads(_note(key).read_text("utf-8"))
        if note["sha256"] == _seal(key, note["value"]):
            return note["value"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return remember(key, compute())


def remember(key: Any, value: Any) -> Any:
    """Keep a JSON value for this key in the place of what is known of it; returns the value.

    Where the cache cannot be written, it is found anew by the next process.
    """
    note = {"key": key, "value": value, "sha256": _seal(key, value)}
    with suppress(OSError):
        write_atomically(_note(key), lambda file: file.write(json.dumps(note).encode()))
    return value


def _note(key: Any) -> Path:
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    return cache_dir() / "fingerprints" / f"{name}.json"


def _seal(key: Any, value: Any) -> str:
    return hashlib.sha256(json.dumps([key, value]).encode()).hexdigest()
