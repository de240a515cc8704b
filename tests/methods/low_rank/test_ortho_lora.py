"""Ortho-LoRA: gradients that do not oppose each other, on U and V apart, and what the second loss
is: the distance of features from where they were when the task began."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fmlora_lab.methods.low_rank import ortho_lora
from fmlora_lab.methods.low_rank.ortho_lora import projected

METHOD = {"name": "ortho-lora", "rank": 4, "lr": 0.01}


def pcgrad(gradients: list[torch.Tensor], order: torch.Generator) -> list[torch.Tensor]:
    """Yu et al. 2020, algorithm 1, of any number of gradients: each loses, in random order, what
    opposes one of the others as that was."""
    found = []
    for i, g in enumerate(gradients):
        g = g.clone()
        others = [j for j in torch.randperm(len(gradients), generator=order).tolist() if j != i]
        for j in others:
            inner = (g * gradients[j]).sum()
            if inner < 0:
                g -= inner / gradients[j].square().sum() * gradients[j]
        found.append(g)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_two_gradients_are_projected_as_pcgrad_does(seed):
    noise = torch.Generator().manual_seed(seed)
    g, h = (torch.randn(7, 3, generator=noise, dtype=torch.float64) for _ in range(2))
    for one, other in ((g, h), (g, -h), (g, g - 3 * h), (g, -g)):
        for found, wanted in zip(projected(one, other), pcgrad([one, other], noise), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_gradient_of_zero_leaves_the_other_as_it_is():
    g = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    for found in (projected(g, torch.zeros(5, 2)), projected(torch.zeros(5, 2), g)[::-1]):
        assert torch.equal(found[0], g) and not found[1].any()


def test_in_training_nothing_that_is_summed_opposes_the_other_loss(
    trainer, tiny_stream, monkeypatch
):
    """U and V of every site apart; gradients that agree are summed as they are."""
    calls, seen = [], []

    def watched(g, h):
        found = projected(g, h)
        calls.append((g.clone(), h.clone(), *found))
        return found

    def summed(optimizer, *_):
        own = [p.grad for group in optimizer.param_groups for p in group["params"]][:16]
        if calls:
            seen.append(([p + q for _, _, p, q in calls[-16:]], [grad.clone() for grad in own]))

    monkeypatch.setattr(ortho_lora, "projected", watched)
    handle = register_optimizer_step_pre_hook(summed)
    try:
        trainer(METHOD, tiny_stream(), epochs=3).run()
    finally:
        handle.remove()
    assert len(calls) == 16 * len(seen) == 16 * 3 * 2  # of the second task alone
    opposed = 0
    for g, h, p, q in calls:
        tiny = 1e-5 * g.norm() * h.norm()
        for one, other in ((p, h), (q, g), (p, q)):
            assert (one * other).sum() >= -tiny
        if (g * h).sum() >= 0:
            assert torch.equal(p, g) and torch.equal(q, h)
        else:
            opposed += 1
            assert p.norm() < g.norm() and q.norm() < h.norm()
    assert 0.1 * len(calls) < opposed < len(calls)
    assert all(
        torch.equal(a, b) for wanted, found in seen for a, b in zip(wanted, found, strict=True)
    )


def test_the_two_losses_are_the_tasks_and_the_distance_from_the_model_at_its_beginning(
    trainer, tiny_stream, float64, tiny_vit, monkeypatch
):
    """Their gradients by hand, with a copy of the whole model made when the second task began."""
    run = trainer({**METHOD, "distill": 0.7}, tiny_stream(), tiny_vit().double(), epochs=2)
    m, begin_task, step = run.method, run.method.begin_task, run.method.step
    copies, calls, compared = [], [], []

    def watched_begin(task):
        begin_task(task)
        copies.append(deepcopy(run.learner))

    def watched_step(batch):
        factors = [*m.U, *m.V]
        features = run.learner.features(batch.images.pixels)
        begun = copies[-1].features(batch.images.pixels).detach()
        own = batch.images.labels - run.learner.head.classes.start
        task = F.cross_entropy(run.learner.head.task_logits(features), own)
        distance = 0.7 * (features - begun).square().mean()
        wanted = [
            torch.autograd.grad(loss, factors, retain_graph=True) for loss in (task, distance)
        ]
        calls.clear()
        loss = step(batch)
        if len(copies) == 1:
            assert not calls
            torch.testing.assert_close(loss, task.detach())
            return loss
        torch.testing.assert_close(loss, (task + distance).detach())
        for (g, h), by_task, by_distance in zip(calls, *wanted, strict=True):
            torch.testing.assert_close(g, by_task, rtol=1e-8, atol=1e-12)
            torch.testing.assert_close(h, by_distance, rtol=1e-8, atol=1e-12)
        compared.append(distance.item())
        return loss

    def watched(g, h):
        calls.append((g.clone(), h.clone()))
        return projected(g, h)

    monkeypatch.setattr(ortho_lora, "projected", watched)
    m.begin_task, m.step = watched_begin, watched_step
    run.run()
    assert len(compared) == 4 and compared[0] == 0 and min(compared[1:]) > 1e-4


def records(trainer, stream, keeper, **method):
    trainer({**METHOD, **method}, stream, keeper=keeper, epochs=3).run()
    return keeper.records


def test_the_first_task_is_plain_lora_and_so_is_every_one_without_a_second_loss(
    trainer, tiny_stream, memory_keeper
):
    stream = tiny_stream()
    lora = records(trainer, stream, memory_keeper(), name="lora")
    for distill in (1.0, 0.0):
        found = records(trainer, stream, memory_keeper(), distill=distill)
        same = [
            all(torch.equal(record[key], other[key]) for key in other if key[:2] in ("U.", "V."))
            for record, other in zip(found, lora, strict=True)
        ]
        assert same == [True, distill == 0]


def test_features_of_earlier_images_move_less_than_without(trainer, tiny_stream):
    """Though no image of an earlier task is seen."""
    moved = []
    for method in ({"name": "lora", "rank": 4, "lr": 0.01}, METHOD, {**METHOD, "distill": 10.0}):
        moved.append(trainer(method, tiny_stream(), epochs=4).run()["drift"][1][0])
    assert moved[0] > moved[1] > moved[2] > 0


def test_predicting_asks_for_no_second_pass_and_the_run_is_plain_timm(trainer, tiny_stream):
    runs = [trainer(method, tiny_stream(), epochs=1) for method in (METHOD, "lora")]
    costs = [run.run()["inference_flops"] for run in runs]
    assert costs[0] == costs[1]
    state, tokens = runs[0].learner.merge()
    assert tokens is None and "head.weight" in state
