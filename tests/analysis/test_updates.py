"""Subspace measures from factors alone agree with dense float64 mathematics.

Here the products ΔW = U Vᵀ are formed; the package never does.
"""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmlora_lab import grid, sweep
from fmlora_lab.analysis.updates import (
    between,
    by_chance,
    collisions,
    cosines,
    directions,
    interference,
    measured,
    measured_span,
    norm,
    overlap,
    overlaps,
    spaces,
    span,
    updates,
)
from fmlora_lab.config import METHOD_LABELS, BadInput
from fmlora_lab.runs.stored import Run

pytestmark = pytest.mark.unit


def dense(u) -> np.ndarray:
    return u[0] @ u[1].T


def column_space(X: np.ndarray) -> np.ndarray:
    left, sigma, _ = np.linalg.svd(X, full_matrices=False)
    return left[:, directions(sigma)]


def principal_cosines(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    return cosines(column_space(X), column_space(Y))


def share_in_span(u, A: np.ndarray, B: np.ndarray) -> float:
    """As `span` counts it, of one update: ‖A Aᵀ ΔW B Bᵀ‖² / ‖ΔW‖², 0 for no update."""
    return (norm((A.T @ u[0], B.T @ u[1])) / (norm(u) or 1.0)) ** 2


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


def close(found, expected, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def drawn(d_out: int, d_in: int, k: int, seed: int):
    draw = np.random.default_rng(seed)
    return draw.standard_normal((d_out, k)), draw.standard_normal((d_in, k))


def orthonormal(d: int, k: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, k)))[0]


pairs = given(
    d_out=st.integers(1, 9),
    d_in=st.integers(1, 9),
    widths=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 10**6),
)


# Overlaps


@pairs
def test_overlap_is_the_normalised_frobenius_product(d_out, d_in, widths, seed):
    u, w = (drawn(d_out, d_in, k, seed + i) for i, k in enumerate(widths))
    close(overlap(u, w), cosine(dense(u), dense(w)))
    close(overlap(u, w), overlap(w, u))
    close(overlap(u, u), 1)
    close(overlap((-u[0], u[1]), u), -1)
    close(overlap((u[0] * 1e-7, u[1] * 300), w), overlap(u, w))
    close(norm(u), np.linalg.norm(dense(u)))


def test_an_update_of_zero_overlaps_with_nothing():
    u, zero = drawn(5, 4, 2, 0), (np.zeros((5, 2)), np.ones((4, 2)))
    assert overlap(u, zero) == overlap(zero, zero) == 0
    assert share_in_span(zero, np.eye(5), np.eye(4)) == 0
    assert principal_cosines(u[0], zero[0]).size == spaces(zero)[0].size == 0


def test_overlaps_are_those_of_every_two_tasks_of_different_widths():
    of = [{site: drawn(6, 5, 1 + t, 10 * t + site) for site in (0, 1)} for t in range(3)]
    for site, table in overlaps(of).items():
        wanted = [[cosine(dense(a[site]), dense(b[site])) for b in of] for a in of]
        close(table, wanted)


def test_with_orthonormal_bases_products_are_those_of_the_cores():
    A, B = orthonormal(12, 4), orthonormal(9, 4, 1)
    C, D = drawn(4, 4, 4, 2)
    close(overlap((A @ C, B), (A @ D, B)), cosine(C, D))
    close(norm((A @ C, B)), np.linalg.norm(C))


def test_no_dense_product_is_formed():
    """It would have 4·10¹⁰ numbers."""
    u, w = drawn(200_000, 200_000, 2, 0), drawn(200_000, 200_000, 2, 1)
    assert abs(overlap(u, w)) < 0.1 and overlap(u, u) == pytest.approx(1)
    A, B = spaces(u)
    assert share_in_span(u, A, B) == pytest.approx(1)
    assert principal_cosines(u[0], A) == pytest.approx(1)


# Angles


@pairs
def test_cosines_are_the_roots_of_the_eigenvalues_of_the_projections(d_out, d_in, widths, seed):
    """cos² are the largest eigenvalues of P_X P_Y, P = X X⁺ (d, d)."""
    X, Y = (drawn(d_out, d_in, k, seed + i)[0] for i, k in enumerate(widths))
    found = principal_cosines(X, Y)
    products = np.linalg.eigvals(X @ np.linalg.pinv(X) @ Y @ np.linalg.pinv(Y)).real
    close(found**2, np.sort(products)[::-1][: len(found)])
    assert len(found) == min(d_out, *widths)
    close(found, principal_cosines(Y, X))


