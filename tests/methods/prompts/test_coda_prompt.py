"""CODA-Prompt: the official code's numbers, orthonormal starts, old components left alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import drawn, info, sums

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.methods.method import Batch, Stage, build
from fmlora_lab.methods.prompts.coda_prompt import CODAPromptSettings, attention, gram_schmidt
from fmlora_lab.seeds import generator

QUICK = {"name": "coda-prompt", "components": 3, "length": 4, "blocks": [0, 1], "lr": 0.03}
PARTS = ("P", "K", "A")


# Against the official code: made on 2026-11-22 with GT-RIPL/CODA-Prompt (6417d4f)
# `models/zoo.py`, `CodaPrompt.forward(query, 0, None, train=True)` in the second of two tasks,
# of two components each, in float64; the gradients of the prompt's weighted sum are those of its
# rows of the second task (the first task's were zero), the penalties those of `ortho_penalty`.


@pytest.fixture
def as_theirs(tiny_vit):
    settings = CODAPromptSettings(components=2, length=4, blocks=(0,), ortho=0.3)
    coda = build(settings, ViT(tiny_vit(embed_dim=8))).double()
    values = drawn(4, 4, 8, seed=41), drawn(4, 8, seed=42), drawn(4, 8, seed=43)
    with torch.no_grad():
        for name, value in zip(PARTS, values, strict=True):
            setattr(coda, f"old_{name}", value[None, :2])
            getattr(coda, name).copy_(value[None, 2:])
    coda.begin_stage(Stage("train", 1), generator(0))
    return coda


def test_attention_is_the_official_codes():
    alpha = attention(drawn(3, 8, seed=44), drawn(4, 8, seed=43), drawn(4, 8, seed=42))
    golden = [
        [0.24503901, -0.00828054, 0.10391607, 0.08613038],
        [-0.72439324, 0.32631234, -0.32769889, 0.43678399],
        [0.52058077, 0.21029222, 0.06171008, -0.06519302],
    ]
    torch.testing.assert_close(alpha, torch.tensor(golden, dtype=torch.float64), rtol=0, atol=1e-7)


def test_prefixes_and_gradients_are_the_official_codes(as_theirs):
    prompt = torch.cat(as_theirs.prompts(drawn(3, 8, seed=44)).prefixes[0], dim=1)
    assert sums(prompt) == pytest.approx([-4.08941089, 32.52177622, -5.52869571], abs=1e-7)
    (prompt * drawn(3, 4, 8, seed=45)).sum().backward()
    golden = {
        "P": [-1.53382211, 9.6050412, 0.55458836],
        "K": [8.79838171, 34.46783729, -1.02080436],
        "A": [-4.70433576, 10.72258092, -0.35584999],
    }
    for name in PARTS:
        assert sums(getattr(as_theirs, name).grad) == pytest.approx(golden[name], abs=1e-7)
        assert not getattr(as_theirs, f"old_{name}").requires_grad


def test_the_penalty_is_the_sum_of_what_the_official_code_takes_the_mean_of(as_theirs):
    query, labels = drawn(3, 8, seed=44), torch.zeros(3, dtype=torch.long)
    even = torch.zeros(3, 2).double()  # of cross-entropy ln 2
    loss = as_theirs.loss(Batch(query, even, labels, query)).item() - np.log(2)
    means = 177.89469862707267 + 9.74472903436954 + 13.75922698681796  # of P, K, A
    assert loss == pytest.approx(0.3 * 16 * means, rel=1e-10)  # each of 4 x 4 numbers


# Properties


def test_attention_is_the_cosine_written_out():
    query, A, K = drawn(5, 8, seed=1), drawn(7, 8, seed=2), drawn(7, 8, seed=3)
    expected = F.cosine_similarity(query[:, None] * A, K[None], dim=2)  # of (B, M, d)
    torch.testing.assert_close(attention(query, A, K), expected, rtol=1e-10, atol=1e-10)


def test_attention_to_nothing_is_zero_with_finite_gradients():
    A = torch.zeros(2, 8).requires_grad_()
    found = attention(torch.ones(1, 8), A, torch.ones(2, 8))
    found.sum().backward()
    assert not found.any() and A.grad.isfinite().all()


def learned(coda, tasks: int) -> None:
    """Tasks begun and ended, with components as far from orthonormal as training may bring."""
    for t in range(tasks):
        coda.begin_task(info(t))
        coda.begin_stage(Stage("train", 1), generator(0))
        with torch.no_grad():
            for n, name in enumerate(PARTS):
                part = getattr(coda, name)
                part.add_(drawn(*part.shape, seed=10 * t + n))
        coda.end_task()


def check_orthonormal(old: torch.Tensor, new: torch.Tensor) -> None:
    torch.testing.assert_close(new @ new.T, torch.eye(len(new)), rtol=0, atol=1e-5)
    if len(old):
        assert (F.normalize(old) @ new.T).abs().max() < 1e-5


@pytest.mark.parametrize("tasks", [0, 1, 3])
def test_new_components_start_orthonormal_to_the_old_and_to_each_other(tiny_vit, tasks):
    coda = build(CODAPromptSettings(**QUICK), ViT(tiny_vit()))
    learned(coda, tasks)
    coda.begin_task(info(tasks))
    for name in PARTS:
        for old, new in zip(getattr(coda, f"old_{name}"), getattr(coda, name), strict=True):
            assert len(old) == 3 * tasks
            check_orthonormal(old.flatten(1), new.detach().flatten(1))
    assert not torch.equal(coda.K[0], coda.K[1])  # each block draws its own


def test_more_components_than_the_width_allows_are_still_drawn(tiny_vit):
    """K and A have room for 8 of these 18, which are orthonormal; P's are all."""
    settings = CODAPromptSettings(**{**QUICK, "components": 6})
    coda = build(settings, ViT(tiny_vit(embed_dim=8)))
    learned(coda, 1)
    coda.begin_task(info(1))
    for name in ("K", "A"):
        old, new = getattr(coda, f"old_{name}")[0], getattr(coda, name)[0].detach()
        check_orthonormal(old, new[:2])
        torch.testing.assert_close(new.norm(dim=1), torch.ones(6))
    check_orthonormal(coda.old_P[0].flatten(1), coda.P[0].detach().flatten(1))
    learned(coda, 3)
    coda.begin_task(info(4))
    assert torch.cat([coda.old_K, coda.K], dim=1).isfinite().all()


