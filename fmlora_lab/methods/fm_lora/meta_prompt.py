"""DMP, the dynamic meta-prompt (docs/method.md, section 4).

    z_0 = [ CLS ; P ; registers ; patches ]        P (m, d)

One P for all tasks, without pool, keys or positions of its own; every task trains it.
"""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import nn

from fmlora_lab.config import Settings


class PromptSettings(Settings):
    tokens: int = Field(default=8, ge=0)
    """m, the number of tokens; 0 switches the prompt off."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of P."""
    freeze_after_first: bool = False
    """Train P on the first task alone."""


def new_prompt(m: int, d: int, generator: torch.Generator) -> Float[nn.Parameter, "{m} {d}"]:
    """P, Gaussian with std 0.02."""
    return nn.Parameter(0.02 * torch.randn(m, d, generator=generator))
