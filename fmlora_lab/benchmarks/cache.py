"""Where images that took work to make are kept, and how a file gets there in one piece."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import platformdirs


def cache_dir() -> Path:
    """The cache's root: `$FMLORA_CACHE`, else the user's cache folder. Not created here."""
    return Path(os.environ.get("FMLORA_CACHE") or platformdirs.user_cache_dir("fmlora-lab"))


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
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
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
