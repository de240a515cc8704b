"""DualPrompt: the official codes' numbers, tasks kept apart, the right expert found again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle import drawn, info, sums
from pydantic import ValidationError

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.benchmarks.stream import Images, Stream
from fmlora_lab.config import RunConfig
from fmlora_lab.methods.method import Batch, Stage, build
from fmlora_lab.methods.prompts.dualprompt import DualPromptSettings
from fmlora_lab.seeds import generator

QUICK = {
    "name": "dualprompt",
    "general_blocks": [0],
    "general_length": 2,
    "blocks": [1],
    "length": 4,
    "lr": 0.03,
}


def test_matching_and_choice_are_the_official_codes(tiny_vit):
    """Made on 2026-11-22 with JH-LEE-KR/dualprompt-pytorch (7eb457d) `prompt.py`,
    `EPrompt.forward` with these keys as pool, top_k 1 and cls_features: `reduce_sim` and its
    gradient (times -0.7) with prompt_mask 1, `prompt_idx` without."""
    settings = DualPromptSettings(general_blocks=(), blocks=(0,), length=4, match=0.7)
    dual = build(settings, ViT(tiny_vit(embed_dim=8))).double()
    keys, query, E = drawn(3, 8, seed=11), drawn(5, 8, seed=12), drawn(3, 1, 4, 8, seed=13)
    with torch.no_grad():
        dual.key.copy_(keys[1])
    even = torch.zeros(5, 2).double()  # of cross-entropy ln 2
    loss = dual.loss(Batch(query, even, torch.zeros(5, dtype=torch.long), query))
    loss.backward()
    assert 1 - (loss.item() - np.log(2)) / 0.7 == pytest.approx(0.02247363, abs=1e-7)
    assert sums(dual.key.grad) == pytest.approx([-0.00929734, 0.00936783, 0.04930734], abs=1e-7)
    dual.old_E, dual.old_keys = E, keys
    dual.eval()
    found, values = dual.prompts(query).prefixes[0]
    wanted = E[[0, 0, 2, 2, 1], 0]
    assert torch.equal(found, wanted[:, :2]) and torch.equal(values, wanted[:, 2:])


@pytest.fixture
def trained(trainer, tiny_stream, memory_keeper):
    """`trained(tasks=2, **settings)`: the run, its stream, and each task's record."""

    def make(tasks: int = 2, scenario: str = "class-incremental", **settings):
        stream, keeper = tiny_stream(scenario, classes=2 * tasks, tasks=tasks), memory_keeper()
        run = trainer({**QUICK, **settings}, stream, keeper=keeper)
        run.run()
        return run, stream, keeper.records

    return make


def test_training_uses_the_general_and_the_tasks_own_prompt(tiny_vit):
    dual = build(DualPromptSettings(**QUICK), ViT(tiny_vit()))
    dual.begin_task(info(0))
    dual.old_E, dual.old_keys = torch.ones(1, 1, 4, 32), torch.ones(1, 32)
    dual.train()
    prefixes = dual.prompts(torch.ones(3, 32)).prefixes
    assert torch.equal(torch.cat(prefixes[0]), dual.G[0])
    assert torch.equal(torch.cat(prefixes[1]), dual.E[0])
    dual.eval()
    keys, values = dual.prompts(torch.ones(3, 32)).prefixes[1]
    assert torch.equal(torch.cat([keys, values], dim=1), dual.old_E[0].expand(3, 4, 32))


def test_prompts_and_keys_of_learned_tasks_stay_bit_for_bit(trained):
    run, _, records = trained(tasks=3)
    dual = run.method
    for t, record in enumerate(records):
        assert torch.equal(record["expert"], dual.old_E[t])
        assert torch.equal(record["key"], dual.old_keys[t])
    assert not dual.old_E.requires_grad and not dual.old_keys.requires_grad
    assert (dual.old_E.diff(dim=0).flatten(1).abs().amax(1) > 1e-3).all()  # each learned its own
    assert not torch.equal(records[0]["general"], records[1]["general"])  # and all the general one
    assert dual.kept() == 2 * 32 + 3 * 4 * 32 + 3 * 32


@pytest.mark.parametrize("reuse", [True, False])
def test_a_new_expert_starts_from_the_last_if_asked(trained, reuse):
    run, _, records = trained(start_from_last=reuse)
    run.method.begin_task(info(2))
    assert torch.equal(run.method.E, records[1]["expert"]) == reuse
    assert not torch.equal(run.method.key, records[1]["key"])


def test_only_prompts_of_learned_tasks_are_chosen(trained):
    """However near the key of the task to come is, until it is learned."""
    run, stream, _ = trained()
    dual, query = run.method, run.learner.queries(stream.tasks[0].test)
    dual.begin_task(info(2))
    with torch.no_grad():
        dual.key.copy_(query.mean(0))
        dual.E.fill_(7)
    keys, _ = dual.prompts(query).prefixes[1]
    assert all(any(torch.equal(k, old[0, :2]) for old in dual.old_E) for k in keys)
    dual.begin_stage(Stage("train", 1), generator(0))
    keys, values = dual.prompts(query).prefixes[1]
    assert (keys == 7).all() and (values == 7).all()


def experts(run, images) -> list[int]:
    """Which task's prompt each image takes."""
    keys, values = run.method.prompts(run.learner.queries(images)).prefixes[1]
    own = torch.cat([keys, values], dim=1)
    return [int((run.method.old_E[:, 0] == p).flatten(1).all(1).nonzero()) for p in own]


def in_one_colour(stream: Stream) -> Stream:
    """Task t shows its images in colour t alone, so that frozen features tell the tasks apart."""

    def own(images, t):
        pixels = torch.zeros_like(images.pixels)
        pixels[:, t] = 128 + images.pixels[:, t] // 2
        return Images(pixels, images.labels)

    tasks = [
        replace(task, train=own(task.train, task.index), test=own(task.test, task.index))
        for task in stream.tasks
    ]
    return replace(stream, tasks=tuple(tasks))


def test_on_separable_tasks_the_right_expert_mostly_is_chosen(trainer, tiny_stream):
    stream = in_one_colour(tiny_stream(classes=6, tasks=3))
    run = trainer({**QUICK, "lr": 0.1}, stream, epochs=8)
    run.run()
    right = [t == task.index for task in stream.tasks for t in experts(run, task.test)]
    assert sum(right) >= 0.8 * len(right)


def test_a_stream_of_domains_works(trained):
    run, stream, _ = trained(scenario="domain-incremental")
    assert len(run.method.old_E) == 2
    assert {t for task in stream.tasks for t in experts(run, task.test)} <= {0, 1}


def test_a_block_takes_the_general_or_the_expert_prompt():
    with pytest.raises(ValidationError, match=r"method\.blocks has 1; allowed: blocks .* \[0, 1\]"):
        RunConfig(method={**QUICK, "general_blocks": [0, 1]})