def test_the_same_space_has_cosines_of_one_and_an_orthogonal_one_of_zero():
    X, mix = drawn(9, 3, 3, 0)
    close(principal_cosines(X, X @ mix), np.ones(3))
    Q = orthonormal(9, 6)
    close(principal_cosines(Q[:, :3], Q[:, 3:]), np.zeros(3))
    close(principal_cosines(Q[:, :2], Q[:, :5]), np.ones(2))


def test_known_angles_are_found():
    Q, angles = orthonormal(8, 6), np.array([0.1, 0.7, 1.5])
    Y = Q[:, :3] * np.cos(angles) + Q[:, 3:] * np.sin(angles)
    mix = np.random.default_rng(1).standard_normal((3, 3))
    close(principal_cosines(Q[:, :3] @ mix, Y @ mix.T), np.cos(angles))


@pytest.mark.parametrize(("size", "found"), [(1e-8, 2), (1e-4, 3)])
def test_directions_below_a_millionth_of_the_largest_are_ignored(size, found):
    Q, other = orthonormal(8, 3), orthonormal(6, 3, 1)
    scaled = Q * [2, 1, size]
    close(principal_cosines(scaled @ drawn(3, 3, 3, 0)[0], Q), np.ones(found), 1e-5)
    assert [side.shape[1] for side in spaces((scaled, other))] == [found, found]
    assert [side.shape[1] for side in spaces((other, scaled))] == [found, found]


def test_spaces_of_more_columns_than_numbers_are_those_of_the_dense_update():
    rng = np.random.default_rng(0)
    A, B = spaces((rng.normal(size=(7, 9)), rng.normal(size=(5, 9))))
    assert (A.shape, B.shape) == ((7, 5), (5, 5))


def test_spaces_are_the_updates_own_not_its_factors():
    """Of U C Vᵀ with C of rank 1, V has three directions and the update one."""
    U, V = drawn(7, 6, 3, 0)
    left, right = spaces((np.outer(U[:, 0], [1, 2, 3]), V))
    assert left.shape == (7, 1) and right.shape == (6, 1)
    product = np.outer(U[:, 0], V @ [1, 2, 3])
    close(left @ left.T @ product @ right @ right.T, product)


# Shares


