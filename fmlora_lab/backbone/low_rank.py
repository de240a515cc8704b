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

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


class Factors(NamedTuple):
    """A site's update ΔW = U C Vᵀ: U (o, k), V (i, k), and C (k, k), or (k,) where it is
    diagonal, or None for the identity. The first `fixed` columns of U and V take no gradient
    (for C diagonal or None).

    `columns` weighs the columns of V, ΔW = U C diag(c) Vᵀ: c (k,) for the batch or (B, k) for each
    image, or a function of the site's input (B, tokens, i), in which [CLS] comes first, to either;
    that input is in the compute type.
    """

    U: Float[Tensor, "o k"]
    C: Float[Tensor, "k k"] | Float[Tensor, "k"] | None
    V: Float[Tensor, "i k"]
    fixed: int = 0
    columns: Float[Tensor, "k"] | Float[Tensor, "B k"] | Callable[[Tensor], Tensor] | None = None

    @property
    def by_input(self) -> bool:
        """Whether the update depends on the images at hand, so that no weight can hold it."""
        return callable(self.columns) or (self.columns is not None and self.columns.ndim > 1)

    def weighed(self) -> "Factors":
        """The same update with the columns' weights, one for the whole batch, in its core."""
        if self.columns is None:
            return self
        assert not callable(self.columns)  # an input has to be known first
        C = self.columns if self.C is None else self.C * self.columns
        return self._replace(C=C, columns=None)

    def dense(self) -> Float[Tensor, "o i"]:
        """ΔW (o, i), formed."""
        U, C, V, *_ = self.weighed()
        return times(U, C) @ V.T


def times(
    left: Float[Tensor, "... k"], C: Float[Tensor, "k k"] | Float[Tensor, "k"] | None
) -> Float[Tensor, "... k"]:
    """left C, whichever form C has."""
    if C is None:
        return left
    return left * C if C.ndim == 1 else left @ C


def adapted_linear(
    x: Float[Tensor, "... i"],
    weight: Float[Tensor, "o i"],
    bias: Float[Tensor, "o"] | None,
    factors: Factors,
) -> Float[Tensor, "... o"]:
    """y = x (weight + ΔW)ᵀ + bias, with columns in use that may depend on x."""
    columns = factors.columns(x) if callable(factors.columns) else factors.columns
    if columns is None or columns.ndim == 1:
        U, C, V, fixed, _ = factors._replace(columns=columns).weighed()
        return low_rank_linear(x, weight, bias, U, C, V, fixed)
    U, C, V, fixed, _ = factors
    return F.linear(x, weight, bias) + side_branch(x, U, C, V, columns, fixed)


def side_branch(
    x: Float[Tensor, "B *tokens i"],
    U: Float[Tensor, "o k"],
    C: Float[Tensor, "k k"] | Float[Tensor, "k"] | None,
    V: Float[Tensor, "i k"],
    columns: Float[Tensor, "B k"],
    fixed: int = 0,
) -> Float[Tensor, "B *tokens o"]:
    """x ΔWᵀ = ((x V) ⊙ c) Cᵀ Uᵀ with columns c of each image: the cheaper way, where each image
    would have an effective weight of its own."""
    if fixed:
        U, V = (torch.cat([t[:, :fixed].detach(), t[:, fixed:]], dim=1) for t in (U, V))
    inner = F.linear(x, V.T) * columns.view(len(columns), *[1] * (x.ndim - 2), -1)
    return F.linear(times(inner, C.T if C is not None and C.ndim == 2 else C), U)


def low_rank_linear(
    x: Float[Tensor, "... i"],
    weight: Float[Tensor, "o i"],
    bias: Float[Tensor, "o"] | None,
    U: Float[Tensor, "o k"],
    C: Float[Tensor, "k k"] | Float[Tensor, "k"] | None,
    V: Float[Tensor, "i k"],
    fixed: int = 0,
) -> Float[Tensor, "... o"]:
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
        g = flat(g)
        learned = slice(ctx.fixed, None)
        gU = gC = gV = None
        if ctx.wide:
            G = (g.T @ flat(x)).to(U.dtype)
            if need_U or need_C:
                GV = G @ V
                gU = GV[:, learned] if need_U else None
                if need_C:
                    gC = (U * GV).sum(0) if C.ndim == 1 else U.T @ GV
            gV = G.T @ U[:, learned] if need_V else None
        else:
            # (aᵀ b)ᵀ with a the narrow one: on a CPU up to ten times faster than bᵀ a at width 8.
            gU = (xV[:, learned].T @ g).T.to(U.dtype) if need_U else None
            if need_C or need_V:
                # A diagonal C needs g U for every column, gV that of the learned columns alone.
                g_U = skinny(g, U if need_C else U[:, learned])
                if need_C:
                    left, right = g_U.to(C.dtype), xV.to(C.dtype)
                    gC = (left * right).sum(0) if C.ndim == 1 else left.T @ right
                    g_U = g_U[:, learned]
                gV = (g_U.T @ flat(x)).T.to(V.dtype) if need_V else None
        if C is not None:
            own = C[learned] if C.ndim == 1 else C
            gU = None if gU is None else times(gU, own.T if C.ndim == 2 else own)
            gV = None if gV is None else times(gV, own)
        if ctx.fixed:
            gU = None if gU is None else F.pad(gU, (ctx.fixed, 0))
            gV = None if gV is None else F.pad(gV, (ctx.fixed, 0))
        return gx, None, None, gU, gC, gV, None


def flat(x: Float[Tensor, "... a"]) -> Float[Tensor, "n a"]:
    """x with its leading axes as one."""
    return x.reshape(-1, x.shape[-1])


def skinny(x: Float[Tensor, "... a"], narrow: Float[Tensor, "a k"]) -> Float[Tensor, "n k"]:
    """x narrow, flattened over the leading axes; quickest with the columns contiguous."""
    return F.linear(flat(x), narrow.T.to(x.dtype).contiguous())
