"""HiDe-Prompt: the official code's numbers, statistics, task inference, the corrected head."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import drawn, info, sums
from torch import nn

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.benchmarks.stream import Images, Stream, Task
from fmlora_lab.methods.method import Batch, Stage, StageEnd, build
from fmlora_lab.methods.prompts.class_statistics import describe, sample, train_on_samples
from fmlora_lab.methods.prompts.hide_prompt import HiDePromptSettings, TaskInference
from fmlora_lab.seeds import generator

QUICK = {
    "name": "hide-prompt",
    "blocks": [0, 1],
    "length": 4,
    "lr": 0.03,
    "lr_inference": 0.01,
    "inference_epochs": 2,
    "contrast": 0.01,
    "correction_epochs": 2,
    "samples": 16,
}
TRAIN = Stage("train", 1)


def small(tiny_vit, **settings):
    """The method in float64 on a ViT of width 8."""
    settings = HiDePromptSettings(**{"blocks": (0,), "length": 4, **settings})
    return build(settings, ViT(tiny_vit(embed_dim=8))).double()


# Against the official code: made on 2026-11-22 with thu-ml/HiDe-Prompt (0ed4333), in float64.


@pytest.mark.parametrize(
    ("old", "value", "gradient"),
    [
        (False, 0.64885583, [0.10271359, 0.38936218, -0.10266972]),
        (True, 0.66379833, [-0.04929857, 0.13249343, -0.05616122]),
    ],
    ids=["first-task", "later"],
)
def test_the_contrastive_term_is_the_official_codes(tiny_vit, old, value, gradient):
    """`engines/hide_promtp_wtp_and_tap_engine.py`, `orth_loss` with reg 1, without class means
    and with one class's mean and another's two centroids."""
    hide = small(tiny_vit, contrast=1.0)
    if old:
        means = drawn(3, 8, seed=51) / 2
        hide.prompted = torch.cat([means, torch.ones(3, 8)], dim=1)
    features = (drawn(4, 8, seed=52) / 2).requires_grad_()
    even = torch.zeros(4, 2).double()  # of cross-entropy ln 2
    hide.begin_stage(TRAIN, generator(0))
    loss = hide.loss(Batch(features, even, torch.zeros(4, dtype=torch.long), None)) - np.log(2)
    loss.backward()
    assert loss.item() == pytest.approx(value, abs=1e-7)
    assert sums(features.grad) == pytest.approx(gradient, abs=1e-7)


def test_a_prompt_is_drawn_to_the_old_ones_as_in_the_official_code(tiny_vit):
    """`train_and_evaluate`'s last lines of a task (momentum 0.1, third of three prompts) and
    `peft/prompt/hide_prompt.py`, `EPrompt.forward` with prompt_momentum 0.1 gave the same: what
    is trained is already the mixture, so the end of training changes nothing."""
    hide = small(tiny_vit, momentum=0.1)
    P = drawn(3, 1, 4, 8, seed=53)
    hide.old_P = P[:2].clone()
    with torch.no_grad():
        hide.P.copy_(P[2])
    golden = pytest.approx([6.94491026, 25.05671647, -3.84737191], abs=1e-7)
    hide.begin_stage(TRAIN, generator(0))
    assert sums(torch.cat(hide.prompts(None).prefixes[0])) == golden
    hide.end_stage(TRAIN, StageEnd(None, generator(0)))
    assert sums(hide.P) == golden
    hide.begin_stage(Stage("statistics", 1, observe=True), generator(0))
    assert sums(torch.cat(hide.prompts(None).prefixes[0])) == golden
    assert torch.equal(hide.old_P, P[:2])


def test_task_inference_is_the_official_mlp():
    """`vits/hide_prompt_vision_transformer.py`, `MlpMapping(dim=8, hidden=[2])`, then linear."""
    g = TaskInference(8).double()
    with torch.no_grad():
        for parameter, value in (
            (g.into.weight, drawn(16, 8, seed=61) / 8**0.5),
            (g.into.bias, drawn(16, seed=62)),
            (g.out.weight, drawn(8, 16, seed=63) / 4),
            (g.out.bias, drawn(8, seed=64)),
            (g.norm.weight, 1 + drawn(8, seed=65) / 10),
            (g.norm.bias, drawn(8, seed=66)),
        ):
            parameter.copy_(value)
    g.rows, g.bias = nn.Parameter(drawn(3, 8, seed=67)), nn.Parameter(drawn(3, seed=68))
    golden = [
        [-0.622593, -2.66933139, 6.34379031],
        [2.69123608, 0.18136098, 0.01026679],
        [1.55089701, 2.51733375, -0.02205555],
        [0.08472029, 1.37376, -0.15621261],
    ]
    found = g(drawn(4, 8, seed=69))
    torch.testing.assert_close(found, torch.tensor(golden, dtype=torch.float64), rtol=0, atol=1e-7)


# Statistics of classes, and training on samples of them


def test_one_gaussian_is_mean_and_variance():
    features = drawn(7, 3, seed=1)
    expected = torch.cat([features.mean(0), (features - features.mean(0)).square().mean(0)])
    torch.testing.assert_close(describe(features, 1, generator(0)), expected[None])


def test_centroids_are_the_clusters_means_and_variances():
    """From a start with two images of one cluster it need not find all three."""
    clusters = [20 * n + drawn(6, 3, seed=n) for n in range(3)]
    expected = torch.cat([describe(own, 1, generator(0)) for own in clusters])
    found = [describe(torch.cat(clusters), 3, generator(seed)) for seed in range(9)]
    ordered = [rows[rows[:, 0].argsort()] for rows in found]
    assert any(torch.allclose(rows, expected) for rows in ordered)
    for rows in found:
        mean, variance = rows.chunk(2, dim=1)
        nearest = torch.cdist(torch.cat(clusters), mean).argmin(1)
        for c in range(3):
            own = torch.cat(clusters)[nearest == c]
            torch.testing.assert_close(mean[c], own.mean(0))
            spread = own if len(own) > 1 else torch.cat(clusters)
            torch.testing.assert_close(variance[c], spread.var(0, unbiased=False))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_more_centroids_than_images_are_as_many_as_asked_for(n):
    features = drawn(n, 3, seed=1)
    rows = describe(features, 5, generator(0))
    assert rows.shape == (5, 6) and rows.isfinite().all()
    means, variances = rows.chunk(2, dim=1)
    assert torch.cdist(means, features).amin(1).max() < 1e-6  # each is an image
    torch.testing.assert_close(variances, features.var(0, unbiased=False).expand(5, 3))


def test_samples_have_the_statistics_mean_and_variance():
    statistics = torch.cat([drawn(2, 3, seed=1), drawn(2, 3, seed=2).square()], dim=1)
    drawn_features = sample(statistics, 40_000, generator(0))
    mean, variance = statistics.chunk(2, dim=1)
    torch.testing.assert_close(drawn_features.mean(1), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(drawn_features.var(1), variance + 1e-4, rtol=0.05, atol=0)
    assert torch.equal(drawn_features, sample(statistics, 40_000, generator(0)))


def test_a_classifier_learns_from_samples_alone():
    means = 2 * drawn(6, 8, seed=1).float()
    statistics, labels = torch.cat([means, torch.ones(6, 8)], 1), torch.arange(3).repeat(2)
    rows = nn.Parameter(torch.zeros(3, 8))
    train_on_samples(lambda f: f @ rows.T, [rows], statistics, labels, 20, 16, 0.05, generator(0))
    features = sample(statistics, 50, generator(1))
    right = (features @ rows.T).argmax(2) == labels[:, None]
    assert right.float().mean() > 0.8


# In training


@pytest.fixture
def trained(trainer, tiny_stream, memory_keeper):
    """`trained(tasks=2, ...)`: the run, its stream, and each task's record."""

    def make(tasks: int = 2, scenario: str = "class-incremental", stream=None, **settings):
        stream = stream or tiny_stream(scenario, classes=2 * tasks, tasks=tasks)
        keeper = memory_keeper()
        run = trainer({**QUICK, **settings}, stream, keeper=keeper)
        run.run()
        return run, stream, keeper.records

    return make


