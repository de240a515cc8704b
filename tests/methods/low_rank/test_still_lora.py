"""Still-LoRA: a LoRA that is held where it was by the features of the images at hand."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from fmlora_lab.methods.low_rank import ortho_lora
from fmlora_lab.profiles import configure

METHOD = {"name": "still-lora", "lr": 0.01}


def records(trainer, stream, keeper, **method):
    trainer({**METHOD, **method}, stream, keeper=keeper, epochs=3).run()
    return keeper.records


def same(found, other):
    """Task by task, whether the updates are equal to the last bit."""
    return [
        all(torch.equal(a[key], b[key]) for key in b if key[:2] in ("U.", "V."))
        for a, b in zip(found, other, strict=True)
    ]


def test_the_loss_is_the_tasks_and_the_distance_from_the_model_at_its_beginning(
    trainer, tiny_stream, float64, tiny_vit
):
    """By hand, with a copy of the whole model made when the second task began."""
    run = trainer({**METHOD, "distill": 0.7}, tiny_stream(), tiny_vit().double(), epochs=2)
    m, begin_task, step = run.method, run.method.begin_task, run.method.step
    copies, distances = [], []

    def watched_begin(task):
        begin_task(task)
        copies.append(deepcopy(run.learner))

    def watched_step(batch):
        features = run.learner.features(batch.images.pixels)
        begun = copies[-1].features(batch.images.pixels).detach()
        own = batch.images.labels - run.learner.head.classes.start
        task = F.cross_entropy(run.learner.head.task_logits(features), own)
        distance = (features - begun).square().mean() if len(copies) > 1 else 0 * task
        wanted = torch.autograd.grad(task + 0.7 * distance, [*m.U, *m.V])
        loss = step(batch)
        torch.testing.assert_close(loss, (task + 0.7 * distance).detach())
        for p, gradient in zip([*m.U, *m.V], wanted, strict=True):
            torch.testing.assert_close(p.grad, gradient, rtol=1e-8, atol=1e-12)
        distances.append(distance.item())
        return loss

    m.begin_task, m.step = watched_begin, watched_step
    run.run()
    first, second = distances[:4], distances[4:]
    assert not any(first) and second[0] == 0 and min(second[1:]) > 1e-4


def test_it_is_ortho_lora_without_the_projection(
    trainer, tiny_stream, memory_keeper, monkeypatch, float64, tiny_vit
):
    def run(name, keeper):
        how = {"name": name, "rank": 4, "lr": 0.01}
        trainer(how, tiny_stream(), tiny_vit().double(), keeper=keeper, epochs=3).run()
        return keeper.records

    still, ortho = run("still-lora", memory_keeper()), run("ortho-lora", memory_keeper())
    monkeypatch.setattr(ortho_lora, "projected", lambda g, h: (g, h))
    for found, wanted in zip(run("ortho-lora", memory_keeper()), still, strict=True):
        for key in (key for key in wanted if key[:2] in ("U.", "V.")):
            torch.testing.assert_close(found[key], wanted[key], rtol=1e-5, atol=1e-8)
    assert same(ortho, still) == [True, False]


@pytest.mark.parametrize("distill", [1.0, 0.0])
def test_the_first_task_is_plain_lora_and_so_is_every_one_that_keeps_nothing(
    trainer, tiny_stream, memory_keeper, distill
):
    stream = tiny_stream()
    lora = records(trainer, stream, memory_keeper(), name="lora", rank=2)
    found = records(trainer, stream, memory_keeper(), distill=distill)
    assert same(found, lora) == [True, distill == 0]


def test_features_of_earlier_images_move_less_the_more_is_kept(trainer, tiny_stream):
    """Though no image of an earlier task is seen."""
    moved = [
        trainer({**METHOD, "distill": distill}, tiny_stream(), epochs=4).run()["drift"][1][0]
        for distill in (0.0, 1.0, 10.0)
    ]
    assert moved[0] > moved[1] > moved[2] > 0


def test_it_trains_a_quarter_of_what_lora_trains_and_keeps_nothing(trainer, tiny_stream):
    wide = trainer({"name": "lora"}, tiny_stream(), epochs=1)
    narrow = trainer({"name": "still-lora"}, tiny_stream(), epochs=1)
    for run in (wide, narrow):
        run.run()
    assert 4 * narrow.method.trained() == wide.method.trained()
    assert narrow.method.kept() == 0
    assert configure("still-lora").method.rank == 2
