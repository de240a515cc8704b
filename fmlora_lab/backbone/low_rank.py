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
from torch.autograd.function import once_differentiable


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
    with torch.autocast(x.device.type, enabled=False):  # it would round Wₑ's terms before the sum
        return _LowRankLinear.apply(x, weight, bias, U, C, V)


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, U, C, V):
        left = U if C is None else U @ C
        effective = torch.addmm(weight, left, V.T).to(x.dtype)
        y = F.linear(x, effective, None if bias is None else bias.to(x.dtype))
        _, _, _, need_U, need_C, need_V = ctx.needs_input_grad
        # x itself is kept only where V learns: with frozen bases n·k numbers are enough.
        xV = skinny(x, V) if need_U or need_C else None
        ctx.save_for_backward(x if need_V else None, xV, effective, U, C, V)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, xV, effective, U, C, V = ctx.saved_tensors
        need_x, _, _, need_U, need_C, need_V = ctx.needs_input_grad
        gx = g @ effective if need_x else None
        g = g.reshape(-1, g.shape[-1])
        gU = gC = gV = None
        if need_C or need_V:
            g_U = skinny(g, U)
        if need_C:
            gC = g_U.T.to(C.dtype) @ xV.to(C.dtype)
        # (aᵀ b)ᵀ with a the narrow one: on a CPU up to ten times faster than bᵀ a at width 8.
        if need_U:
            gU = (xV.T @ g).T.to(U.dtype)
            gU = gU if C is None else gU @ C.T
        if need_V:
            gV = (g_U.T @ x.reshape(-1, x.shape[-1])).T.to(V.dtype)
            gV = gV if C is None else gV @ C
        return gx, None, None, gU, gC, gV


def skinny(x: Tensor, narrow: Tensor) -> Tensor:
    """x (..., a) times narrow (a, k), flattened to (n, k); quickest with the columns contiguous."""
    return F.linear(x.reshape(-1, x.shape[-1]), narrow.T.to(x.dtype).contiguous())
