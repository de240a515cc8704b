"""L2P: the official port's numbers, and who learns."""

import numpy as np
import pytest
import torch
from oracle import drawn, sums
from pydantic import ValidationError

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.config import RunConfig
from fmlora_lab.methods.method import Batch, TaskInfo, build
from fmlora_lab.methods.prompts.l2p import L2PSettings
from fmlora_lab.methods.prompts.prefixes import cosines
from fmlora_lab.seeds import generator

QUICK = {"name": "l2p", "pool": 6, "length": 2, "top": 2, "lr": 0.03}


GOLDEN = {
    False: {
        "chosen": [[0, 5, 2], [4, 0, 2], [1, 3, 2], [2, 4, 0]],
        "similarity": 0.23491977,
        "tokens": [-10.04600212, 126.64628849, 0.82157669],
        "P": [-4.69981184, 152.25907206, -3.14052884],
        "keys": [0.79463728, 0.05517783, -0.04383269],
    },
    True: {
        "chosen": [[2, 0, 4]] * 4,
        "similarity": -0.16171081,
        "tokens": [-5.20595518, 108.57745838, 2.27667935],
        "P": [-4.69981184, 164.07540758, -4.93209173],
        "keys": [0.74653188, 0.05853971, -0.00626349],
    },
}


@pytest.mark.parametrize("batchwise", [False, True])
def test_choice_tokens_loss_and_gradients_are_the_official_codes(tiny_vit, batchwise):
    """Made on 2026-11-22 with JH-LEE-KR/l2p-pytorch (f7bc994) `prompt.py`, `Prompt.forward` with
    these prompts, keys and cls_features, `batchwise_prompt` or not; the loss is a weighted sum of
    the prepended tokens minus 0.5 `reduce_sim`, as in `engine.py`."""
    settings = L2PSettings(pool=6, length=2, top=3, pull=0.5, batchwise=batchwise)
    l2p = build(settings, ViT(tiny_vit(embed_dim=8))).double()
    with torch.no_grad():
        l2p.P.copy_(drawn(6, 2, 8, seed=1))
        l2p.keys.copy_(drawn(6, 8, seed=2))
    query, golden = drawn(4, 8, seed=10), GOLDEN[batchwise]
    assert l2p.chosen(query).tolist() == golden["chosen"]
    tokens = l2p.prompts(query).tokens
    assert sums(tokens) == pytest.approx(golden["tokens"], abs=1e-7)
    even = torch.zeros(4, 2).double()  # of cross-entropy ln 2
    loss = l2p.loss(Batch(query, even, torch.zeros(4, dtype=torch.long), query))
    assert (np.log(2) - loss.item()) / 0.5 == pytest.approx(golden["similarity"], abs=1e-7)
    (loss + (tokens * drawn(4, 11, 8, seed=5)[:, :6]).sum()).backward()
    assert sums(l2p.P.grad) == pytest.approx(golden["P"], abs=1e-7)
    assert sums(l2p.keys.grad) == pytest.approx(golden["keys"], abs=1e-7)


@pytest.fixture
def begun(trainer, tiny_stream):
    """`begun(**settings)`: a learner before its first step, and the first task's images."""

    def make(**settings):
        stream = tiny_stream()
        learner = trainer({**QUICK, **settings}, stream).learner
        classes = stream.tasks[0].classes
        learner.head.begin_task(classes, generator(0, "head", 0))
        learner.method.begin_task(TaskInfo(0, classes, generator(0, "method", 0)))
        learner.method.train()
        return learner, stream.tasks[0].train

    return make


@pytest.mark.parametrize("read", ["prompts", "cls"])
@pytest.mark.parametrize("batchwise", [False, True])
def test_prompts_and_keys_that_no_image_chose_get_no_gradient(begun, batchwise, read):
    learner, images = begun(batchwise=batchwise, read=read)
    learner.loss(images).backward()
    l2p = learner.method
    chosen = l2p.chosen(learner.queries(images)).unique().tolist()
    others = [j for j in range(6) if j not in chosen]
    assert chosen and others
    for grad in (l2p.P.grad, l2p.keys.grad):
        norms = grad.flatten(1).norm(dim=1)
        assert (norms[chosen] > 1e-6).all() and not norms[others].any()


def test_keys_learn_from_the_pull_alone(begun):
    learner, images = begun(pull=0.0)
    learner.loss(images).backward()
    assert learner.method.P.grad.any() and not learner.method.keys.grad.any()


def test_one_choice_a_batch_is_what_most_images_chose(begun):
    learner, images = begun(batchwise=True, top=1)
    query = learner.queries(images)
    own = cosines(query, learner.method.keys).argmax(1)
    chosen = learner.method.chosen(query)
    assert chosen.shape == (len(images), 1) and len(own.unique()) > 1
    assert (chosen == own.mode().values).all()


def test_chosen_keys_come_nearer_and_the_pool_goes_on(trainer, tiny_stream, memory_keeper):
    stream, keeper = tiny_stream(), memory_keeper()
    run = trainer({**QUICK, "lr": 0.01}, stream, keeper=keeper)
    run.run()
    query, l2p = run.learner.queries(stream.tasks[1].train), run.method
    first, last = (record["keys"] for record in keeper.records)
    before, after = (cosines(query, keys).topk(2).values.mean() for keys in (first, last))
    assert after > before + 0.01
    assert torch.equal(last, l2p.keys)
    l2p.begin_task(TaskInfo(2, range(4, 6), generator(0, "method", 2)))
    assert torch.equal(last, l2p.keys) and torch.equal(keeper.records[1]["prompts"], l2p.P)
    assert l2p.kept() == l2p.trained() == 6 * 2 * 32 + 6 * 32


def test_more_prompts_than_the_pool_holds_are_refused():
    with pytest.raises(ValidationError, match=r"method\.top is 7; allowed: at most method\.pool"):
        RunConfig(method={**QUICK, "top": 7})
