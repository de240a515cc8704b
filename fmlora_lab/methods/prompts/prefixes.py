"""What the prompt methods share: initial values, halves of a prefix, cosines to keys.

A prefix of L tokens is split in halves, L/2 keys and L/2 values, as DualPrompt's prefix tuning
does (Wang et al. 2022, eq. 4; Li and Liang 2021).

What chooses prompts is computed in float32 under autocast too: in bfloat16 near keys are equal, and
a loss outside autocast would pull other keys than those of the prompts in use.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def uniform(*shape: int, generator: torch.Generator) -> Float[Tensor, "..."]:
    """Values in [-1, 1), as the prompt methods' official codes draw them."""
    return 2 * torch.rand(*shape, generator=generator) - 1


def halves(
    tokens: Float[Tensor, "*n L d"],
) -> tuple[Float[Tensor, "*n L//2 d"], Float[Tensor, "*n L//2 d"]]:
    """Tokens of a prefix to its keys and values."""
    keys, values = tokens.chunk(2, dim=-2)
    return keys, values


def cosines(query: Float[Tensor, "B d"], keys: Float[Tensor, "n d"]) -> Float[Tensor, "B n"]:
    with torch.autocast(query.device.type, enabled=False):
        return F.normalize(query, dim=1) @ F.normalize(keys, dim=1).T
