"""What a method sets before each forward pass: an update at every site, and prompts."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors, adapted_linear


class Site(nn.Linear):
    """One adapted linear layer; `factors` is its update for this step, None for none.

    `rows` picks the output rows that are adapted (q, k or v of a fused qkv); U has that many.
    """

    rows: Tensor | None
    merged = False
    """Whether updates are summed into the weight, so that a 16-bit type must not round it."""

    def __init__(self, name: str, linear: nn.Linear, rows: Tensor | None):
        nn.Module.__init__(self)
        self.name = name
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("rows", rows, persistent=False)
        self.d_out = linear.out_features if rows is None else len(rows)
        self.d_in = linear.in_features
        self.factors: Factors | None = None
        self.folded: Tensor | None = None

    def full_rows(self, factors: Factors) -> Factors:
        """The same update with a U of all the layer's output rows."""
        if self.rows is None:
            return factors
        U = factors.U.new_zeros(self.out_features, factors.U.shape[1])
        return factors._replace(U=U.index_copy(0, self.rows, factors.U))

    def effective_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """W0 + U C Vᵀ (d_out, d_in), summed in `dtype`, returned in the weight's own type."""
        weight = self.weight.detach()
        if self.factors is None:
            return weight
        U, C, V, *_ = self.full_rows(self.factors).weighed()
        exact = Factors(U.to(dtype), None if C is None else C.to(dtype), V.to(dtype))
        return (weight.to(dtype) + exact.dense()).to(weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        if self.folded is not None:
            return F.linear(x, self.folded, self.bias)
        factors = None if self.factors is None else self.full_rows(self.factors)
        return adapted_linear(x, self.weight, self.bias, factors, self.merged)


class Prompts(NamedTuple):
    """What a method adds to the tokens, for all images alike or, with a leading B, for each.

    `tokens` (m, d) or (B, m, d) are put after [CLS] before the first block. `prefixes`: for a
    block's number, keys and values, (L, d) or (B, L, d) each, put before those of its attention.
    With `read`, the features are the mean of the tokens' outputs, not what timm would read.
    """

    tokens: Tensor | None = None
    prefixes: Mapping[int, tuple[Tensor, Tensor]] = {}
    read: bool = False
