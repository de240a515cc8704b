"""What is evaluated ahead of the explorers: true to the stored network, and small when shipped."""

import shutil

import numpy as np
import pytest
import torch
from coloured import coloured_folders

from fmlora_lab import configure, restore, run
from fmlora_lab.analysis.overlap import related
from fmlora_lab.analysis.rank_choice import smaller_ranks
from fmlora_lab.config import BadInput
from fmlora_lab.explorers import prompt_drift, rank_choice, subspace_overlap
from fmlora_lab.explorers.examples import best_approximation, prepare, truncated
from fmlora_lab.explorers.forgotten import suits
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.runs.archive import archived, ship
from fmlora_lab.runs.run import parts
from fmlora_lab.runs.stored import load_runs

pytestmark = pytest.mark.train

TASKS = 3


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """An FM-LoRA run of three tasks of two classes each, on a few coloured images."""
    root = tmp_path_factory.mktemp("ahead")
    images = coloured_folders(root / "images", 2 * TASKS, {"train": 6, "test": 5}, noise=60)
    fixed = {"benchmark.data": images, "benchmark.tasks": TASKS}
    fixed |= {"training.batch_size": 6, "training.epochs": 3, "training.precision": "float32"}
    fixed |= {"method.blocks": (1, 4), "method.basis_rank": 8, "method.lr": 0.02}
    fixed |= {"method.bases.lr": 0.01, "method.drs.candidates": (2, 4)}
    return run(configure("fm-lora", "folder", "smoke", fixed), root / "runs")


def test_the_best_approximation_keeps_the_leading_directions():
    C = np.random.default_rng(0).standard_normal((2, 5, 5)).astype(np.float32)
    sigma = np.linalg.svd(C, compute_uv=False)
    for k in range(6):
        found = best_approximation(C, k)
        assert found.dtype == C.dtype
        assert (np.linalg.matrix_rank(found, tol=1e-4) == k).all()
        lost = ((C - found) ** 2).sum((1, 2))
        np.testing.assert_allclose(lost, (sigma[:, k:] ** 2).sum(1), atol=1e-4)


def test_at_full_rank_it_is_what_was_measured_and_nothing_beyond(stored):
    found = truncated(stored)
    assert found["ranks"][:3] == [0, 1, 2] and len(found["accuracy"]) == TASKS
    for t, row in enumerate(found["accuracy"]):
        known = [value for value in row if value is not None]
        assert known[-1] == pytest.approx(stored.accuracy_matrix[t, t], abs=1e-3)
        assert found["ranks"][len(known) - 1] == found["rank"][t]
        assert row[len(known) :] == [None] * (len(row) - len(known))


@torch.no_grad()
def test_at_rank_zero_it_is_the_network_of_the_task_before(stored, monkeypatch):
    """With the prompt and the classifier of after the task, which were trained beside it. The
    task's update is made 30 times larger, so that a part of it could not go unseen."""
    t, task = TASKS - 1, stored.task
    before, own = task(t - 1)["core"], 30 * task(t)["own_core"]
    larger = {"own_core": own, "core": before + own}
    monkeypatch.setattr(stored, "task", lambda i: {**task(i), **(larger if i == t else {})})
    monkeypatch.setattr("fmlora_lab.explorers.examples.FLIPPED", 1000)
    learner = restore(stored)
    test = parts(learner.config)[1].tasks[t].test

    def right(core) -> float:
        learner.method.factorized.core.copy_(torch.from_numpy(core))
        return 100 * learner.correct(test) / len(test)

    row = [value for value in truncated(stored)["accuracy"][t] if value is not None]
    assert [row[0], row[-1]] == pytest.approx([right(before), right(before + own)])
    assert row[1] != row[0]


def test_what_the_run_did_not_measure_is_refused(stored, monkeypatch):
    measured = [[a if a is None else a - 60 for a in row] for row in stored.accuracy_matrix]
    monkeypatch.setitem(stored.result["heads"]["trained"], "accuracy_matrix", measured)
    with pytest.raises(
        BadInput, match=r"with all of task 1's update it has .* its head has changed"
    ):
        truncated(stored)


def test_what_is_prepared_and_shipped_opens_in_every_explorer_without_the_factors(
    stored, tmp_path, monkeypatch
):
    with pytest.raises(BadInput, match="`fmlora-lab examples"):
        smaller_ranks(stored)
    prepare(stored)
    assert smaller_ranks(stored) == truncated(stored)
    opens = {"fm-lora": METHODS["fm-lora"].record.ships}
    path = ship([stored], tmp_path / "few.zip", opens)
    (there,) = load_runs(path)
    assert there.shipped and not {"M", "N", "core", "own_core"} & set(there.task(0))
    for name, found in related(stored).items():
        np.testing.assert_array_equal(related(there)[name].overlap, found.overlap)
    offered = list(archived(path).values())
    monkeypatch.setattr("fmlora_lab.explorers.offer.prepared", lambda: offered)
    for explorer in (subspace_overlap, rank_choice, prompt_drift):
        assert explorer(tmp_path / "none", static=True).axes
    assert all(run.said(0) and suits(run) for run in (stored, there))  # for the one of forgetting


def test_the_command_makes_a_run_ready_for_the_explorers(stored, call, tmp_path):
    shutil.copytree(stored.folder.path, tmp_path / stored.id)
    shutil.rmtree(tmp_path / stored.id / "derived", ignore_errors=True)
    words = ("examples", stored.id[:6], "--runs-dir", tmp_path)
    assert call(*words) == (0, f"{stored.id}: ready for the explorers\n", "")
    (own,) = load_runs(tmp_path)
    assert smaller_ranks(own) == truncated(stored)
    names = ("collisions.safetensors", "features.safetensors", "relations.safetensors")
    names += ("truncated.json",)
    assert own.folder.derived_files() == [f"derived/{name}" for name in names]


def test_the_command_refuses_a_run_that_is_not_there(stored, call):
    code, _, err = call("examples", "0123abcd", "--runs-dir", stored.folder.path.parent)
    assert code == 2 and "0123abcd" in err
