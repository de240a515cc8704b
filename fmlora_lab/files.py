"""How a file gets to its place in one piece. Nothing here imports torch."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file that stands at `path` whole or not at all; makes the folder.

    The temporary file lies in the same folder, because a rename is atomic only within one
    file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
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
