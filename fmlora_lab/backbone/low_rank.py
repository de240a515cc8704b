"""The one operation of every low-rank method: y = x (W0 + U C Vᵀ)ᵀ + b.

Shape letters: n images × tokens, o = d_out, i = d_in, k the width of the factors.

An adapter as a side branch, x Wᵀ + (x V) (U C)ᵀ, reads and writes an (n, o) tensor once more and
keeps every intermediate for the backward pass. Here the effective weight is formed once a step,
o·k·i operations whatever the batch, and the factors' gradients come from skinny products that
never form the dense (o, i) weight gradient:

    Wₑ = W0 + U C Vᵀ        y = x Wₑᵀ + b        gx = g Wₑ
    gC = (g U)ᵀ (x V)       gU = gᵀ (x V) Cᵀ     gV = xᵀ (g U) C
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Factors(NamedTuple):
    """A site's update ΔW = U C Vᵀ: U (o, k), C (k, k) or None for the identity, V (i, k)."""

    U: Tensor
    C: Tensor | None
    V: Tensor

    def dense(self) -> Tensor:
        """ΔW (o, i), formed."""
        return (self.U if self.C is None else self.U @ self.C) @ self.V.T


def low_rank_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, U: Tensor, C: Tensor | None, V: Tensor
) -> Tensor:
    """y = x (weight + U C Vᵀ)ᵀ + bias, for x (..., i); returns (..., o).

    `weight` (o, i) and `bias` (o,) are frozen: a ValueError says so where they ask for gradients.
    `x` may be in a narrower type than the rest (autocast); products then run in that type, while
    Wₑ is summed in the weight's own type before it is rounded: an update smaller than half a
    step of W0 in bfloat16 would otherwise vanish.
    """
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        raise ValueError("low_rank_linear adapts a frozen layer: weight and bias take no gradient")
    return _LowRankLinear.apply(x, weight, bias, U, C, V)


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, U, C, V):
        _, _, _, need_U, need_C, need_V = ctx.needs_input_grad
        # Autocast would sum Wₑ in bfloat16; every type here is chosen by hand.
        with torch.autocast(x.device.type, enabled=False):
            left = U if C is None else U @ C
            effective = torch.addmm(weight, left, V.T).to(x.dtype)
            y = F.linear(x, effective, None if bias is None else bias.to(x.dtype))
            # x itself is kept only where V learns: with frozen bases n·k numbers are enough.
            xV = x.reshape(-1, x.shape[-1]) @ V.to(x.dtype) if need_U or need_C else None
        ctx.save_for_backward(x if need_V else None, xV, effective, U, C, V)
        return y

    @staticmethod
    def backward(ctx, g):
        x, xV, effective, U, C, V = ctx.saved_tensors
        need_x, _, _, need_U, need_C, need_V = ctx.needs_input_grad
        gx = g @ effective if need_x else None
        g = g.reshape(-1, g.shape[-1])
        gU = gC = gV = None
        if need_C or need_V:
            g_U = g @ U.to(g.dtype)
        if need_C:
            gC = g_U.T.to(C.dtype) @ xV.to(C.dtype)
        if need_U:
            gU = (g.T @ xV).to(U.dtype)
            gU = gU if C is None else gU @ C.T
        if need_V:
            gV = (x.reshape(-1, x.shape[-1]).T @ g_U).to(V.dtype)
            gV = gV if C is None else gV @ C
        return gx, None, None, gU, gC, gV
