"""The one operation of every low-rank method: y = x (W0 + U C Vᵀ)ᵀ + b.

Shape letters: n images × tokens, o = d_out, i = d_in, k the width of the factors.

An adapter as a side branch, x Wᵀ + (x V) (U C)ᵀ, reads and writes an (n, o) tensor once more and
keeps every intermediate for the backward pass. Here the effective weight is formed once a step,
o·k·i operations whatever the batch, and the factors' gradients come from skinny products that
never form the dense (o, i) weight gradient:

    Wₑ = W0 + U C Vᵀ        y = x Wₑᵀ + b        gx = g Wₑ
    gC = (g U)ᵀ (x V)       gU = gᵀ (x V) Cᵀ     gV = xᵀ (g U) C

In a 16-bit type neither Wₑ nor y may be rounded before the update is in: half a step of bfloat16
is 0.2 to 0.4% of a number, as much as an update, and what a weight loses is the same in every row
and averages out nowhere. There the update meets the product in its accumulator:

    y = [x | x V Cᵀ] [W0 | U]ᵀ + b        gx = [g | g U C] [W0 ; Vᵀ]

Factors wider than about o·i / (o + i) columns make the dense form the cheaper way: ΔW takes their
place beside W0, and with G = gᵀ x no float32 step costs more than full fine-tuning's: gC = Uᵀ G V,
gU = G V Cᵀ, gV = Gᵀ U C.
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


def transposed(
    C: Float[Tensor, "k k"] | Float[Tensor, "k"] | None,
) -> Float[Tensor, "k k"] | Float[Tensor, "k"] | None:
    """Cᵀ, whichever form C has."""
    return C.mT if C is not None and C.ndim == 2 else C


def adapted_linear(
    x: Float[Tensor, "... i"],
    weight: Float[Tensor, "o i"],
    bias: Float[Tensor, "o"] | None,
    factors: Factors | None,
    merged: bool = False,
) -> Float[Tensor, "... o"]:
    """y = x (weight + ΔW)ᵀ + bias, with columns in use that may depend on x; ΔW = 0 for None.

    `merged` is as in `low_rank_linear`.
    """
    if factors is None:
        if not merged or weight.requires_grad:
            return F.linear(x, weight, bias)
        factors = Factors(weight.new_zeros(len(weight), 0), None, weight.new_zeros(x.shape[-1], 0))
    columns = factors.columns(x) if callable(factors.columns) else factors.columns
    if columns is None or columns.ndim == 1:
        U, C, V, fixed, _ = factors._replace(columns=columns).weighed()
        return low_rank_linear(x, weight, bias, U, C, V, fixed, merged)
    U, C, V, fixed, _ = factors
    with torch.autocast(x.device.type, enabled=False):  # the sum of two rounded products is not it
        exact = x.to(weight.dtype)
        y = F.linear(exact, weight, bias) + side_branch(exact, U, C, V, columns.to(exact), fixed)
    return y.to(x.dtype)


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
    return F.linear(times(inner, transposed(C)), U)


def low_rank_linear(
    x: Float[Tensor, "... i"],
    weight: Float[Tensor, "o i"],
    bias: Float[Tensor, "o"] | None,
    U: Float[Tensor, "o k"],
    C: Float[Tensor, "k k"] | Float[Tensor, "k"] | None,
    V: Float[Tensor, "i k"],
    fixed: int = 0,
    merged: bool = False,
) -> Float[Tensor, "... o"]:
    """y = x (weight + U C Vᵀ)ᵀ + bias, for x (..., i); returns (..., o).

    `weight` (o, i) and `bias` (o,) are frozen: a ValueError says so where they ask for gradients.
    C (k, k), (k,) or None and `fixed` are as in `Factors`. `x` may be in a 16-bit type while the
    rest is in float32 (autocast); products then run in that type. `merged` says that the weight
    has updates summed in, which rounding it would take away: in a 16-bit type y is then of two
    weights, its rounded value and what that leaves; gx is of the former alone.
    """
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        raise ValueError("low_rank_linear adapts a frozen layer: weight and bias take no gradient")
    if fixed and C is not None and C.ndim == 2:
        raise ValueError("fixed columns need a C that is diagonal or None")
    with torch.autocast(x.device.type, enabled=False):  # it would round what is summed in float32
        return _LowRankLinear.apply(x, weight, bias, U, C, V, fixed, merged)


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, U, C, V, fixed, merged):
        _, _, _, need_U, need_C, need_V, *_ = ctx.needs_input_grad
        (o, k), i = U.shape, len(V)
        wide, narrow = k * (o + i) > o * i, x.dtype.itemsize == 2
        ctx.fixed, ctx.wide = fixed, wide and (need_U or need_C or need_V)
        ctx.beside = narrow and not wide
        effective = weight if ctx.beside else torch.addmm(weight, times(U, C), V.T)
        weights = [effective.to(x.dtype)]
        if narrow and (wide or merged):
            weights.append((effective - weights[0]).to(x.dtype))
        keep_xV = (need_U or need_C) and not ctx.wide
        xV = skinny(x, V) if keep_xV or ctx.beside else None
        left, right = [x] * len(weights), weights
        if ctx.beside:
            assert xV is not None
            p = through(xV, transposed(C)).view(*x.shape[:-1], k)
            left, right = [*left, p], [*weights, U.to(x.dtype)]
        y = F.linear(joined(left, -1), joined(right, 1), None if bias is None else bias.to(x.dtype))
        # x itself is kept only where V learns: with frozen bases n·k numbers are enough.
        kept = (x if need_V or ctx.wide else None, xV if keep_xV else None)
        # What rounding leaves of a merged weight is no part of gx: it would cost another product.
        ctx.save_for_backward(*kept, U, C, V, *(weights if wide else weights[:1]))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, xV, U, C, V, *weights = ctx.saved_tensors
        need_x, _, _, need_U, need_C, need_V, *_ = ctx.needs_input_grad
        learned = slice(ctx.fixed, None)
        gx = gU = gC = gV = None
        # gV needs g U of the learned columns alone, all else that of every column.
        every = need_C or (need_x and ctx.beside)
        used = (every or need_V) and not ctx.wide
        g_U = skinny(g, U if every else U[:, learned]) if used else g[..., :0]
        if need_x:
            left, right = [g] * len(weights), weights
            if ctx.beside:
                q = through(g_U, C).view(*g.shape[:-1], -1)
                left, right = [*left, q], [*weights, V.T.to(g.dtype)]
            gx = joined(left, -1) @ joined(right, 0)
        g = flat(g)
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
            if need_C:
                a, b = g_U.to(C.dtype), xV.to(C.dtype)
                gC = (a * b).sum(0) if C.ndim == 1 else a.T @ b
            if need_V:
                own = g_U[:, learned] if every else g_U
                gV = (own.T @ flat(x)).T.to(V.dtype)
        if C is not None:
            own = C[learned] if C.ndim == 1 else C
            gU = None if gU is None else times(gU, transposed(own))
            gV = None if gV is None else times(gV, own)
        if ctx.fixed:
            gU = None if gU is None else F.pad(gU, (ctx.fixed, 0))
            gV = None if gV is None else F.pad(gV, (ctx.fixed, 0))
        return gx, None, None, gU, gC, gV, None, None


def flat(x: Float[Tensor, "... a"]) -> Float[Tensor, "n a"]:
    """x with its leading axes as one."""
    return x.reshape(-1, x.shape[-1])


def skinny(x: Float[Tensor, "... a"], narrow: Float[Tensor, "a k"]) -> Float[Tensor, "n k"]:
    """x narrow, flattened over the leading axes; quickest with the columns contiguous."""
    return F.linear(flat(x), narrow.T.to(x.dtype).contiguous())


def joined(parts: list[Tensor], dim: int) -> Tensor:
    """The parts as one tensor; a lone one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def through(
    x: Float[Tensor, "n k"], C: Float[Tensor, "k k"] | Float[Tensor, "k"] | None
) -> Float[Tensor, "n k"]:
    """x C, multiplied in C's type and rounded as x is: what C gains in a step is not."""
    return x if C is None else times(x.to(C.dtype), C).to(x.dtype)
