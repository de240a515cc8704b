"""Image files are decoded once at a size; afterwards their pixels come from the cache."""

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from fmlora_lab.benchmarks.decode import DECODER, decode_all
from fmlora_lab.files import cache_dir, make_folder, write_atomically


def decoded_once(root: Path, files: list[str], size: int) -> tuple[Tensor, str]:
    """Pixels of `files`, uint8 (n, 3, size, size) in their order, and the SHA-256 of these.

    The tensor is mapped from the cache, not read into memory. BadInput lists unreadable files.
    """
    pixels = _place(root, files, size)
    make_folder(pixels.parent)
    with FileLock(pixels.with_suffix(".lock")):
        fingerprint = _intact(pixels) or _build(pixels, root, files, size)
        # Copy on write: torch wants writable memory, and the file must stay as it is.
        return torch.from_numpy(np.load(pixels, mmap_mode="c", allow_pickle=False)), fingerprint


def digest_of(root: Path, files: list[str], size: int) -> str:
    """The SHA-256 of the pixels that `decoded_once` would give: as noted when they were decoded,
    without reading them, or decoded now. They are checked against it when they are read."""
    noted = _noted(_place(root, files, size))
    if noted is not None:
        return noted["fingerprint"]
    try:
        return decoded_once(root, files, size)[1]
    except OSError:  # the cache cannot be written
        digest = hashlib.sha256()
        for image in decode_all(root, files, size):
            digest.update(image.data)
        return digest.hexdigest()


def decoded() -> Path:
    """The folder of all decoded images."""
    return cache_dir() / "decoded"


def _place(root: Path, files: list[str], size: int) -> Path:
    """Where the pixels are kept, under a hash of what tells a changed file without reading it.

    The root is part of it: two folders of equal names, sizes and times may differ in content.
    """
    start = os.path.join(root, "")  # files of a list may lie elsewhere
    stamps = [(path.removeprefix(start), *_stamp(path)) for path in files]
    text = json.dumps([DECODER, size, str(root.resolve()), stamps])
    return decoded() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0  # a broken link: decoding names it among the unreadable files
    return status.st_size, status.st_mtime_ns


def _intact(pixels: Path) -> str | None:
    """The stored fingerprint, or None where the cache is missing or damaged."""
    noted = _noted(pixels)
    if noted is None or not pixels.is_file():
        return None
    whole = noted["crc32"] == _crc32(pixels, noted["fingerprint"])
    return noted["fingerprint"] if whole else None


def _noted(pixels: Path) -> dict[str, Any] | None:
    """The note beside the pixels; None where it is missing or damaged."""
    try:
        note = json.loads(pixels.with_suffix(".json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    kinds = {"fingerprint": str, "crc32": int}
    whole = isinstance(note, dict) and all(isinstance(note.get(k), kinds[k]) for k in kinds)
    return note if whole else None


def _build(pixels: Path, root: Path, files: list[str], size: int) -> str:
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
