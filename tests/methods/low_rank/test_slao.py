"""SLAO: what is handed on, what is merged, and that nothing grows.

No code of the paper was to be had; the tests are of its equations.
"""

import numpy as np
import pytest
import torch

from fmlora_lab.methods.low_rank.slao import orthonormal

QUICK = {"name": "slao", "rank": 3, "lr": 0.02}
TASKS = 4


@pytest.fixture
def watched(trainer, tiny_stream, tiny_vit, memory_keeper, float64):
    """A run over four tasks in float64, and of every task: its start, its end, what is merged after
    it (pairs U, V of each site), and the state's shapes and what is kept between tasks."""
    keeper = memory_keeper()
    stream = tiny_stream(classes=2 * TASKS, tasks=TASKS)
    run = trainer(QUICK, stream, tiny_vit().double(), keeper)
    m, seen = run.method, {"start": [], "end": [], "merged": [], "kept": []}
    on_step, end_task = m.on_step, m.end_task

    def pairs():
        return [(u.U.detach().clone(), u.V.detach().clone()) for u in m.factors()]

    def first_step(noise):
        if len(seen["start"]) == len(seen["end"]):
            seen["start"].append(pairs())
        on_step(noise)

    def watched_end():
        m.train()
        seen["end"].append(pairs())
        m.eval()
        record = end_task()
        seen["merged"].append(pairs())
        shapes = {name: tensor.shape for name, tensor in m.state_dict().items()}
        seen["kept"].append((m.kept(), shapes))
        return record

    m.on_step, m.end_task = first_step, watched_end
    run.run()
    return run, keeper, seen


def test_the_state_does_not_grow(watched):
    """Three factors a site, whatever the number of tasks."""
    run, _, seen = watched
    sites = run.learner.model.sites
    assert len(seen["kept"]) == TASKS
    assert all(kept == seen["kept"][0] for kept in seen["kept"])
    assert run.method.kept() == sum(3 * (2 * s.d_out + s.d_in) for s in sites)
    assert {tuple(sorted(u.U.shape)) for u in run.method.factors()} == {(3, s.d_out) for s in sites}


def test_what_is_merged_is_the_papers_average_of_u_under_the_last_v(watched):
    """By hand from the pairs that each task ended with."""
    _, _, seen = watched
    for n in range(len(seen["end"][0])):
        merged = np.zeros_like(seen["end"][0][n][0].numpy())
        for task in range(TASKS):
            U, V = (side.numpy() for side in seen["end"][task][n])
            merged = merged + (U - merged) / np.sqrt(task + 1)
            found = [side.numpy() for side in seen["merged"][task][n]]
            np.testing.assert_allclose(found[0], merged, rtol=1e-9, atol=1e-12)
            np.testing.assert_array_equal(found[1], V)


def test_training_begins_with_the_last_u_and_an_orthonormal_v(watched):
    """In the span of the fine-tuned V, each column on its side; not where the merged model is."""
    _, _, seen = watched
    for n in range(len(seen["start"][0])):
        assert not seen["start"][0][n][0].any()
        for task in range(1, TASKS):
            (U, V), (U_before, V_before) = seen["start"][task][n], seen["end"][task - 1][n]
            assert torch.equal(U, U_before)
            torch.testing.assert_close(V.T @ V, torch.eye(3), atol=1e-9, rtol=0)
            torch.testing.assert_close(V @ (V.T @ V_before), V_before, atol=1e-9, rtol=0)
            R = V.T @ V_before
            assert (R.diagonal() > 0).all() and R.tril(-1).abs().max() < 1e-9
            U_m, V_m = seen["merged"][task - 1][n]
            assert not torch.allclose(U @ V.T, U_m @ V_m.T, rtol=0.01)


def test_the_records_updates_add_up_to_what_is_in_force_and_the_weight_stays(watched, tiny_vit):
    run, keeper, seen = watched
    weights = tiny_vit().double().state_dict()
    for n, site in enumerate(run.learner.model.sites):
        total = sum(
            record[f"U.{site.name}"] @ record[f"V.{site.name}"].T for record in keeper.records
        )
        U, V = seen["merged"][-1][n]
        torch.testing.assert_close(total, U @ V.T)
        assert torch.equal(site.weight, weights[f"{site.name}.weight"])


def test_up_to_a_tasks_first_step_and_after_its_end_the_model_is_the_merged_one(
    trainer, tiny_stream
):
    """And just before its end, evaluation sees what the merge then leaves."""
    stream = tiny_stream(classes=6, tasks=3)
    run = trainer(QUICK, stream)
    m, pixels, seen = run.method, stream.tasks[0].test.pixels, []
    begin_task, end_task = m.begin_task, m.end_task

    def features():
        return run.learner.features(pixels).detach()

    def watched_begin(task):
        before = features()
        begin_task(task)
        assert torch.equal(features(), before)

    def watched_end():
        seen.append(features())
        record = end_task()
        torch.testing.assert_close(features(), seen[-1], rtol=1e-5, atol=1e-6)
        return record

    m.begin_task, m.end_task = watched_begin, watched_end
    run.run()
    assert (seen[1] - seen[0]).abs().max() > 1e-3


def test_orthonormal_keeps_every_columns_side():
    V = torch.tensor([[-2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    torch.testing.assert_close(orthonormal(V), torch.tensor([[-1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
