"""Where to compute and how: device, compute type, attention kernel, allocator."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

from fmlora_lab.config import BadInput

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def onto(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the host on `device`, without waiting for what the device is doing: its copy is
    queued from memory that the system cannot move."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@contextlib.contextmanager
def memory_suffices(else_said: str) -> Iterator[None]:
    """BadInput(`else_said`) where the memory of the device, or of the host, is too small for what
    is done within."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch has no type of its own for the host's
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not full and "can't allocate memory" not in str(error):
            raise
        raise BadInput(else_said) from error


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16; emulation on a CPU is many times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolved(precision: str, device: torch.device) -> str:
    """`precision`, with "auto" as what it comes to on this device: "bfloat16" or "float32"."""
    if precision != "auto":
        return precision
    return "bfloat16" if has_bfloat16(device) else "float32"


@contextlib.contextmanager
def compute_type(device: torch.device, precision: str) -> Iterator[None]:
    """Autocast to bfloat16 if `precision` asks for it, or is "auto" and the hardware has it."""
    wanted = resolved(precision, device) == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16, enabled=wanted, cache_enabled=False):
        yield


def keep_memory() -> None:
    """Let glibc keep freed blocks instead of returning them to the system after each tensor.

    A training step frees and takes the same large blocks again and again, and the page faults
    cost up to a third of it on a CPU.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
