"""Methods that infer an image's task: how often they are right, what the right one is worth."""

import numpy as np
import pytest
import torch

from fmlora_lab import run
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.methods.task_gaussians import SHRINKAGE, TaskGaussians
from fmlora_lab.runs.frame import frame
from fmlora_lab.seeds import generator

INFERRING = sorted(name for name, method in METHODS.items() if method.infers_tasks)


def drawn(means: list[list[float]], each: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features about these class means, wide along the first axis, and class numbers."""
    noise = torch.randn(len(means) * each, 3, generator=generator(seed), dtype=torch.float64)
    labels = torch.arange(len(means)).repeat_interleave(each)
    return torch.tensor(means).double()[labels] + noise * torch.tensor([5.0, 0.5, 0.5]), labels


@pytest.mark.unit
def test_the_nearest_class_counts_in_the_covariance_of_all_tasks():
    """Against scores from dense float64 Gaussians; the plainly nearest mean would be wrong."""
    g = TaskGaussians(3).double()
    means = [[0.0, 0, 0], [3, 3, 0]], [[0.0, 3, 3], [3, 0, 3]]
    parts = [drawn(own, 40, task) for task, own in enumerate(means)]
    for task, (features, labels) in enumerate(parts):
        g.add(task, features, labels + 2 * task)
    test, labels = drawn([*means[0], *means[1]], 50, 9)
    rest = [f[y == k] - f[y == k].mean(0) for f, y in parts for k in (0, 1)]
    S = sum(r.T @ r for r in rest) / (4 * 39)
    Sigma = (1 - SHRINKAGE) * S + SHRINKAGE * S.diagonal().mean() * torch.eye(3).double()
    centres = torch.stack([f[y == k].mean(0) for f, y in parts for k in (0, 1)])
    away = test[:, None] - centres
    wanted = torch.einsum("bki,ij,bkj->bk", away, torch.linalg.inv(Sigma), away).argmin(1) // 2
    found = g(test, 2)
    assert torch.equal(found, wanted)
    right = (found == labels // 2).double().mean()
    plain = (torch.cdist(test, centres).argmin(1) // 2 == labels // 2).double().mean()
    assert right > 0.95 > plain
    assert not g(test, 1).any()  # of the first task alone
    assert g.kept() == 4 * 3 + 3 * 3


@pytest.mark.unit
def test_one_image_a_class_and_a_class_that_comes_again_have_means_too():
    g = TaskGaussians(2)
    g.add(0, torch.tensor([[0.0, 0], [4, 0]]), torch.tensor([0, 1]))
    g.add(1, torch.tensor([[0.0, 4], [4, 4]]), torch.tensor([0, 1]))
    query = torch.tensor([[0.2, 0.1], [0, 3.8], [3.9, 0], [4.2, 4.1]])
    assert g(query, 2).tolist() == [0, 1, 0, 1] and len(g.means) == 4


def test_lilora_and_hide_prompt_infer_tasks():
    assert INFERRING == ["hide-prompt", "lilora"]


@pytest.mark.parametrize("name", INFERRING)
def test_a_task_that_is_inferred_wrong_costs_what_the_right_one_gives_back(
    trainer, tiny_stream, quick, monkeypatch, name
):
    """All images are taken to be of the first task: of the others no inference is right."""
    stream = tiny_stream(classes=6, tasks=3)
    found = trainer(quick(name), stream, epochs=2).run()
    monkeypatch.setattr(
        METHODS[name], "tasks_of", lambda m, query: torch.zeros_like(query[:, 0]).long()
    )
    wrong = trainer(quick(name), stream, epochs=2).run()
    assert wrong["inferred"] == {"task": [[6, -1, -1], [6, 0, -1], [6, 0, 0]]}
    assert sum(found["inferred"]["task"][2]) > 12
    # With the task given it does not matter what would be inferred, where no bank saw the images.
    assert wrong["given"]["trained"] == found["given"]["trained"]
    assert wrong["given"].keys() == wrong["within"].keys()
    first = [row[0] for row in wrong["within"]["trained"]]
    assert first == [row[0] for row in wrong["given"]["trained"]]


def test_other_methods_say_nothing_of_it(trainer, tiny_stream, quick):
    found = trainer(quick("lora"), tiny_stream(), epochs=1).run()
    assert found["given"] == found["inferred"] == {}


@pytest.mark.parametrize("name", INFERRING)
def test_both_are_in_the_result_and_in_a_sweeps_frame(tiny_config, quick, tmp_path, name):
    stored = run(tiny_config(quick(name)), tmp_path)
    result = stored.result
    given = np.array(result["task_given_matrix"], float)
    counts = result["test_images"]
    assert result["task_given"] == pytest.approx(np.average(given[-1], weights=counts))
    inferred = np.array(result["task_inferred_matrix"], float)
    assert result["task_inferred"] == pytest.approx(np.average(inferred[-1], weights=counts))
    assert np.isnan(given).tolist() == np.isnan(inferred).tolist() == [[False, True], [False] * 2]
    assert result["heads"]["lda"]["task_given"] is not None
    plain = run(tiny_config(quick("lora")), tmp_path)
    assert "task_given" not in plain.result and "task_inferred" not in plain.result
    table = frame([({"method": r.method_name}, r) for r in (stored, plain)])
    assert table.task_given[0] == result["task_given"] and np.isnan(table.task_given[1])
    assert table.task_inferred[0] == result["task_inferred"]