@given(R=st.integers(1, 5), k=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_share_is_the_energy_of_the_projection(R, k, seed):
    u, A, B = drawn(8, 6, k, seed), orthonormal(8, R, seed), orthonormal(6, R, seed + 1)
    share = share_in_span(u, A, B)
    projected = A @ A.T @ dense(u) @ B @ B.T
    close(share, np.linalg.norm(projected) ** 2 / np.linalg.norm(dense(u)) ** 2)
    assert 0 <= share <= 1
    inside = (A @ u[0][:R], B @ u[1][:R])  # may be small beside its factors: digits are lost
    close(share_in_span(inside, A, B), 1, tolerance=1e-6)


def test_outside_on_either_side_the_share_is_zero():
    A, B = orthonormal(8, 4), orthonormal(7, 4)
    inside, outside = slice(2), slice(2, 4)
    for left, right in ((inside, outside), (outside, inside), (outside, outside)):
        close(share_in_span((A[:, left], B[:, right]), A[:, inside], B[:, inside]), 0)
    close(share_in_span((A[:, inside], B[:, inside]), A[:, inside], B[:, inside]), 1)


# Records that no stored run here has


def stand_in(method: str, *tasks: dict[str, np.ndarray]) -> SimpleNamespace:
    """Stands for a stored run: names come back sorted."""
    return SimpleNamespace(
        method_name=method,
        label=METHOD_LABELS[method],
        result={"task_files": len(tasks)},
        task=lambda t: dict(sorted(tasks[t].items())),
        shipped=False,
    )


def test_sites_are_in_the_models_order_beyond_ten_blocks():
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    names = [f"blocks.{b}.{layer}" for b in range(12) for layer in layers]
    bases = {f"{factor}.{name}": np.eye(2) for name in names for factor in "AB"}
    cores = np.arange(len(names))[:, None, None] * np.eye(2)
    (task,) = updates(stand_in("fm-lora", bases | {"own_core": cores}))
    assert list(task) == names
    assert [u[0][0, 0] for u in task.values()] == list(range(len(names)))


def test_sd_loras_magnitudes_are_each_weights_own_or_one_for_all():
    """A site of q and v is two weights side by side."""
    names = ("blocks.0.attn.qkv", "blocks.0.mlp.fc1")
    one = {
        f"{f}.{name}": np.ones((4, k)) for name, k in zip(names, (2, 1), strict=True) for f in "UV"
    }
    for alpha, wanted in (([[9, 2], [9, 3], [9, 5]], [[2, 3], [5]]), ([[9, 7]], [[7, 7], [7]])):
        (task,) = updates(stand_in("sd-lora", one | {"alpha": np.array(alpha)}))
        assert [u[0][0].tolist() for u in task.values()] == wanted
        assert all((u[1] == 1).all() for u in task.values())


@pytest.mark.parametrize("method", ["full", "coda-prompt", "prototypes"])
def test_a_method_without_low_rank_updates_is_refused_by_name(method):
    with pytest.raises(BadInput, match=f"^{method} records no low-rank updates; block-lora, "):
        updates(stand_in(method, {}))


# Runs that came with the lab, of which the measures are here and the factors are not


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> dict[str, Run]:
    """Of class order 0 and the profile's own settings, by method."""
    asked = grid("demo", method=["fm-lora", "lora", "inflora", "sd-lora"], order_seed=[0])
    return {run.method_name: run for run in sweep(asked, tmp_path_factory.mktemp("none")).run}


def test_without_factors_a_run_is_refused(shipped):
    with pytest.raises(BadInput, match="came with the lab without its trained factors"):
        updates(shipped["lora"])
    record = {f"{factor}.blocks.0.mlp.fc1": np.ones((4, 1)) for factor in "UV"}
    with pytest.raises(BadInput, match=f"{shipped['fm-lora'].id} came with the lab without"):
        span(stand_in("lora", record), shipped["fm-lora"])


def test_a_span_in_bases_that_are_not_here_is_the_one_that_came_with_them(shipped):
    """Also if the free run alone was computed anew."""
    free, based = shipped["lora"], shipped["fm-lora"]
    anew = SimpleNamespace(id=free.id, shipped=False)
    assert len(measured_span(free, based)["share"]) == 10
    assert measured_span(anew, based) == measured_span(free, based)


def test_a_task_says_nothing_of_itself(shipped):
    table = between(shipped["lora"], "collision")
    whole = np.array(measured(shipped["lora"])["collision"])
    assert np.array_equal(np.isnan(table), np.eye(10, dtype=bool))
    assert np.array_equal(table[table == table], whole[~np.eye(10, dtype=bool)])


def test_interference_is_the_mean_over_every_two_tasks(shipped):
    found, of = interference(shipped["sd-lora"]), measured(shipped["sd-lora"])
    for name in ("collision", "overlap", "input_cosine", "output_cosine"):
        whole = np.array(of[name])
        assert found[name] == pytest.approx((whole.sum() - whole.trace()) / 90)
    assert found["norm"] == pytest.approx(sum(of["norms"]) / 10)


def test_chance_is_known_where_a_record_says_how_wide_a_layer_is(shipped, monkeypatch):
    run = shipped["lora"]
    assert by_chance(run)["collision"] == pytest.approx(0.00402, abs=1e-5)
    zero = {"start_chance": np.zeros((24, 2))}  # given columns that were not drawn
    with monkeypatch.context() as patch:
        patch.setattr(run, "task", lambda t: zero)
        assert np.isnan([*by_chance(run).values()]).all()
    monkeypatch.setitem(run.config, "method", run.config["method"] | {"name": "loda"})
    assert np.isnan([*by_chance(run).values()]).all()


def test_a_collision_stands_beside_what_the_earlier_task_lost_in_that_step(shipped):
    run = shipped["fm-lora"]
    found, a = collisions(run), run.accuracy_matrix
    assert len(found) == 45
    rows = iter(found.itertuples(index=False))
    for i in range(10):
        for t in range(i + 1, 10):
            row = next(rows)
            assert row.collision == measured(run)["collision"][t][i]
            assert row.lost == a[t - 1, i] - a[t, i]


def test_measuring_needs_no_torch():
    code = "import sys, fmlora_lab.analysis.updates; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