def test_prompts_of_learned_tasks_stay_bit_for_bit(trained):
    run, _, records = trained(tasks=3)
    hide = run.method
    for record, old in zip(records, hide.old_P, strict=True):
        assert torch.equal(record["prompts"], old)
    assert not hide.old_P.requires_grad
    assert (hide.old_P.diff(dim=0).flatten(1).abs().amax(1) > 1e-3).all()
    assert hide.task_of.tolist() == [0, 0, 1, 1, 2, 2]
    assert hide.class_of.tolist() == [0, 1, 2, 3, 4, 5]


def test_statistics_are_those_of_frozen_and_of_prompted_features(trained):
    """Frozen features are plain; prompted ones have the prompt that the task leaves behind."""
    run, stream, _ = trained(tasks=1)
    hide, images = run.method, stream.tasks[0].train
    for stage, kept in (("frozen", hide.frozen), ("statistics", hide.prompted)):
        hide.begin_stage(Stage(stage, 1, observe=True), generator(0))
        features = run.learner.features(images.pixels).detach()
        for c in (0, 1):
            own = features[images.labels == c]
            expected = torch.cat([own.mean(0), own.var(0, unbiased=False)])
            torch.testing.assert_close(kept[c], expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(hide.frozen, hide.prompted, atol=1e-2)


@torch.no_grad()
def inferred(run, images) -> list[int]:
    """The tasks whose prompts the images take."""
    keys, values = run.method.prompts(run.learner.queries(images)).prefixes[1]
    own = torch.cat([keys, values], dim=1)
    return [int((run.method.old_P[:, 1] == p).flatten(1).all(1).nonzero()) for p in own]


def test_task_inference_is_right_on_separable_tasks(trainer, tiny_stream):
    stream = tiny_stream(classes=6, tasks=3, each=16, test_each=6)
    settings = {**QUICK, "inference_epochs": 4, "correction_epochs": 6, "correction_lr": 0.02}
    run = trainer(settings, stream, epochs=1)
    run.run()
    right = [t == task.index for task in stream.tasks for t in inferred(run, task.test)]
    assert sum(right) >= 0.9 * len(right)


def test_with_one_class_a_task_inference_learns_among_all_seen(trainer, tiny_stream, memory_keeper):
    """Its own stage too tells the new class from the earlier ones, or it would learn nothing."""
    keeper = memory_keeper()
    stream = tiny_stream(tasks=4)
    trainer({**QUICK, "inference_epochs": 2}, stream, keeper=keeper, loss_over="seen").run()
    for task in (1, 2, 3):
        first, last = keeper.losses(task, "task-inference")
        assert 0 < last < first


def test_a_task_that_is_not_learned_yet_is_not_inferred(trained):
    run, stream, _ = trained()
    hide = run.method
    hide.begin_task(info(2))
    with torch.no_grad():
        hide.infer.bias[4:] = 1e6
    assert set(inferred(run, stream.tasks[0].test)) <= {0, 1}


def test_a_query_is_needed_at_prediction_alone(trained):
    run, _, _ = trained()
    hide, needed = run.method, []
    assert hide.needs_query
    hide.begin_task(info(2))
    for stage in hide.stages(1):
        hide.begin_stage(stage, generator(0))
        for training in (True, False):
            hide.train(training)
            needed.append(hide.needs_query)
    assert not any(needed)


def test_the_corrected_head_still_ranks_old_classes(trained):
    """On features as those of old classes were: no fewer are right, and the loss is smaller."""
    run, _, _ = trained(tasks=3, correction_epochs=0)
    hide, head = run.method, run.learner.head
    object.__setattr__(hide, "settings", hide.settings.model_copy(update={"correction_epochs": 10}))
    features = sample(hide.prompted[:4], 100, generator(7)).flatten(0, 1)
    labels = torch.arange(4).repeat_interleave(100)

    def measured() -> tuple[float, float]:
        logits = head(features)
        right = (logits.argmax(1) == labels).float().mean()
        return float(right), float(F.cross_entropy(logits, labels))

    before = measured()
    hide.correct_head(head, generator(3))
    after = measured()
    assert after[0] >= before[0] and after[1] < 0.95 * before[1]
    assert head.known.all() and head.weight.isfinite().all()


@pytest.mark.parametrize("centroids", [1, 3])
def test_kept_counts_what_is_kept(trained, centroids):
    run, _, _ = trained(tasks=3, centroids=centroids)
    prompts, gaussians = 3 * 2 * 4 * 32, 6 * centroids * 2 * 32
    mlp = 2 * (32 * 64) + 64 + 32 + 2 * 32 + 6 * 32 + 6
    assert run.method.kept() == prompts + 2 * gaussians + mlp
    assert run.method.trained() == 2 * 4 * 32 + mlp
    state = run.method.state_dict()
    spent = {"P", "task_of", "class_of"}  # the last task's prompt is among the old ones
    assert run.method.kept() == sum(v.numel() for k, v in state.items() if k not in spent)


def test_classes_of_few_and_of_many_images_keep_as_many_centroids(trained, tiny_images):
    """Else a Gaussian would be sampled for another class's label."""
    tasks, parts = [], [tiny_images(range(0, 1), 3), tiny_images(range(1, 2), 14)]
    for t in range(2):
        few, many = (Images(part.pixels, part.labels + 2 * t) for part in parts)
        both = Images(torch.cat([few.pixels, many.pixels]), torch.cat([few.labels, many.labels]))
        tasks.append(Task(t, f"task {t}", range(2 * t, 2 * t + 2), both, both))
    stream = Stream("uneven", "class-incremental", tuple("abcd"), tuple(tasks), "uneven")
    run, _, _ = trained(stream=stream, centroids=5)
    assert run.method.frozen.shape == run.method.prompted.shape == (4 * 5, 2 * 32)


def test_classes_that_come_again_have_an_output_of_g_for_every_domain(trained):
    run, stream, _ = trained(scenario="domain-incremental")
    hide = run.method
    assert hide.class_of.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert hide.task_of.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len(hide.infer.rows) == len(hide.frozen) == len(hide.prompted) == 8
    assert {t for task in stream.tasks for t in inferred(run, task.test)} <= {0, 1}
    assert run.learner.head.weight.shape == (4, 32) and run.learner.head.known.all()
