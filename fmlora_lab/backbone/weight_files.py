"""What is in a weight file, whatever wrote it: tensors by name. The kind is told by content, not by
the file's ending, and nothing is ever unpickled but tensors.
"""

import re
import shlex
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from fmlora_lab.config import BadInput, some

KINDS = "safetensors, PyTorch (.pth, .pt, .bin, .ckpt) and NumPy (.npz, JAX's among them)"
LEGACY_TORCH = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""Stands in the first pickle of a file of torch before 1.6."""
OTHERS = (
    (rb"version https://git-lfs", "a Git LFS pointer in the place of the file: `git lfs pull`"),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "a web page, saved in the place of the file"),
    (rb"\s*\{", "JSON, an index or a configuration, not the weights themselves"),
    (rb"\x93NUMPY", "one NumPy array without a name"),
    (rb"\x89HDF", "an HDF5 file, as Keras and TensorFlow write it"),
    (rb"GGUF", "a GGUF file"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|.{257}ustar", "a packed file: unpack it"),
)
"""What other files begin with, and what they are."""
UNPICKLE = (
    "import sys, pickle, torch; f = lambda x: torch.as_tensor(x) if hasattr(x, 'shape') else "
    "{str(k): f(v) for k, v in (x.state_dict() if hasattr(x, 'state_dict') else x).items() "
    "if any(hasattr(v, a) for a in ('shape', 'items', 'state_dict'))}; "
    "torch.save(f(READ), sys.argv[2])"
)
"""Keeps the tensors of any checkpoint, in the dictionaries in which they lie."""


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of the file; nested dictionaries are joined by dots: `state_dict.norm.bias`.

    BadInput says what a file is that is no weight file, and for one that holds more than tensors
    which command converts it.
    """
    if not file.exists():
        raise BadInput(f"backbone.weights: there is no file {file}")
    if file.is_dir():
        inside = sorted(path.name for path in file.iterdir())
        raise BadInput(
            f"backbone.weights: {file} is a folder; give a file of it: {some(inside, 4)}"
        )
    try:
        with file.open("rb") as opened:
            head = opened.read(512)
        return _by_content(file, head)
    except BadInput:
        raise
    except Exception as error:  # damaged files make their readers raise whatever they like
        reason = " ".join(str(error).split())[:200]
        kind = {b"PK\x03\x04": "PyTorch or NumPy ", b"\x80": "PyTorch "}
        said = next((kind[k] for k in kind if head.startswith(k)), "safetensors ")
        raise BadInput(
            f"backbone.weights: {file} is no readable {said}file ({type(error).__name__}: {reason})"
        ) from error


def _by_content(file: Path, head: bytes) -> dict[str, Tensor]:
    header = int.from_bytes(head[:8], "little")  # its first byte may be any other kind's
    if head[8:9] == b"{" and header < file.stat().st_size:
        return load_file(file)
    if head.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
        if any(name.endswith(".npy") for name in names):
            return _numpy(file)
        if any(name.endswith("/constants.pkl") for name in names):
            raise _needs_unpickling(file, "a TorchScript program", "torch.jit.load(sys.argv[1])")
        if any(name.endswith("data.pkl") for name in names):
            return _torch(file)
        raise BadInput(f"backbone.weights: {file} is an archive of {some(names, 4)}; unpack it")
    if head.startswith(b"\x80"):
        if LEGACY_TORCH in head[:32]:
            return _torch(file)
        raise _needs_unpickling(file, "a bare pickle", "pickle.load(open(sys.argv[1], 'rb'))")
    if file.suffix == ".safetensors" and head and not _other(head):
        return load_file(file)  # which says what is wrong with it
    what = "empty" if not head else _other(head) or "no weight file"
    raise BadInput(f"backbone.weights: {file} is {what}; allowed: {KINDS}")


def _other(head: bytes) -> str | None:
    return next((what for start, what in OTHERS if re.match(start, head, re.DOTALL)), None)


def _torch(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb") as opened:  # of a path, torch would go by the ending
            loaded = torch.load(opened, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise
        read = "torch.load(sys.argv[1], 'cpu', weights_only=False)"
        raise _needs_unpickling(file, f"{found[1]} besides tensors", read) from error
    tensors = dict(_flat(loaded, "")) if isinstance(loaded, Mapping) else {}
    if not tensors:
        raise BadInput(f"backbone.weights: {file} has no tensors with names, but a {_kind(loaded)}")
    return tensors


def _kind(loaded: Any) -> str:
    names = some(list(map(str, loaded)), 4) if isinstance(loaded, Mapping) else ""
    return type(loaded).__name__ + (f" of {names}" if names else "")


def _flat(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value.detach()
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))


def _numpy(file: Path) -> dict[str, Tensor]:
    with np.load(file, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _needs_unpickling(file: Path, what: str, read: str) -> BadInput:
    out = file.with_name(f"{file.stem}.tensors.pth")
    code, paths = UNPICKLE.replace("READ", read), shlex.join([str(file), str(out)])
    return BadInput(
        f"backbone.weights: {file} holds {what}, which takes unpickling, and a pickle can run any "
        "code, so the lab reads none; on a machine where its source is trusted this converts it: "
        f'python -c "{code}" {paths}'
    )
