"""Where F-LoRA's bases can come from besides the first task (docs/method.md, section 2).

Each source gives (A, C, B) a site: A (o, R), B (i, R) orthonormal, C zero. The same directions B
are what V of the first task's LoRA can start in. Shape letters: o = d_out, i = d_in, R the width
of the bases.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.sites import Site
from fmlora_lab.methods.fm_lora.factorized import Triple, thin_svd


def from_weight_svd(site: Site, R: int) -> Triple:
    """The top R singular vectors of W0 (of its adapted rows)."""
    W = site.weight.detach() if site.rows is None else site.weight.detach()[site.rows]
    left, _, rightT = torch.linalg.svd(W, full_matrices=False)
    return _with_zero_core(left[:, :R], rightT[:R].T)


def top_inputs(moments: Float[Tensor, "i i"], R: int) -> Float[Tensor, "i R"]:
    """The top R right singular vectors of a site's inputs (n, i), from their second moments."""
    return torch.linalg.eigh(moments).eigenvectors.flip(1)[:, :R]


def from_random(site: Site, R: int, generator: torch.Generator) -> Triple:
    """Orthonormal Gaussian directions."""
    A, B = (
        torch.linalg.qr(torch.randn(rows, R, generator=generator)).Q.to(site.weight)
        for rows in (site.d_out, site.d_in)
    )
    return _with_zero_core(A, B)


class GradientSketch(nn.Module):
    """Low-rank sketches of the mean gradient G = ∂L/∂W0 over one pass, without forming G.

    A site with factors U = [0 | Ω'], V = [Ω | 0] has U Vᵀ = 0, so the network is the pre-trained
    one, while the factors' gradients are gU = G [Ω | 0] and gV = Gᵀ [0 | Ω']: both sketches of a
    two-sided (Nyström) approximation G ≈ Y (Ω'ᵀ Y)⁺ Zᵀ, with Y = G Ω and Z = Gᵀ Ω'.
    """

    def __init__(self, sites: list[Site], R: int, generator: torch.Generator):
        super().__init__()
        self.R = R
        self.U, self.V = nn.ParameterList(), nn.ParameterList()
        for site in sites:
            k = min(R + 8, site.d_out, site.d_in)  # 8 more than asked for, as is usual
            U, V = torch.zeros(site.d_out, 2 * k), torch.zeros(site.d_in, 2 * k)
            U[:, k:] = torch.randn(site.d_out, k, generator=generator) / site.d_out**0.5
            V[:, :k] = torch.randn(site.d_in, k, generator=generator) / site.d_in**0.5
            self.U.append(U.to(site.weight))
            self.V.append(V.to(site.weight))

    def factors(self) -> list[Factors]:
        return [Factors(U, None, V) for U, V in zip(self.U, self.V, strict=True)]

    def triples(self) -> list[Triple]:
        """(A, 0, B) a site: the top R singular vectors of the sketched gradient."""
        found = []
        for U, V in zip(self.U, self.V, strict=True):
            k = U.shape[1] // 2
            Y, Z = U.grad[:, :k].double(), V.grad[:, k:].double()
            middle = torch.linalg.pinv(U.detach()[:, k:].double().T @ Y)
            A, _, B = thin_svd(Y @ middle, Z)
            found.append(_with_zero_core(A[:, : self.R].to(U), B[:, : self.R].to(U)))
        return found


def shared(triples: list[Triple], groups: list[list[int]], R: int) -> list[Triple]:
    """One A and one B for each group of sites, and each site's core in those bases.

    A is the top R left singular vectors of the group's A_i C_i side by side (of its A_i where the
    cores are zero), B those of the B_i C_iᵀ: no basis of that size keeps more of what the sites
    have. Of ΔW_1 a site keeps the part in their span, which is not all of it.
    """
    found = list(triples)
    for group in groups:
        A = _common([_weighted(A, C) for A, C, _ in (triples[i] for i in group)], R)
        B = _common([_weighted(B, C.mT) for _, C, B in (triples[i] for i in group)], R)
        for i in group:
            Ai, C, Bi = triples[i]
            found[i] = (A, A.T @ Ai @ C @ (Bi.T @ B), B)
    return found


def _weighted(basis: Float[Tensor, "d R"], core: Float[Tensor, "R R"]) -> Float[Tensor, "d R"]:
    return basis @ core if core.any() else basis


def _common(sides: list[Float[Tensor, "d _"]], R: int) -> Float[Tensor, "d {R}"]:
    left, _, _ = torch.linalg.svd(torch.cat(sides, dim=1).double(), full_matrices=False)
    return left[:, :R].to(sides[0])


def _with_zero_core(A: Float[Tensor, "o R"], B: Float[Tensor, "i R"]) -> Triple:
    return A, A.new_zeros(A.shape[1], A.shape[1]), B
