"""Subspace measures from factors alone agree with dense float64 mathematics.

Here the products ΔW = U Vᵀ are formed; the package never does.
"""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fmlora_lab import configure, restore, run
from fmlora_lab.analysis import subspaces
from fmlora_lab.analysis.subspaces import (
    measure,
    measured,
    measured_span,
    norm,
    overlap,
    overlaps,
    principal_cosines,
    share_in_span,
    spaces,
    span,
    updates,
)
from fmlora_lab.backbone.vit import load_vit
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.runs.store import RESULTS, runs

TASKS = 3
METHODS = {
    "fm-lora": {"basis_rank": 8, "lr": 0.01, "bases.lr": 0.003, "drs.candidates": (1, 2, 4)},
    "lora": {"rank": 4, "lr": 0.003},
    "inflora": {"rank": 4, "lr": 0.01, "threshold": 0.8, "layers": ("attn.v", "attn.proj")},
    "sd-lora": {"rank": 4, "lr": 0.003, "lr_magnitudes": 0.1, "layers": ("attn.q", "mlp.fc1")},
}
"""The stored runs' settings; SD-LoRA's magnitudes move far enough to be told apart."""


def dense(u) -> np.ndarray:
    return u[0] @ u[1].T


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


# Stored runs


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """`stored(method)`: a run of three tasks of two classes each, on a few coloured images."""
    root, kept = tmp_path_factory.mktemp("subspaces"), {}
    draw = np.random.default_rng(0)
    for k in range(2 * TASKS):
        base = draw.integers(60, 200, 3)
        for part, count in (("train", 6), ("test", 1)):
            folder = root / "images" / part / f"class{k}"
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = np.clip(base + draw.normal(0, 40, (32, 32, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")
    fixed = {"benchmark.data": root / "images", "benchmark.tasks": TASKS}
    fixed |= {"training.batch_size": 6, "training.epochs": 3, "training.precision": "float32"}
    fixed |= {"method.blocks": (1, 4)}

    def make(method: str):
        if method not in kept:
            own = {f"method.{name}": value for name, value in METHODS[method].items()}
            config = configure(method, "folder", "smoke", fixed | own)
            kept[method] = run(config, root / "runs")
        return kept[method]

    return make


def changes(stored_run) -> dict[str, np.ndarray]:
    """What training changed of each site's adapted rows: the trained weights minus W0."""
    learner = restore(stored_run)
    trained = learner.merge()[0]
    plain = load_vit(RunConfig.model_validate(stored_run.config).backbone).vit.state_dict()
    found = {}
    for site in learner.model.sites:
        change = (trained[f"{site.name}.weight"] - plain[f"{site.name}.weight"]).double()
        found[site.name] = (change if site.rows is None else change[site.rows]).numpy()
    return found


@pytest.mark.parametrize("method", ["fm-lora", "lora", "inflora"])
def test_the_updates_of_a_run_sum_to_what_training_changed(stored, method):
    of = updates(stored(method))
    changed = changes(stored(method))
    assert len(of) == TASKS and all(list(task) == list(changed) for task in of)
    for site, change in changed.items():
        assert all(factor.dtype == np.float64 for task in of for factor in task[site])
        close(sum(dense(task[site]) for task in of), change, 1e-6)
        assert np.abs(change).max() > 1e-3


def test_sd_loras_directions_sum_at_their_last_magnitudes(stored):
    """Magnitudes go on changing, so the updates alone do not sum to what training changed; each
    weight's at what its magnitude became since its own task do."""
    found = stored("sd-lora")
    of, changed = updates(found), changes(found)
    ended = [found.task(t)["magnitudes"][:, t] for t in range(TASKS)]
    last = found.task(TASKS - 1)["magnitudes"]
    assert len(np.unique(found.task(TASKS - 1)["alpha"])) > TASKS  # one a weight
    for n, (site, change) in enumerate(changed.items()):
        alone, later = (
            sum(scale[t] * dense(of[t][site]) for t in range(TASKS))
            for scale in (np.ones(TASKS), [last[n, t] / ended[t][n] for t in range(TASKS)])
        )
        close(later, change, 1e-6)
        assert np.abs(alone - change).max() > 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_measured_as_its_dense_updates_are(stored, method):
    of = [{site: dense(u) for site, u in task.items()} for task in updates(stored(method))]
    found = json.loads(json.dumps(measure(stored(method))))
    tables = {
        site: np.array([[cosine(a[site], b[site]) for b in of] for a in of]) for site in of[0]
    }
    assert found["by_site"].keys() == tables.keys()
    for site, table in tables.items():
        close(found["by_site"][site], table, 1e-6)
    close(found["overlap"], np.mean(list(tables.values()), axis=0))
    close(found["collision"], np.mean(np.abs(list(tables.values())), axis=0))
    norms = [np.sqrt(sum((W**2).sum() for W in task.values())) for task in of]
    close(found["norms"], norms)
    for side, name in enumerate(("output_cosine", "input_cosine")):
        bases = [{site: singular(W)[side] for site, W in task.items()} for task in of]
        wanted = [
            [np.mean([mean_cosine(a[site], b[site]) for site in a]) for b in bases] for a in bases
        ]
        close(found[name], wanted, 1e-6)


def singular(W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The left and the right singular vectors of W that matter."""
    left, sigma, right = np.linalg.svd(W, full_matrices=False)
    return left[:, sigma > 1e-6 * sigma[0]], right[sigma > 1e-6 * sigma[0]].T


def mean_cosine(P: np.ndarray, Q: np.ndarray) -> float:
    return np.linalg.svd(P.T @ Q)[1].mean()


def test_fm_loras_overlaps_are_those_of_its_cores(stored):
    found = stored("fm-lora")
    cores = [found.task(t)["own_core"].astype(float) for t in range(TASKS)]
    for n, table in enumerate(measure(found)["by_site"].values()):
        wanted = [[cosine(a[n], b[n]) for b in cores] for a in cores]
        close(table, wanted, 1e-5)  # A and B are orthonormal to float32
        assert 1e-3 < abs(table[1][2]) < 1


def test_span_is_the_projected_share_of_all_sites_energy(stored):
    free, based = stored("lora"), stored("fm-lora")
    first, shares = based.task(0), []
    for task in updates(free):
        projected = [
            first[f"A.{site}"].T.astype(float) @ dense(u) @ first[f"B.{site}"].astype(float)
            for site, u in task.items()
        ]
        whole = sum((dense(u) ** 2).sum() for u in task.values())
        shares.append(sum((P**2).sum() for P in projected) / whole)
    assert min(shares) > 0.001 and max(shares) < 0.9
    close(span(free, based), shares)
    close(span(based, based), np.ones(TASKS), 1e-5)


def test_what_was_measured_is_kept_with_the_run(stored, monkeypatch):
    free, based = stored("lora"), stored("fm-lora")
    first = measured(free), measured_span(free, based)
    assert first == (measure(free), span(free, based))
    for name in ("measure", "span"):
        monkeypatch.setattr(subspaces, name, None)
    assert (measured(free), measured_span(free, based)) == first
    names = {path.stem for path in (free.folder.path / "derived").iterdir()}
    assert names == {"subspaces", f"span-{based.id}"}


# Records that no stored run here has


def stand_in(method: str, *tasks: dict[str, np.ndarray]) -> SimpleNamespace:
    """Stands for a stored run: names come back sorted."""
    return SimpleNamespace(
        config={"method": {"name": method}},
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
    with pytest.raises(BadInput, match=f"^{method} records no low-rank updates; fm-lora, lora"):
        updates(stand_in(method, {}))


def test_a_run_that_came_with_the_lab_is_refused():
    shipped = next(r for r in runs(RESULTS / "glyphs-10") if r.config["method"]["name"] == "lora")
    with pytest.raises(BadInput, match="came with the lab without its trained factors"):
        updates(shipped)


def test_measuring_needs_no_torch():
    code = "import sys, fmlora_lab.analysis.subspaces; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
