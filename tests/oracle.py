"""What tests against official codes share: inputs by formula, and numbers that stand for a tensor.

A golden value is made once, beside the official code, from the same inputs.
"""

import numpy as np
import torch

from fmlora_lab.methods.method import TaskInfo
from fmlora_lab.seeds import generator


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def sums(x: torch.Tensor) -> list[float]:
    """The sum, the sum of squares, and a sum that no permutation keeps."""
    x = x.detach().flatten()
    return [float(v) for v in (x.sum(), x.square().sum(), x @ torch.arange(len(x)).double().cos())]


def info(index: int) -> TaskInfo:
    """A task of two classes of its own."""
    return TaskInfo(index, range(2 * index, 2 * index + 2), generator(0, "method", index))
