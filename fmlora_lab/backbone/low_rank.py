"""The one operation of every low-rank method: y = x (W0 + U C Vᵀ)ᵀ + b.

Shape letters: n images × tokens, o = d_out, i = d_in, k the width of the factors.

An adapter as a side branch, x Wᵀ + (x V) (U C)ᵀ, reads and writes an (n, o) tensor once more and
keeps every intermediate for the backward pass. Here the effective weight is formed once a step,
o·k·i operations whatever the batch, and the factors' gradients come from skinny products that
never form the dense (o, i) weight gradient:

    Wₑ = W0 + U C Vᵀ        y = x Wₑᵀ + b        gx = g Wₑ
    gC = (g U)ᵀ (x V)       gU = gᵀ (x V) Cᵀ     gV = xᵀ (g U) C

Factors wider than about o·i / (o + i) columns make the dense G = gᵀ x the cheaper way: then
gC = Uᵀ G V, gU = G V Cᵀ, gV = Gᵀ U C, and no step costs more than full fine-tuning's.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Factors(NamedTuple):
    """A site's update ΔW = U C Vᵀ: U (o, k), V (i, k), and C (k, k), or (k,) where it is
    diagonal, or None for the identity. The first `fixed` columns of U and V take no gradient
    (for C diagonal or None)."""

    U: Tensor
    C: Tensor | None
    V: Tensor
    fixed: int = 0

    def dense(self) -> Tensor:
        """ΔW (o, i), formed."""
        return times(self.U, self.C) @ self.V.T


def times(left: Tensor, C: Tensor | None) -> Tensor:
    """left (..., k) times C, whichever form it has."""
    if C is None:
        return left
    return left * C if C.ndim == 1 else left @ C


def low_rank_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    U: Tensor,
    C: Tensor | None,
    V: Tensor,
    fixed: int = 0,
) -> Tensor:
    """y = x (weight + U C Vᵀ)ᵀ + bias, for x (..., i); returns (..., o).

    `weight` (o, i) and `bias` (o,) are frozen: a ValueError says so where they ask for gradients.
    C (k, k), (k,) or None and `fixed` are as in `Factors`. `x` may be in a narrower type than the
    rest (autocast); products then run in that type, while Wₑ is summed in the weight's own type
    before it is rounded: an update smaller than half a step of W0 in bfloat16 would otherwise
    vanish.
    """
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        raise ValueError("low_rank_linear adapts a frozen layer: weight and bias take no gradient")
    if fixed and C is not None and C.ndim == 2:
        raise ValueError("fixed columns need a C that is diagonal or None")
    with torch.autocast(x.device.type, enabled=False):  # it would round Wₑ's terms before the sum
        return _LowRankLinear.apply(x, weight, bias, U, C, V, fixed)


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, U, C, V, fixed):
        effective = torch.addmm(weight, times(U, C), V.T).to(x.dtype)
        y = F.linear(x, effective, None if bias is None else bias.to(x.dtype))
        _, _, _, need_U, need_C, need_V, _ = ctx.needs_input_grad
        (o, k), i = U.shape, len(V)
        ctx.fixed, ctx.wide = fixed, (need_U or need_C or need_V) and k * (o + i) > o * i
        # x itself is kept only where V learns: with frozen bases n·k numbers are enough.
        xV = skinny(x, V) if (need_U or need_C) and not ctx.wide else None
        ctx.save_for_backward(x if need_V or ctx.wide else None, xV, effective, U, C, V)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, xV, effective, U, C, V = ctx.saved_tensors
        need_x, _, _, need_U, need_C, need_V, _ = ctx.needs_input_grad
        gx = g @ effective if need_x else None
        g = g.reshape(-1, g.shape[-1])
        learned = slice(ctx.fixed, None)
        x = None if x is None else x.reshape(-1, x.shape[-1])
        gU = gC = gV = None
        if ctx.wide:
            G = (g.T @ x).to(U.dtype)
            GV = G @ V if need_U or need_C else None
            if need_C:
                gC = (U * GV).sum(0) if C.ndim == 1 else U.T @ GV
            gU = GV[:, learned] if need_U else None
            gV = G.T @ U[:, learned] if need_V else None
        else:
            # A diagonal C needs g U for every column, the learned columns alone only for gV.
            g_U = skinny(g, U if need_C else U[:, learned]) if need_C or need_V else None
            if need_C:
                left, right = g_U.to(C.dtype), xV.to(C.dtype)
                gC = (left * right).sum(0) if C.ndim == 1 else left.T @ right
                g_U = g_U[:, learned]
            # (aᵀ b)ᵀ with a the narrow one: on a CPU up to ten times faster than bᵀ a at width 8.
            gU = (xV[:, learned].T @ g).T.to(U.dtype) if need_U else None
            gV = (g_U.T @ x).T.to(V.dtype) if need_V else None
        if C is not None:
            own = C[learned] if C.ndim == 1 else C
            gU = times(gU, own.T if C.ndim == 2 else own) if need_U else None
            gV = times(gV, own) if need_V else None
        if ctx.fixed:
            gU = F.pad(gU, (ctx.fixed, 0)) if need_U else None
            gV = F.pad(gV, (ctx.fixed, 0)) if need_V else None
        return gx, None, None, gU, gC, gV, None


def skinny(x: Tensor, narrow: Tensor) -> Tensor:
    """x (..., a) times narrow (a, k), flattened to (n, k); quickest with the columns contiguous."""
    return F.linear(x.reshape(-1, x.shape[-1]), narrow.T.to(x.dtype).contiguous())