def test_nothing_to_be_orthogonal_to_leaves_a_draws_direction():
    draw = drawn(1, 8, seed=1)
    torch.testing.assert_close(gram_schmidt(draw[:0], draw), F.normalize(draw))
    twice = gram_schmidt(draw, draw)  # and so does having no room left
    torch.testing.assert_close(twice, F.normalize(draw))


@pytest.fixture
def trained(trainer, tiny_stream, memory_keeper):
    """`trained(tasks=2, scenario=...)`: the run, its stream, and each task's record."""

    def make(tasks: int = 2, scenario: str = "class-incremental"):
        stream, keeper = tiny_stream(scenario, classes=2 * tasks, tasks=tasks), memory_keeper()
        run = trainer(QUICK, stream, keeper=keeper)
        run.run()
        return run, stream, keeper.records

    return make


@pytest.mark.parametrize("scenario", ["class-incremental", "domain-incremental"])
def test_components_of_learned_tasks_stay_bit_for_bit(trained, scenario):
    run, _, records = trained(tasks=3, scenario=scenario)
    coda = run.method
    for t, record in enumerate(records):
        for name in PARTS:
            assert torch.equal(record[name], getattr(coda, f"old_{name}")[:, 3 * t : 3 * t + 3])
    coda.begin_task(info(2))  # the same draw
    for name in PARTS:
        moved = (getattr(coda, name) - records[2][name]).abs().flatten(2).amax(2)
        assert moved.min() > 1e-4  # every component learned
    assert coda.kept() == 3 * 2 * 3 * (4 + 1 + 1) * 32
    assert coda.trained() == 2 * 3 * (4 + 1 + 1) * 32


def test_learned_components_take_part_in_the_next_task(trained):
    """In training from its first step on, in prediction with those that it began only then."""
    run, stream, _ = trained()
    coda, query = run.method, run.learner.queries(stream.tasks[0].test).clone()
    before = coda.prompts(query).prefixes[1]
    coda.begin_task(info(2))
    now = coda.prompts(query).prefixes[1]
    assert torch.equal(now[0], before[0]) and torch.equal(now[1], before[1])
    coda.begin_stage(Stage("train", 1), generator(0))
    P, K, A = (torch.cat([getattr(coda, f"old_{n}"), getattr(coda, n)], dim=1)[1] for n in PARTS)
    alpha = F.cosine_similarity(query[:, None] * A, K[None], dim=2)
    expected = (alpha[:, :, None, None] * P).sum(1)
    found = torch.cat(coda.prompts(query).prefixes[1], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[:, :2], before[0], atol=1e-3)


def test_the_penalty_keeps_components_orthonormal(trainer, tiny_stream, memory_keeper):
    far = []
    for ortho in (0.0, 1.0):
        keeper = memory_keeper()
        trainer({**QUICK, "ortho": ortho}, tiny_stream(), keeper=keeper, epochs=4).run()
        K = keeper.records[0]["K"]
        far.append(float((K @ K.mT - torch.eye(3)).square().sum()))
    assert far[1] < 0.5 * far[0]
