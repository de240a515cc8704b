"""F-LoRA: bases, coefficients and cores are what docs/method.md, section 2, says."""

import pytest
import torch
from torch import nn

from fmlora_lab.backbone.low_rank import adapted_linear
from fmlora_lab.backbone.vit import Site, ViT
from fmlora_lab.methods.fm_lora.bases import GradientSketch, from_random, from_weight_svd
from fmlora_lab.methods.fm_lora.factorized import FactorizedLoRA, thin_svd

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
SOURCES = ("first-task", "weight-svd", "first-task-gradient", "random")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def close(found, expected, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def assert_orthonormal(A: torch.Tensor, tolerance: float) -> None:
    close(A.T @ A, torch.eye(A.shape[1], dtype=A.dtype), tolerance)


@pytest.fixture
def sites(tiny_vit) -> list[Site]:
    return ViT(tiny_vit()).adapt(("attn.q", "attn.proj", "mlp.fc1", "mlp.fc2"))


def with_bases(sites: list[Site], R: int, dtype=torch.float64) -> FactorizedLoRA:
    """Task 1 ended: U and V have learned something, bases are made."""
    f = FactorizedLoRA(sites, R).to(dtype)
    f.begin_bases(generator())
    with torch.no_grad():
        for n, U in enumerate(f.U):
            U.copy_(draw(*U.shape, seed=n))
    f.make_bases()
    return f


def learn_coefficients(f: FactorizedLoRA, rank: int, seed: int) -> None:
    f.begin_coefficients(torch.full((f.sites,), rank), generator(seed))
    with torch.no_grad():
        f.N.copy_(draw(*f.N.shape, seed=seed + 100))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_making_the_bases_leaves_the_first_update_as_it_is(sites, dtype):
    f = FactorizedLoRA(sites, 6).to(dtype)
    f.begin_bases(generator())
    with torch.no_grad():
        for n, U in enumerate(f.U):
            U.copy_(draw(*U.shape, seed=n))
    before = [factors.dense().detach() for factors in f.factors()]
    products = [torch.einsum("ok,ik->oi", U, V).detach() for U, V in zip(f.U, f.V, strict=True)]
    f.make_bases()
    assert not f.learning_bases and not f.busy
    for n, (A, B) in enumerate(f.bases()):
        assert_orthonormal(A, TOLERANCE[dtype])
        assert_orthonormal(B, TOLERANCE[dtype])
        sigma = f.core[n].diagonal()
        assert (sigma.diff() <= 0).all() and (sigma > 0).all()
        assert torch.equal(f.core[n], torch.diag(sigma))
        after = torch.einsum("oa,ab,ib->oi", A, f.core[n], B)
        size = TOLERANCE[dtype] * products[n].abs().max().item()
        close(after, products[n], size)
        close(before[n], products[n], size)
        close(f.factors()[n].dense(), after, size)


def test_the_first_columns_are_the_best_basis_of_their_rank():
    U, V = draw(9, 5, seed=1), draw(7, 5, seed=2)
    A, sigma, B = thin_svd(U, V)
    left, values, rightT = torch.linalg.svd(U @ V.T)
    close(sigma.diagonal(), values[:5], 1e-10)
    for k in range(1, 6):
        best = left[:, :k] * values[:k] @ rightT[:k]
        close(A[:, :k] @ sigma[:k, :k] @ B[:, :k].T, best, 1e-10)


@pytest.mark.parametrize(("o", "i", "k"), [(7, 5, 9), (5, 7, 9), (7, 5, 6)])
def test_more_columns_than_a_side_has_numbers_are_no_more_directions(o, i, k):
    U, V = torch.randn(o, k), torch.randn(i, k)
    A, sigma, B = thin_svd(U, V)
    n = min(o, i, k)
    assert (A.shape, sigma.shape, B.shape) == ((o, n), (n, n), (i, n))
    assert torch.allclose(A @ sigma @ B.T, U @ V.T, atol=1e-4)


def test_an_untrained_first_task_still_leaves_orthonormal_bases(sites):
    """U = 0 (a site that got no gradient): the update is zero, the bases are usable."""
    f = FactorizedLoRA(sites, 6)
    f.begin_bases(generator())
    f.make_bases()
    for A, B in f.bases():
        assert_orthonormal(A, 1e-5)
        assert_orthonormal(B, 1e-5)
    assert f.core.abs().max() == 0


def test_the_update_is_the_dense_product(sites):
    f = with_bases(sites, 6)
    C_1 = f.core.clone()
    for task, rank in enumerate((2, 4, 3)):
        assert not f.busy
        start = [factors.dense() for factors in f.factors()]
        f.begin_coefficients(torch.full((f.sites,), rank), generator(task))
        assert f.busy
        for factors, was in zip(f.factors(), start, strict=True):
            assert torch.equal(factors.dense(), was)  # ΔW_t = 0 at the start
        learn_coefficients(f, rank, task)
        M, N = f.M.detach().clone(), f.N.detach().clone()
        for n, (A, B) in enumerate(f.bases()):
            own = torch.einsum("oa,ar,br,ib->oi", A, M[n], N[n], B)
            close(f.factors()[n].dense(), start[n] + own, 1e-10)
            assert own.abs().max() > 0.1
        C_1 = C_1 + torch.einsum("sar,sbr->sab", M, N)
        close(f.end_coefficients(), torch.einsum("sar,sbr->sab", M, N), 1e-10)
        close(f.core, C_1, 1e-10)


def test_new_coefficients_start_as_they_should(sites):
    f = with_bases(sites, 16, torch.float32)
    f.begin_coefficients(torch.full((f.sites,), 16), generator())
    assert f.M.shape == f.N.shape == (f.sites, 16, 16)
    assert f.M.std().item() == pytest.approx(16**-0.5, rel=0.05)
    assert f.N.abs().max() == 0
    assert not any(tensor.requires_grad for pair in f.bases() for tensor in pair)


def test_the_first_task_starts_from_zero_with_gaussian_right_factors(tiny_vit):
    f = FactorizedLoRA(ViT(tiny_vit(depth=4)).adapt(("mlp.fc2",)), 16)
    f.begin_bases(generator())
    for factors in f.factors():
        assert factors.dense().abs().max() == 0
    assert torch.stack([*f.V]).std().item() == pytest.approx(128**-0.5, rel=0.05)


def test_columns_beyond_a_sites_rank_stay_zero_and_get_no_gradient(sites):
    f = with_bases(sites, 6)
    ranks = torch.tensor([1, 4, 2, 3, 1, 2, 3, 4])
    f.begin_coefficients(ranks, generator())
    assert f.M.shape[-1] == 4
    for _ in range(2):  # at N = 0 M gets no gradient; a step later it does
        sum(factors.dense().square().sum() for factors in f.factors()).backward()
        with torch.no_grad():
            for p in (f.M, f.N):
                p -= 0.1 * p.grad
    for p in (f.M, f.N):
        for n, r in enumerate(ranks):
            assert p[n, :, r:].abs().max().item() == 0 if r < 4 else True
            assert p.grad[n, :, :r].abs().max() > 0
            assert not p.grad[n, :, r:].any()


def test_frobenius_products_of_updates_are_those_of_their_cores(sites):
    """⟨ΔW_i, ΔW_j⟩ = ⟨M_i N_iᵀ, M_j N_jᵀ⟩, because A and B are orthonormal."""
    f = with_bases(sites, 6)
    own = []
    for task in range(3):
        learn_coefficients(f, task + 1, task)
        own.append(f.end_coefficients())
    for n, (A, B) in enumerate(f.bases()):
        dense = [torch.einsum("oa,ab,ib->oi", A, C[n], B) for C in own]
        for i in range(3):
            for j in range(3):
                close((dense[i] * dense[j]).sum(), (own[i][n] * own[j][n]).sum(), 1e-10)


def test_the_basis_rank_is_capped_by_the_smallest_side(tiny_vit, sites):
    assert FactorizedLoRA(sites, 1000).R == 32
    assert FactorizedLoRA(sites, 31).R == 31
    thin = ViT(tiny_vit(mlp_ratio=0.5)).adapt(("attn.proj", "mlp.fc1"))
    f = FactorizedLoRA(thin, 20)
    assert f.R == 16 and f.core.shape == (4, 16, 16)
    assert [tuple(A.shape) for A, _ in f.bases()] == [(32, 16), (16, 16)] * 2


# Where bases come from


def same_directions(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Column by column, up to sign."""
    close((found * expected).sum(0).abs(), torch.ones(found.shape[1], dtype=found.dtype), tolerance)


def test_bases_from_the_weights_are_its_top_singular_vectors(sites):
    for site in sites:
        W = site.weight.detach()[:32] if site.name.endswith("qkv") else site.weight.detach()
        left, _, rightT = torch.linalg.svd(W)
        A, C, B = from_weight_svd(site, 5)
        assert A.shape == (site.d_out, 5) and B.shape == (site.d_in, 5)
        same_directions(A, left[:, :5], 1e-4)
        same_directions(B, rightT[:5].T, 1e-4)
        assert C.shape == (5, 5) and not C.any()


def test_random_bases_are_orthonormal_and_seeded(sites):
    for site in sites:
        A, C, B = from_random(site, 5, generator(1))
        assert_orthonormal(A, 1e-5)
        assert_orthonormal(B, 1e-5)
        assert not C.any()
        again, _, _ = from_random(site, 5, generator(1))
        other, _, _ = from_random(site, 5, generator(2))
        assert torch.equal(A, again) and not torch.allclose(A, other)


@pytest.mark.parametrize("R", [3, 6], ids=["R=rank", "R>rank"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-3)], ids=str
)
def test_a_sketched_gradient_has_the_true_ones_singular_vectors(dtype, tolerance, R):
    """A gradient of rank exactly 3, over two batches, with well separated singular values."""
    site = Site("layer", nn.Linear(24, 20, dtype=dtype), None)
    site.requires_grad_(False)
    left, right = (torch.linalg.qr(draw(rows, 3, seed=rows)).Q for rows in (20, 24))
    batches = []
    for seed in range(2):
        mix = torch.eye(3) + 0.2 * draw(3, 3, seed=seed)
        target = (left * torch.tensor([4.0, 2.0, 1.0]) @ mix).T.to(dtype)  # ∂L/∂y, (3, 20)
        batches.append((right.T.to(dtype), target))
    true = sum(target.T @ x for x, target in batches)
    assert torch.linalg.matrix_rank(true, rtol=1e-4) == 3

    sketch = GradientSketch([site], R, generator())
    for x, target in batches:
        (factors,) = sketch.factors()
        y = adapted_linear(x, site.weight, site.bias, factors)
        close(y, site(x), TOLERANCE[dtype])  # the network is the pre-trained one
        (y * target).sum().backward()
    ((A, C, B),) = sketch.triples()
    assert A.shape == (20, R) and B.shape == (24, R) and not C.any()
    U, _, VT = torch.linalg.svd(true)
    same_directions(A[:, :3], U[:, :3], tolerance)
    same_directions(B[:, :3], VT[:3].T, tolerance)
    assert_orthonormal(A, 1e-4)
    assert_orthonormal(B, 1e-4)


def test_a_sketch_of_a_gradient_of_full_rank_keeps_its_leading_part():
    """Singular values 2⁻ⁿ: the best rank-4 basis leaves 2⁻⁸ of the energy, the sketch's nearly."""
    site = Site("layer", nn.Linear(24, 20, dtype=torch.float64), None).requires_grad_(False)
    left, right = (torch.linalg.qr(draw(rows, 20, seed=rows)).Q for rows in (20, 24))
    G = left * 2.0 ** -torch.arange(20) @ right.T
    sketch = GradientSketch([site], 4, generator())
    (factors,) = sketch.factors()
    y = adapted_linear(torch.eye(24, dtype=torch.float64), site.weight, site.bias, factors)
    (y * G.T).sum().backward()
    ((A, _, B),) = sketch.triples()
    lost = 1 - (A.T @ G @ B).norm() ** 2 / G.norm() ** 2
    assert lost < 2 * 2.0**-8


# A whole training


class Watching:
    """A keeper's mixin that copies the bases whenever a task has ended."""

    def watch(self, run):
        self.run, self.bases = run, []

    def save_task(self, index, tensors):
        super().save_task(index, tensors)
        pairs = self.run.method.factorized.bases()
        self.bases.append([(A.clone(), B.clone()) for A, B in pairs])


@pytest.fixture
def trained(trainer, tiny_stream, memory_keeper):
    """`trained(**settings)`: three tasks of FM-LoRA; the trainer and its keeper."""

    def make(tasks: int = 3, **method):
        settings = {"name": "fm-lora", "basis_rank": 8, "rank": 3, "lr": 0.02, **method}
        settings.setdefault("bases", {"lr": 0.02})
        settings.setdefault("drs", {"candidates": [1, 2, 4, 8]})
        keeper = type("Watcher", (Watching, memory_keeper), {})()
        run = trainer(settings, tiny_stream(classes=2 * tasks, tasks=tasks), keeper=keeper)
        keeper.watch(run)
        run.run()
        return run, keeper

    return make


@pytest.mark.parametrize("source", SOURCES)
def test_bases_never_change_after_they_were_made(trained, source):
    run, keeper = trained(bases={"from": source, "lr": 0.02})
    assert len(keeper.bases) == 3
    for later in keeper.bases[1:]:
        for first, now in zip(keeper.bases[0], later, strict=True):
            assert torch.equal(first[0], now[0]) and torch.equal(first[1], now[1])
    for site, (A, B) in zip(run.learner.model.sites, keeper.bases[0], strict=True):
        assert_orthonormal(A, 1e-5)
        assert_orthonormal(B, 1e-5)
        assert torch.equal(keeper.records[0][f"A.{site.name}"], A)
        assert torch.equal(keeper.records[0][f"B.{site.name}"], B)
    cores = [record["core"] for record in keeper.records]
    assert not torch.allclose(cores[0], cores[2], atol=1e-4)  # later tasks did learn


@pytest.mark.parametrize("source", SOURCES)
def test_the_core_reproduces_the_merged_weights(trained, tiny_vit, source):
    """W = W0 + A (C_1 + Σ M_i N_iᵀ) Bᵀ, from the pre-trained weights and the tasks' records."""
    run, keeper = trained(bases={"from": source, "lr": 0.02})
    plain = tiny_vit().state_dict()
    first, *later = keeper.records
    C = first["own_core"]
    if source != "first-task":  # the first task has coefficients like any other
        close(C, first["M"] @ first["N"].mT, 1e-6)
    for record in later:
        C = C + torch.einsum("sar,sbr->sab", record["M"], record["N"])
        close(record["core"], C, 1e-5)
    merged, _ = run.learner.merge()
    for n, site in enumerate(run.learner.model.sites):
        A, B = first[f"A.{site.name}"], first[f"B.{site.name}"]
        update = torch.einsum("oa,ab,ib->oi", A, C[n], B)
        name = f"{site.name}.weight"
        close(merged[name], plain[name] + update, 1e-5)
        assert update.abs().max() > 1e-3


@pytest.mark.parametrize("drs", [True, False], ids=["selector", "fixed-rank"])
@pytest.mark.parametrize("source", ["first-task", "random"])
def test_a_task_trains_at_most_2_R_r_numbers_a_site(trained, source, drs):
    run, keeper = trained(
        bases={"from": source},
        drs={"enabled": drs, "candidates": [1, 2, 4, 8]},
        prompt={"tokens": 0},
    )
    sites, head = run.learner.model.sites, 2 * 33  # the rows of two classes, with their biases
    for index, (trained_numbers, record) in enumerate(
        zip(run.at.trained, keeper.records, strict=True)
    ):
        ranks = record["rank"]
        assert ranks.shape == (len(sites),)
        if index == 0 and source == "first-task":
            assert (ranks == 8).all()
            assert trained_numbers - head == sum(8 * (s.d_out + s.d_in) for s in sites)
        else:
            assert (ranks == 3).all() or drs
            assert trained_numbers - head == sum(2 * 8 * int(r) for r in ranks)
            for M in (record["M"], record["N"]):
                assert M.shape == (len(sites), 8, int(ranks.max()))


def test_inference_with_the_latest_update_alone(trained, tiny_vit):
    run, keeper = trained(inference="latest")
    plain = tiny_vit().state_dict()
    state, _ = run.learner.merge()
    first, last = keeper.records[0], keeper.records[-1]
    for n, site in enumerate(run.learner.model.sites):
        A, B = first[f"A.{site.name}"], first[f"B.{site.name}"]
        own = torch.einsum("oa,ar,br,ib->oi", A, last["M"][n], last["N"][n], B)
        close(state[f"{site.name}.weight"], plain[f"{site.name}.weight"] + own, 1e-5)
    assert not torch.allclose(last["own_core"], last["core"], atol=1e-3)


def test_cumulative_and_latest_train_alike(trained):
    """What is learned does not depend on how it predicts: cores go on from the whole sum."""
    cores = [trained(inference=how)[1].records[-1]["core"] for how in ("cumulative", "latest")]
    assert torch.equal(*cores)


@pytest.mark.parametrize("freeze", [True, False])
def test_the_prompt_is_one_for_all_tasks(trained, freeze):
    _, keeper = trained(prompt={"tokens": 3, "lr": 0.02, "freeze_after_first": freeze})
    P = [record["prompts"] for record in keeper.records]
    assert P[0].shape == (3, 32)
    assert torch.equal(P[0], P[2]) == freeze
