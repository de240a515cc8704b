"""How a file gets to its place in one piece, and what is remembered of files that are large.

Nothing here imports torch.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EACCES, ENOTDIR, EPERM, EROFS
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs


def cache_dir() -> Path:
    """The cache's root: `$FMLORA_CACHE`, else the user's cache folder. Not created here."""
    return Path(os.environ.get("FMLORA_CACHE") or platformdirs.user_cache_dir("fmlora-lab"))


TEMPORARY = ".writing-"
"""How the names of files begin that are not whole yet."""


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """What the system refuses within the block names this path, unless it names one itself: a full
    disk names none, and the name of a temporary file says nothing to anyone."""
    try:
        yield
    except OSError as error:
        own = str(error.filename or "")
        if error.errno is not None and (os.sep not in own or TEMPORARY in own):
            error.filename, error.filename2 = str(path), None
        raise


def there(path: Path) -> bool:
    """Whether something stands at a path. OSError where the system does not let us know."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def make_folder(folder: Path) -> None:
    """Make a folder, if it is not there. OSError names what stands in its way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR), str(folder)) from None


def check_writable(folder: Path) -> None:
    """OSError where no file can be made in a folder, or in what it would be made in: to be known
    before long work whose results go there."""
    while not there(folder):
        folder = folder.parent
    with naming(folder), tempfile.TemporaryFile(prefix=TEMPORARY, dir=folder):
        pass


Write = Callable[[BinaryIO], object]


@contextmanager
def where_it_can_be_kept() -> Iterator[None]:
    """What is written within the block is not kept on a disk that is there to be read alone."""
    try:
        yield
    except OSError as error:
        if error.errno not in (EROFS, EACCES, EPERM):
            raise


def write_atomically(path: Path, write: Write) -> None:
    """Let `write` fill a file that stands at `path` whole or not at all; makes the folder. OSError
    names the path that the system refuses."""
    write_together({path: write})


def write_together(files: Mapping[Path, Write]) -> None:
    """`write_atomically` of files that belong together: a disk that has no room for all of them
    gets none.

    Each temporary file lies in its file's folder, because a rename is atomic only within one file
    system.
    """
    begun: list[str] = []
    try:
        for path, write in files.items():
            make_folder(path.parent)
            with naming(path):
                handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
                begun.append(temporary)
                with os.fdopen(handle, "wb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                umask = os.umask(0)
                os.umask(umask)
                os.chmod(temporary, 0o666 & ~umask)  # as an ordinary new file
        for path, temporary in zip(files, begun, strict=True):
            with naming(path):
                os.replace(temporary, path)
    except BaseException:
        for temporary in begun:
            with suppress(OSError):
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
