"""Image files are decoded once at a size; afterwards their pixels come from the cache."""

import hashlib
import json
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from fmlora_lab.benchmarks.cache import cache_dir
from fmlora_lab.benchmarks.decode import DECODER, decode_all
from fmlora_lab.files import write_atomically


def decoded_once(root: Path, files: list[Path], size: int) -> tuple[Tensor, str]:
    """Pixels of `files`, uint8 (n, 3, size, size) in their order, and the SHA-256 of these.

    The tensor is mapped from the cache, not read into memory. BadInput lists unreadable files.
    """
    pixels = cache_dir() / "decoded" / f"{_key(root, files, size)}.npy"
    pixels.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(pixels.with_suffix(".lock")):
        fingerprint = _intact(pixels) or _build(pixels, root, files, size)
        # Copy on write: torch wants writable memory, and the file must stay as it is.
        return torch.from_numpy(np.load(pixels, mmap_mode="c", allow_pickle=False)), fingerprint


def _key(root: Path, files: list[Path], size: int) -> str:
    """Hash of what tells a changed file without reading it.

    The root is part of it: two folders of equal names, sizes and times may differ in content.
    """
    stamps = [(str(path.relative_to(root)), *_stamp(path)) for path in files]
    text = json.dumps([DECODER, size, str(root.resolve()), stamps])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0  # a broken link: decoding names it among the unreadable files
    return status.st_size, status.st_mtime_ns


def _intact(pixels: Path) -> str | None:
    """The stored fingerprint, or None where the cache is missing or damaged."""
    try:
        note = json.loads(pixels.with_suffix(".json").read_text())
        whole = note["crc32"] == _crc32(pixels, note["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return note["fingerprint"] if whole else None


def _build(pixels: Path, root: Path, files: list[Path], size: int) -> str:
    """Decode into the cache, one image at a time, and return the fingerprint."""
    digest = hashlib.sha256()

    def write(file: BinaryIO) -> None:
        shape = (len(files), 3, size, size)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for image in decode_all(root, files, size):
            file.write(image.data)
            digest.update(image.data)

    write_atomically(pixels, write)
    fingerprint = digest.hexdigest()
    note = {"fingerprint": fingerprint, "crc32": _crc32(pixels, fingerprint)}
    write_atomically(
        pixels.with_suffix(".json"), lambda file: file.write(json.dumps(note).encode())
    )
    return fingerprint


def _crc32(pixels: Path, fingerprint: str) -> int:
    """Checksum of the whole file and of the fingerprint that is stored for it."""
    crc = zlib.crc32(fingerprint.encode())
    with pixels.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc
