"""The loop: what decides a run, what its loss tells apart, what it measures, who computes it."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fmlora_lab import configure, grid, identity, run, sweep
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.methods.method import TaskInfo
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.runs.folder import RunFolder
from fmlora_lab.seeds import generator
from fmlora_lab.training.learner import Learner
from fmlora_lab.training.loop import Diverged

pytestmark = pytest.mark.train

TRAINED = sorted(name for name, method in METHODS.items() if method.ranked_by == "trained")


def test_the_seed_decides_and_global_state_does_not(trainer, tiny_stream, memory_keeper, quick):
    """For the method with most randomness; the same seed gives the same numbers, bit for bit."""
    losses = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        keeper = memory_keeper()
        trainer(
            quick("fm-lora"), tiny_stream(), keeper=keeper, seed=seed, epochs=1,
            augmentation="crop-flip",
        ).run()  # fmt: skip
        losses.append([line["loss"] for line in keeper.lines])
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("name", ["l2p", "dualprompt", "coda-prompt"])
def test_queries_computed_once_are_those_of_every_step(
    trainer, tiny_stream, memory_keeper, monkeypatch, quick, name
):
    """Only where images pass as they are; with augmentation each step has its own. Those of a
    task's test images are computed once, too."""
    computed = []

    def count(self, images, queries=Learner.queries):
        computed.append(len(images))
        return queries(self, images)

    losses = []
    for queries in (count, lambda self, images: None):
        monkeypatch.setattr(Learner, "queries", queries)
        keeper = memory_keeper()
        trainer(quick(name), tiny_stream(), keeper=keeper).run()
        losses.append([line["loss"] for line in keeper.lines])
    assert computed == [16, 6, 16, 6]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    monkeypatch.setattr(Learner, "queries", count)
    trainer(quick(name), tiny_stream(), augmentation="shift").run()
    assert computed == [16, 6, 16, 6, 6, 6]


# Loss over all classes seen


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_a_loss_over_all_seen_is_cross_entropy_over_earlier_and_own_rows(
    trainer, tiny_stream, head
):
    """Rows of earlier classes are there and get no gradient; those of later ones are not."""
    stream = tiny_stream(classes=6, tasks=3)
    learner = trainer("linear-probe", stream, loss_over="seen", head=head).learner
    for task in stream.tasks[:2]:
        learner.head.begin_task(task.classes, generator(0, task.index))
        with torch.no_grad():
            learner.head.row_bias += torch.tensor([0.3, -0.2])
        if task.index == 0:
            learner.head.end_task()
    images, own = stream.tasks[1].train, learner.head
    rows = own.rows.detach().clone().requires_grad_()
    weight, bias = torch.cat([own.weight[:2], rows]), torch.cat([own.bias[:2], own.row_bias])
    features = learner.features(images.pixels)
    if head == "cosine":
        logits = 16 * F.cosine_similarity(features[:, None], weight[None], dim=2)
    else:
        logits = features @ weight.T + bias
    assert set(images.labels.tolist()) == {2, 3}
    wanted = F.cross_entropy(logits, images.labels)
    found = learner.loss(images)
    torch.testing.assert_close(found, wanted)
    assert learner.mean_loss(images) == pytest.approx(wanted.item(), rel=1e-5)
    found.backward()
    (expected,) = torch.autograd.grad(wanted, rows)
    torch.testing.assert_close(own.rows.grad, expected, rtol=1e-4, atol=1e-6)
    assert not own.weight.requires_grad and own.weight.grad is None
    assert [tuple(p.shape) for p in own.parameters()] == [(2, 32), (2,)]


@pytest.mark.parametrize("name", TRAINED)
def test_with_one_class_a_task_every_method_learns_over_all_seen(
    trainer, tiny_stream, memory_keeper, quick, name
):
    gradients, heads = [], []

    class Keeper(memory_keeper):
        def log(self, line):
            super().log(line)
            if line["loss"] is None or line["task"] == 0:
                return
            head, method = started.learner.head, started.method
            heads.append((line["task"], head.weight.clone()))
            if line["stage"] == "train":
                own = [p.grad for group in method.groups() for p in group.parameters]
                gradients.append(head.rows.grad.norm())
                gradients.extend(max(g.norm() for g in own if g is not None) for _ in own[:1])

    stream, keeper = tiny_stream(tasks=4), Keeper()
    started = trainer(quick(name), stream, keeper=keeper, epochs=3, loss_over="seen")
    started.run()
    if METHODS[name].record.one_task:
        over_task = memory_keeper()
        trainer(quick(name), stream, keeper=over_task, epochs=3).run()
        assert keeper.losses(0) == over_task.losses(0)  # all classes are its one task's
        return
    for task in (1, 2, 3):
        losses = keeper.losses(task)
        assert losses[-1] < losses[0], losses
        during = [weight for at, weight in heads if at == task]
        assert all(torch.equal(during[0], weight) for weight in during)
        assert during[0][:task].any(1).all() and not during[0][task:].any()
    assert len(gradients) in (9, 18) and min(gradients) > 0  # of the head, and of what is adapted


def test_a_batch_that_the_device_does_not_hold_is_named(trainer, tiny_stream, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(METHODS["lora"], "step", full)
    with pytest.raises(BadInput, match=r"training.batch_size is 8, .*; allowed: fewer images"):
        trainer("lora", tiny_stream()).run()


def test_what_the_memory_does_not_hold_before_training_is_named(trainer, tiny_stream):
    refused = r"memory is too small for lora as it is set; allowed: smaller settings of method"
    with pytest.raises(BadInput, match=refused):
        trainer({"name": "lora", "rank": 10**13}, tiny_stream())


def test_what_else_torch_refuses_is_no_matter_of_memory(trainer, tiny_stream, monkeypatch):
    def odd(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(METHODS["lora"], "step", odd)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trainer("lora", tiny_stream()).run()


def test_short_tasks_are_checkpointed_at_their_ends_alone(trainer, tiny_stream, memory_keeper):
    """Within one only the first, by which it is seen what a checkpoint takes."""
    places = []

    class Slow(memory_keeper):
        def save_checkpoint(self, tensors, position):
            places.append((position["task"], position["epoch"]))

    work = trainer("lora", tiny_stream(), keeper=Slow(), epochs=4)
    kept = work._checkpoint

    def costly(*given):
        kept(*given)
        work.cost = 1e6  # a share of which never passes

    work._checkpoint = costly
    work.run()
    assert places == [(0, 1), (1, 0), (2, 0)]


def test_over_a_task_of_one_class_no_step_is_made(trainer, tiny_stream, memory_keeper):
    """The loss would be exactly 0, whatever the weights."""
    keeper = memory_keeper()
    started = trainer("lora", tiny_stream(tasks=4), keeper=keeper)
    before = started.learner.model.network.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    started.run()
    assert {line["loss"] for line in keeper.lines} == {None}
    after = started.learner.model.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_classes_that_come_again_are_all_the_tasks_own(trainer, tiny_stream, memory_keeper):
    """In a stream of domains both losses are one."""
    losses = []
    for over in ("task", "seen"):
        keeper = memory_keeper()
        trainer("lora", tiny_stream("domain-incremental"), keeper=keeper, loss_over=over).run()
        losses.append([line["loss"] for line in keeper.lines])
    assert losses[0] == losses[1]


def test_a_method_is_told_how_many_classes_its_loss_tells_apart(trainer, tiny_stream, monkeypatch):
    told = []

    def noted(self, task: TaskInfo) -> None:
        told.append((task.seen, task.told_apart))

    monkeypatch.setattr(METHODS["linear-probe"], "begin_task", noted)
    for over in ("task", "seen"):
        trainer("linear-probe", tiny_stream(classes=6, tasks=3), loss_over=over).run()
    assert told == [(0, 2), (0, 2), (0, 2), (0, 2), (2, 4), (4, 6)]


def test_progress_is_of_all_images_where_tasks_differ_in_size(tiny_config, tmp_path, capsys):
    run(tiny_config("linear-probe", **{"benchmark.tasks": [3, 1]}), tmp_path)
    counts = re.findall(r"task (\d)/2: (\d+)/(\d+) img", capsys.readouterr().err)
    assert [task for task, *_ in counts] == ["1", "2"]
    (_, _, whole), (_, done, total) = counts
    assert whole == total and int(done) == 3 * int(total) // 4


def test_a_run_with_one_class_a_task_says_that_its_loss_is_over_all_seen(
    tiny_config, tmp_path, capsys
):
    over_task = tiny_config("lora", **{"benchmark.tasks": 4})
    over_seen = tiny_config("lora", **{"benchmark.tasks": 4, "training.loss_over": "seen"})
    stored = run(over_task, tmp_path)
    assert capsys.readouterr().err.count("all classes seen (training.loss_over = 'seen')") == 1
    assert over_task.training.loss_over == "task"
    on_disk = RunFolder(tmp_path, stored.id).read_json("config.json")
    assert on_disk["training"]["loss_over"] == stored.config["training"]["loss_over"] == "seen"
    assert stored.id == run(over_seen, tmp_path).id == identity(over_task) == identity(over_seen)
    losses = {line["task"]: line["loss"] for line in stored.progress()}
    assert losses[0] is None  # nothing to tell apart, so nothing was trained
    assert all(losses[task] > 0.1 for task in (1, 2, 3))
    two = run(tiny_config("lora"), tmp_path)
    assert two.config["training"]["loss_over"] == "task"
    assert "loss_over" not in capsys.readouterr().err


NAMES = {
    "a8d9978145c90f55": RunConfig(method="lora"),
    "a2d8afb1c910a18e": RunConfig(
        method={"name": "fm-lora", "basis_rank": 8}, seed=1, training={"head": "means"}
    ),
    "0002923ee172b82f": RunConfig(
        method="joint", benchmark={"name": "glyphs", "tasks": 5}, order_seed=2
    ),
    "b0c004343aa11306": configure(
        "hide-prompt", "glyph-domains", overrides={"evaluate_on": "validation"}
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_of_this_format(name):
    """An option that is added and left at its default moves none."""
    assert NAMES[name].run_id("data", "weights") == name


# Cells above the diagonal


def answers(learner: Learner, stream) -> list[int]:
    """Right answers of the trained head on every task, counted here."""
    found = []
    for task in stream.tasks:
        with torch.no_grad():
            scores = learner.head(learner.features(task.test.pixels))
        found.append(int((scores.argmax(1) == task.test.labels).sum()))
    return found


def test_tasks_to_come_are_tested_as_the_model_then_is(trainer, tiny_stream, memory_keeper):
    counted = []

    class Keeper(memory_keeper):
        def save_task(self, index, tensors):
            super().save_task(index, tensors)
            counted.append(answers(started.learner, stream))

    stream = tiny_stream("domain-incremental", tasks=3, noise=60)
    started = trainer("lora", stream, keeper=Keeper())
    object.__setattr__(started.config, "measure_ahead", True)
    measured = started.run()
    assert measured["correct"]["trained"] == counted
    assert len({*map(tuple, counted)}) > 1
    above = np.triu(np.asarray(measured["correct"]["means"]), 1)
    assert (above[np.triu_indices(3, 1)] > 0).all()


@pytest.mark.parametrize("ahead", [False, True])
def test_transfer_average_and_last_are_in_the_result_if_asked_for(tiny_config, tmp_path, ahead):
    config = tiny_config("lora", **{"benchmark.tasks": 4, "training.loss_over": "seen"})
    config = config.model_copy(update={"measure_ahead": ahead})
    stored = run(config, tmp_path)
    a, result = stored.accuracy_matrix, stored.result
    assert np.isnan(a[np.triu_indices(4, 1)]).all() == (not ahead)
    assert not np.isnan(a[np.tril_indices(4)]).any()
    if not ahead:
        assert not {"transfer", "average", "last"} & result.keys()
        return
    before = [sum(a[i, j] for i in range(j)) / j for j in (1, 2, 3)]
    assert result["transfer"] == pytest.approx(sum(before) / 3, abs=1e-3)
    assert result["average"] == pytest.approx(sum(map(sum, a)) / 16, abs=1e-3)
    assert result["last"] == pytest.approx(sum(a[3]) / 4, abs=1e-3)
    plain = run(config.model_copy(update={"measure_ahead": False}), tmp_path).result
    assert result["acc"] == plain["acc"] and result["forgetting"] == plain["forgetting"]


# Launchers


def test_a_launcher_of_ones_own_computes_a_sweeps_runs(tiny_config, tmp_path):
    """Here one that takes them from the last to the first, and gives them in order."""
    asked = []

    def backwards(configs, runs_dir, use_shipped):
        configs = list(configs)
        asked.extend(config.seed for config in reversed(configs))
        done = [run(config, runs_dir, use_shipped) for config in reversed(configs)]
        yield from reversed(done)

    configs = [tiny_config("lora", seed=seed) for seed in range(3)]
    found = sweep(configs, tmp_path, on=backwards)
    assert asked == [2, 1, 0]
    assert list(found.seed) == [0, 1, 2]
    assert [stored.id for stored in found.run] == [identity(config) for config in configs]
    here = sweep(configs, tmp_path / "here")
    assert list(here.acc) == list(found.acc) and list(here.forgetting) == list(found.forgetting)


def test_a_loss_that_diverges_is_named_and_no_result(tmp_path):
    asked = grid("smoke", method="linear-probe", overrides={"training.lr_head": 1e38})
    with pytest.raises(Diverged, match=r"the loss of linear-probe is .* in epoch 1 of task"):
        sweep(asked, tmp_path)
    assert not list(tmp_path.glob("*/result.json"))
