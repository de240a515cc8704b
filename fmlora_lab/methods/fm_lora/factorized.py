"""F-LoRA: shared bases, per-task coefficients (docs/method.md, section 2).

    W_t = W0 + A C_t Bᵀ        C_t = C_{t-1} + M_t N_tᵀ

Shapes: S sites, A (o, R), B (i, R), C (S, R, R), M and N (S, R, r), with o = d_out, i = d_in. A and
B are frozen for ever once they are made; the cores of all sites are one tensor, so a step forms
them in one go.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.sites import Site

Triple = tuple[Float[Tensor, "_ R"], Float[Tensor, "R R"], Float[Tensor, "_ R"]]
"""A, C, B of a site."""
Side = tuple[Float[Tensor, "_ _"], Float[Tensor, "_ _"] | None]
"""One factor (d, k) of an update, as it is now and as it started; None for zero."""


class FactorizedLoRA(nn.Module):
    """The factors of all sites. It is either `learning_bases` (task 1 as an ordinary LoRA of
    rank R, factors U and V) or adding coefficients to frozen bases."""

    core: Tensor
    own: Tensor

    def __init__(self, sites: list[Site], basis_rank: int):
        super().__init__()
        self.R = min(basis_rank, *(min(site.d_out, site.d_in) for site in sites))
        self.learning_bases = False
        self.U, self.V = nn.ParameterList(), nn.ParameterList()
        self.start = nn.ParameterList()  # V of every site, or M, as the task's update started
        none = torch.empty(len(sites), self.R, 0)
        self.M, self.N = nn.Parameter(none), nn.Parameter(none.clone())
        for i, site in enumerate(sites):
            self.register_buffer(f"A{i}", torch.zeros(site.d_out, self.R))
            self.register_buffer(f"B{i}", torch.zeros(site.d_in, self.R))
        self.register_buffer("core", torch.zeros(len(sites), self.R, self.R))
        self.register_buffer("own", torch.ones(self.R))
        self.sites = len(sites)

    @property
    def busy(self) -> bool:
        """Whether a task's update is being learned, so that it is not in the core yet."""
        return self.learning_bases or self.M.numel() > 0

    def bases(self) -> list[tuple[Float[Tensor, "_ R"], Float[Tensor, "_ R"]]]:
        """(A, B) of every site."""
        return [(getattr(self, f"A{i}"), getattr(self, f"B{i}")) for i in range(self.sites)]

    def set_bases(self, triples: list[Triple]) -> None:
        """Take A, core and B of every site; from here on A and B never change."""
        for i, (A, C, B) in enumerate(triples):
            getattr(self, f"A{i}").copy_(A)
            getattr(self, f"B{i}").copy_(B)
            self.core[i] = C

    def begin_bases(self, generator: torch.Generator) -> None:
        """Task 1 as an ordinary LoRA of rank R: U from zero, V Gaussian with std 1/√d_in."""
        self.learning_bases = True
        self.U = nn.ParameterList(torch.zeros_like(A) for A, _ in self.bases())
        draws = (torch.randn(B.shape, generator=generator) for _, B in self.bases())
        self.V = nn.ParameterList((draw / len(draw) ** 0.5).to(self.core) for draw in draws)
        self._keep_start(self.V)

    @torch.no_grad()
    def start_in(self, directions: list[Float[Tensor, "_ R"]]) -> None:
        """Have V of task 1's LoRA start in these orthonormal directions (i, R) of every site.

        ‖V‖² = R, which is what a Gaussian V has on average.
        """
        for V, chosen in zip(self.V, directions, strict=True):
            V.copy_(chosen)
        self._keep_start(self.V)

    @torch.no_grad()
    def make_bases(self) -> None:
        """Turn U Vᵀ into orthonormal A, B and C_1 = diag(σ), leaving ΔW_1 as it is."""
        self.set_bases([thin_svd(U, V) for U, V in zip(self.U, self.V, strict=True)])
        self.U, self.V, self.start = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        self.learning_bases = False

    def begin_coefficients(
        self,
        ranks: Int64[Tensor, "S"],
        generator: torch.Generator,
        own: Int64[Tensor, "n"] | None = None,
    ) -> None:
        """New M (Gaussian, std 1/√R) and N (zero): ΔW_t = 0 at the start.

        `ranks` is each site's task rank; columns beyond it are zero in M and N alike, so that no
        gradient ever reaches them. `own` lists the basis directions that the task may write into;
        all by default.
        """
        self.own.fill_(0.0 if own is not None else 1.0)
        if own is not None:
            self.own[own] = 1.0
        r = int(ranks.max())
        draw = torch.randn(self.sites, self.R, r, generator=generator).to(self.core)
        keep = (torch.arange(r, device=ranks.device) < ranks[:, None]).to(self.core)
        self.M = nn.Parameter(draw / self.R**0.5 * keep[:, None, :])
        self.N = nn.Parameter(torch.zeros_like(self.M))
        self._keep_start([self.M])

    @torch.no_grad()
    def keep_columns(self, ranks: Int64[Tensor, "S"]) -> None:
        """Keep the first columns of M and N, `ranks` of them a site, as they are."""
        r = int(ranks.max())
        keep = (torch.arange(r, device=ranks.device) < ranks[:, None]).to(self.core)[:, None, :]
        self.M, self.N = nn.Parameter(self.M[..., :r] * keep), nn.Parameter(self.N[..., :r] * keep)
        self._keep_start([self.start[0][..., :r] * keep])

    @torch.no_grad()
    def end_coefficients(self) -> Float[Tensor, "S R R"]:
        """C_t = C_{t-1} + M_t N_tᵀ; M and N leave. Returns the task's own core M_t N_tᵀ."""
        own = self._in_own(self.M) @ self._in_own(self.N).mT
        self.core += own
        self.drop_coefficients()
        return own

    @torch.no_grad()
    def drop_coefficients(self) -> None:
        """M and N leave as if they had not been."""
        self.M, self.N = nn.Parameter(self.M[..., :0]), nn.Parameter(self.N[..., :0])
        self.start = nn.ParameterList()

    def factors(
        self, columns: Float[Tensor, "S r"] | Float[Tensor, "r"] | None = None
    ) -> list[Factors]:
        """U, C, V of every site; `columns` weighs the columns (nested ranks)."""
        if self.learning_bases:
            return [Factors(U, None, V) for U, V in zip(self.U, self.V, strict=True)]
        core = self.core
        if self.M.numel():
            M = self.M if columns is None else self.M * columns[..., None, :]
            core = torch.baddbmm(core, self._in_own(M), self._in_own(self.N).mT)
        return [Factors(A, C, B) for (A, B), C in zip(self.bases(), core.unbind(), strict=True)]

    def sides(self) -> list[tuple[Side, Side]]:
        """What the task's update is made of at every site, now and as it started: U and V, or M
        and N in the core's coordinates, of the directions that the task may write into."""
        if self.learning_bases:
            moved = zip(self.U, self.V, self.start, strict=True)
            return [((U, None), (V, start)) for U, V, start in moved]
        start = self.start[0] if self.start else self.M
        rows = [part[:, self.own > 0] for part in (self.M, start, self.N)]
        return [((M, M_start), (N, None)) for M, M_start, N in zip(*rows, strict=True)]

    def _keep_start(self, tensors: Iterable[Tensor]) -> None:
        kept = (nn.Parameter(tensor.detach().clone(), requires_grad=False) for tensor in tensors)
        self.start = nn.ParameterList(kept)

    def _in_own(self, coefficients: Float[Tensor, "S R r"]) -> Float[Tensor, "S R r"]:
        """M or N with the rows of directions that are not the task's own set to zero."""
        return coefficients * self.own[:, None]


def thin_svd(
    U: Float[Tensor, "o k"], V: Float[Tensor, "i k"]
) -> tuple[Float[Tensor, "o n"], Float[Tensor, "n n"], Float[Tensor, "i n"]]:
    """SVD of U Vᵀ by QR of U and V and a small SVD, in float64; n = min(o, i, k).

    Returns A, diag(σ), B in the type of U, σ falling: the first n' columns are the best basis of
    rank n'. The (o, i) product is never formed.
    """
    Qu, Ru = torch.linalg.qr(U.double())
    Qv, Rv = torch.linalg.qr(V.double())
    left, sigma, rightT = torch.linalg.svd(Ru @ Rv.T, full_matrices=False)
    return (Qu @ left).to(U), torch.diag(sigma).to(U), (Qv @ rightT.T).to(U)
