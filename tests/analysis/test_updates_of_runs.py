"""What training changed is what the updates of a stored run say, and the measures are theirs."""

import json

import numpy as np
import pytest
from coloured import coloured_folders

from fmlora_lab import configure, restore, run
from fmlora_lab.analysis import updates as updates_of
from fmlora_lab.analysis.updates import (
    by_chance,
    measure,
    measured,
    measured_span,
    span,
    updates,
)
from fmlora_lab.backbone.vit import load_tower
from fmlora_lab.config import RunConfig

pytestmark = pytest.mark.train

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


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """`stored(method)`: a run of three tasks of two classes each, on a few coloured images."""
    root, made = tmp_path_factory.mktemp("subspaces"), {}
    images = coloured_folders(root / "images", 2 * TASKS, {"train": 6, "test": 1}, noise=40)
    fixed = {"benchmark.data": images, "benchmark.tasks": TASKS}
    fixed |= {"training.batch_size": 6, "training.epochs": 3, "training.precision": "float32"}
    fixed |= {"method.blocks": (1, 4)}

    def make(method: str):
        if method not in made:
            own = {f"method.{name}": value for name, value in METHODS[method].items()}
            config = configure(method, "folder", "smoke", fixed | own)
            made[method] = run(config, root / "runs")
        return made[method]

    return make


def changes(stored_run) -> dict[str, np.ndarray]:
    """What training changed of each site's adapted rows: the trained weights minus W0."""
    learner = restore(stored_run)
    trained = learner.merge()[0]
    config = RunConfig.model_validate(stored_run.config)
    plain = load_tower(config.backbone).network.state_dict()
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
        assert 1e-4 < abs(table[1][2]) < 1


def test_span_is_the_projected_share_of_all_sites_energy(stored):
    """Within both bases and within each, beside what bases at random have on average."""
    free, based = stored("lora"), stored("fm-lora")
    first, found = based.task(0), span(free, based)
    for t, task in enumerate(updates(free)):
        whole = sum((dense(u) ** 2).sum() for u in task.values())
        wanted = dict.fromkeys(found, 0.0)
        for site, u in task.items():
            A, B = (first[f"{side}.{site}"].astype(float) for side in "AB")
            own, energy = dense(u), (dense(u) ** 2).sum()
            wanted["share"] += ((A.T @ own @ B) ** 2).sum()
            wanted["outputs"] += ((A.T @ own) ** 2).sum()
            wanted["inputs"] += ((own @ B) ** 2).sum()
            wanted["chance_outputs"] += energy * 8 / len(own)
            wanted["chance_inputs"] += energy * 8 / own.shape[1]
            wanted["chance"] += energy * 8 / len(own) * 8 / own.shape[1]
        for name, shares in found.items():
            close(shares[t], wanted[name] / whole)
        assert 0.0001 < found["share"][t] < found["inputs"][t] < 0.9
    for name in ("share", "outputs", "inputs"):
        close(span(based, based)[name], np.ones(TASKS), 1e-5)


def test_chance_is_what_bases_at_random_hold_of_an_update_on_average(stored):
    """The mean over many draws, of the first task's update at every site."""
    free, based = stored("lora"), stored("fm-lora")
    (first, *_), draw = updates(free), np.random.default_rng(0)
    whole = sum((dense(u) ** 2).sum() for u in first.values())
    shares = []
    for _ in range(60):
        A, B = (
            {
                site: np.linalg.qr(draw.standard_normal((len(u[n]), 8)))[0]
                for site, u in first.items()
            }
            for n in (0, 1)
        )
        projected = [A[site].T @ dense(u) @ B[site] for site, u in first.items()]
        shares.append(sum((P**2).sum() for P in projected) / whole)
    assert np.mean(shares) == pytest.approx(span(free, based)["chance"][0], rel=0.1)


def test_what_was_measured_is_stored_with_the_run(stored, monkeypatch):
    free, based = stored("lora"), stored("fm-lora")
    first = measured(free), measured_span(free, based)
    assert first == (measure(free), span(free, based))
    for name in ("measure", "span"):
        monkeypatch.setattr(updates_of, name, None)
    assert (measured(free), measured_span(free, based)) == first
    names = {path.stem for path in (free.folder.path / "derived").iterdir()}
    assert names == {"subspaces", f"span-{based.id}"}


@pytest.mark.parametrize("method", METHODS)
def test_what_chance_gives_is_that_of_random_directions_of_these_shapes(stored, method):
    draw = np.random.default_rng(0)
    shapes = [(len(u), len(v)) for u, v in updates(stored(method))[0].values()]
    found = by_chance(stored(method))
    drawn = [
        np.mean([abs(cosine(*draw.normal(size=(2, *shape)))) for _ in range(100)])
        for shape in set(shapes)
    ]
    each = dict(zip(set(shapes), drawn, strict=True))
    assert found["collision"] == pytest.approx(np.mean([each[s] for s in shapes]), rel=0.15)
    assert 0 < found["input_cosine"] < 0.5
