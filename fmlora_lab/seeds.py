"""Random numbers of a run: one generator for each purpose."""

import hashlib

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A generator of its own for each purpose, so that an epoch boundary describes a run."""
    text = "/".join(map(str, (seed, *purpose)))
    value = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
    return torch.Generator().manual_seed(value)
