"""Where F-LoRA's bases can come from besides the first task (METHOD section 2).

Each source gives (A, C, B) a site: A (d_out, R), B (d_in, R) orthonormal, C zero.
"""

import torch
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.vit import Site
from fmlora_lab.methods.fm_lora.factorized import thin_svd

Triple = tuple[Tensor, Tensor, Tensor]


def from_weight_svd(site: Site, R: int) -> Triple:
    """The top R singular vectors of W0 (of its adapted rows)."""
    W = site.weight.detach() if site.rows is None else site.weight.detach()[site.rows]
    left, _, rightT = torch.linalg.svd(W, full_matrices=False)
    return _with_zero_core(left[:, :R], rightT[:R].T)


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
            for factors, rows, own in (
                (self.U, site.d_out, slice(k, None)),
                (self.V, site.d_in, slice(0, k)),
            ):
                test = torch.zeros(rows, 2 * k)
                test[:, own] = torch.randn(rows, k, generator=generator) / rows**0.5
                factors.append(nn.Parameter(test.to(site.weight)))

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


def _weighted(basis: Tensor, core: Tensor) -> Tensor:
    return basis @ core if core.any() else basis


def _common(sides: list[Tensor], R: int) -> Tensor:
    left, _, _ = torch.linalg.svd(torch.cat(sides, dim=1).double(), full_matrices=False)
    return left[:, :R].to(sides[0])


def _with_zero_core(A: Tensor, B: Tensor) -> Triple:
    return A, A.new_zeros(A.shape[1], A.shape[1]), B
