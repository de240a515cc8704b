"""What every registered method must keep to, its own or a newcomer's."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from torch.utils._pytree import tree_leaves

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.benchmarks.stream import Images, Stream
from fmlora_lab.heads import BANKS
from fmlora_lab.methods.low_rank.lora import LoRASettings
from fmlora_lab.methods.method import TaskInfo
from fmlora_lab.methods.registry import METHODS, build
from fmlora_lab.seeds import generator

pytestmark = pytest.mark.train

every_method = pytest.mark.parametrize("name", sorted(METHODS))


WITHOUT_PROMPTS = {
    "fm-lora": {"prompt": {"tokens": 0}},
    "l2p": {"length": 0},
    "dualprompt": {"general_length": 0, "length": 0},
    "coda-prompt": {"length": 0},
    "hide-prompt": {"length": 0},
}
"""Prompts of no tokens: what such a method is before it adds any."""


def begin(learner, index: int, classes: range) -> None:
    learner.head.begin_task(classes, generator(0, "head", index))
    learner.method.begin_task(TaskInfo(index, classes, generator(0, "method", index)))


@every_method
def test_before_the_first_step_it_is_plain_timm(trainer, tiny_stream, tiny_vit, quick, name):
    stream, plain = tiny_stream(), tiny_vit()
    for block in plain.blocks:
        block.attn.fused_attn = False  # as training on a CPU has it; another order of summation
    settings = quick(name, **WITHOUT_PROMPTS.get(name, {}))
    learner = trainer(settings, stream, deepcopy(plain)).learner
    images = stream.tasks[0].test
    x = (images.pixels.float() / 255 - 0.5) / 0.5
    wanted = plain.forward_head(plain.forward_features(x), pre_logits=True)
    begin(learner, 0, stream.tasks[0].classes)
    for training in (True, False):
        learner.method.train(training)
        assert torch.equal(learner.features(images.pixels), wanted)
    ((folded, _),) = learner.in_batches(images)
    assert torch.equal(folded, wanted)


@every_method
def test_a_task_keeps_what_it_learned_and_the_next_begins_there(trainer, tiny_stream, quick, name):
    """Merging, making bases and starting anew change nothing of what the model computes."""
    stream = tiny_stream(tasks=1)
    run = trainer(quick(name), stream)
    pixels, end_task, seen = stream.tasks[0].test.pixels, run.method.end_task, []

    def watched_end():
        seen.append(run.learner.features(pixels).detach())
        return end_task()

    run.method.end_task = watched_end
    run.run()
    after = run.learner.features(pixels).detach()
    torch.testing.assert_close(after, seen[0], rtol=1e-4, atol=1e-5)
    begin(run.learner, 1, range(4))
    assert torch.equal(run.learner.features(pixels), after)


def declared(run) -> set[str]:
    """The backbone's tensors that are part of the method's state: those it says it changes."""
    own = {id(p) for p in run.method.parameters()}
    return {key for key, p in run.learner.model.network.named_parameters() if id(p) in own}


@every_method
def test_nothing_frozen_moves(trainer, tiny_stream, tiny_vit, quick, name):
    before = tiny_vit().state_dict()
    run = trainer(quick(name), tiny_stream())
    trained = declared(run)
    run.run()
    after = run.learner.model.network.state_dict()
    assert after.keys() == before.keys() >= trained
    for key in before:
        moved = not torch.equal(after[key], before[key])
        assert moved == (key in trained), key
    frozen = [p for key, p in run.learner.model.network.named_parameters() if key not in trained]
    assert all(p.grad is None for p in frozen)  # no work was done for them either


@every_method
@pytest.mark.parametrize("each", [1, 2, 3, [20, 5, 2, 1], [1, 1, 9, 1]], ids=str)
def test_a_few_images_a_class_are_enough(trainer, tiny_stream, quick, name, each):
    """Balanced and long-tailed: the run ends with numbers, and what cannot be held out is said."""
    for scenario in ("class-incremental", "domain-incremental"):
        run = trainer(quick(name), tiny_stream(scenario, each=each))
        found = run.run()
        assert min(found["correct"][run.method.ranked_by][-1]) >= 0
        learned = [*run.method.parameters(), *run.learner.model.network.parameters()]
        assert all(tensor.isfinite().all() for tensor in learned)
        if name == "fm-lora":
            lonely = (scenario == "class-incremental" and each in (1, [1, 1, 9, 1])) or each == 1
            assert run.said == lonely


@every_method
def test_what_is_kept_is_the_methods_own_and_no_weight_of_the_backbone(
    trainer, tiny_stream, quick, name
):
    run = trainer(quick(name), tiny_stream())
    run.run()
    backbone = {id(p) for p in run.learner.model.network.parameters()}
    tensors = [*run.method.parameters(), *run.method.buffers()]
    own = sum(t.numel() for t in tensors if id(t) not in backbone and t.is_floating_point())
    assert run.method.kept() <= own
    nothing = {"lora", "full", "joint", "ranpac"}  # merged into the backbone
    nothing |= {"block-lora", "n-lora", "ortho-lora", "sora", "still-lora", "xgb-lora"}
    nothing |= {"linear-probe", "prototypes", "slda"}  # in heads alone
    assert (run.method.kept() == 0) == (name in nothing)


@every_method
def test_a_site_whose_weight_the_method_changes_knows_it(trainer, tiny_stream, quick, name):
    run = trainer(quick(name), tiny_stream())
    changed = declared(run)
    for site in run.learner.model.sites:
        assert site.merged == (f"{site.name}.weight" in changed)


@pytest.mark.parametrize("name", ["lora", "inflora"])
def test_an_update_that_is_merged_survives_bfloat16(trainer, tiny_stream, quick, name):
    """Of 0.2% of the weight: recovered from the layer's outputs before and after, within 5%."""
    learner = trainer(quick(name), tiny_stream()).learner
    method, site = learner.method, learner.model.sites[0]
    begin(learner, 0, range(2))
    draw = torch.Generator().manual_seed(0)
    U, _, V, *_ = method.factors()[0]
    with torch.no_grad():
        U.normal_(generator=draw)
        V.normal_(generator=draw)
        U *= 0.002 * site.weight.norm() / method.factors()[0].dense().norm()
    x = torch.randn(50_000, site.in_features, generator=draw).bfloat16()

    @torch.no_grad()
    def outputs(factors):
        learner.model.set_update(factors, None)
        with torch.autocast("cpu", torch.bfloat16):
            learner.model.fold()
            return site(x).double()

    before, update = outputs([None] * len(learner.model.sites)), method.factors()[0].dense()
    method.end_task()
    changed = outputs(method.factors()) - before
    found = torch.linalg.lstsq(x.double(), changed).solution.T
    assert (found - update).norm() < 0.05 * update.norm()


@every_method
def test_training_loss_falls_by_a_third_in_every_task_that_it_trains(
    trainer, tiny_stream, memory_keeper, quick, name
):
    stream = tiny_stream(each=16)
    keeper = memory_keeper()
    run = trainer(quick(name), stream, keeper=keeper, epochs=6, lr_head=0.02)
    measured = run.run()
    if METHODS[name].ranked_by != "trained":
        # What it trains, if anything, is the first task's; its statistics are right as they are.
        assert {line["task"] for line in keeper.lines} <= {0}
        right = measured["correct"][METHODS[name].ranked_by][-1]
        assert sum(right) >= 0.9 * sum(measured["counts"])
        return
    for task in range(1 if run.method.record.one_task else 2):
        losses = keeper.losses(task)
        assert losses[-1] < 0.67 * losses[0], (task, losses)


# Nothing of an earlier task is read after it ended.


class Watch:
    """Notes whose training images are read, and how many tasks had ended then."""

    def __init__(self, strict: bool):
        self.strict, self.ended = strict, 0
        self.reads: set[tuple[int, int]] = set()

    def read(self, owner: int) -> None:
        self.reads.add((owner, self.ended))
        if self.strict and owner != self.ended:
            raise AssertionError(f"images of task {owner} were read in task {self.ended}")


class WatchedPixels(torch.Tensor):
    """uint8 pixels that report every use of them, and of every copy, slice or view of them."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        own = [t for t in tree_leaves((args, kwargs)) if isinstance(t, cls)]
        with torch._C.DisableTorchFunctionSubclass():
            for pixels in own:
                pixels.watch.read(pixels.owner)
            result = func(*args, **kwargs)
            if isinstance(result, torch.Tensor):
                result = result.as_subclass(torch.Tensor)
                if result.dtype == torch.uint8:
                    result = watched(result, own[0].watch, own[0].owner)
        return result


def watched(pixels: torch.Tensor, watch: Watch, owner: int) -> WatchedPixels:
    pixels = pixels.as_subclass(WatchedPixels)
    pixels.watch, pixels.owner = watch, owner
    return pixels


def watched_images(images: Images, watch: Watch, owner: int) -> Images:
    return Images(watched(images.pixels, watch, owner), images.labels)


def under_watch(stream: Stream, watch: Watch) -> Stream:
    tasks = [
        replace(task, train=watched_images(task.train, watch, task.index)) for task in stream.tasks
    ]
    return replace(stream, tasks=tuple(tasks))


@pytest.mark.parametrize("scenario", ["class-incremental", "domain-incremental"])
@every_method
def test_no_image_of_an_earlier_task_is_read_after_it_ended(
    trainer, tiny_stream, memory_keeper, quick, name, scenario
):
    """Nor one of a later task before it began; joint training alone reads all at once."""
    joint = METHODS[name].record.one_task
    watch = Watch(strict=not joint)

    class Keeper(memory_keeper):
        def save_task(self, index, tensors):
            super().save_task(index, tensors)
            watch.ended = index + 1

    stream = under_watch(tiny_stream(scenario, classes=6, tasks=3), watch)
    settings = quick(name, epochs=1) if joint else quick(name)
    trainer(settings, stream, keeper=Keeper(), epochs=1, augmentation="shift").run()
    assert watch.ended == (1 if joint else 3)
    if joint:
        assert watch.reads == {(0, 0), (1, 0), (2, 0)}
    else:
        assert watch.reads == {(0, 0), (1, 1), (2, 2)}


def test_the_watch_sees_a_copy_kept_from_an_earlier_task(tiny_images):
    watch = Watch(strict=True)
    images = watched_images(tiny_images(range(2), 3), watch, 0)
    rows = images[torch.tensor([0, 3])]
    kept = rows.pixels.clone()
    assert kept.float().mean() > 0
    watch.ended = 1
    for read in (lambda: kept.float(), lambda: kept[0], lambda: rows.pixels,
                 lambda: images.pixels[0]):  # fmt: skip
        with pytest.raises(AssertionError, match="images of task 0 were read in task 1"):
            read()


@pytest.mark.parametrize("scenario", ["class-incremental", "domain-incremental"])
@every_method
def test_the_accuracy_matrix_has_the_right_cells_filled(
    trainer, tiny_stream, quick, name, scenario
):
    stream = tiny_stream(scenario, classes=6, tasks=3, test_each=2)
    settings = quick(name, epochs=1) if METHODS[name].record.one_task else quick(name)
    run = trainer(settings, stream, epochs=1)
    measured = run.run()
    per_task = 4 if scenario == "class-incremental" else 12
    assert measured["counts"] == [per_task] * 3
    wanted = np.tril(np.ones((3, 3), bool))
    if run.method.record.one_task:
        wanted[:2] = False
    carried = {f"{name}-carried" for name in BANKS}
    assert measured["correct"].keys() == {"trained", *BANKS, *carried}
    for matrices in (measured["correct"], measured["within"]):
        for head, rows in matrices.items():
            rows = np.asarray(rows)
            assert rows.shape == (3, 3)
            if head == "trained" and run.method.ranked_by != "trained":
                assert (rows == -1).all()  # it has none that the last task trained
                continue
            np.testing.assert_array_equal(rows >= 0, wanted)
            assert (rows[~wanted] == -1).all() and (rows <= per_task).all()
    for head, rows in measured["within"].items():  # the task given, no fewer answers are right
        assert (np.asarray(rows) >= np.asarray(measured["correct"][head])).all()
    known = [task.classes.stop for task in stream.tasks]
    assert known == ([2, 4, 6] if scenario == "class-incremental" else [6, 6, 6])


# Plain LoRA against Hugging Face PEFT, in float64


def test_lora_is_pefts_lora_in_outputs_and_gradients(tiny_vit):
    vit = tiny_vit().double()
    theirs = peft.get_peft_model(
        deepcopy(vit),
        peft.LoraConfig(
            r=4,
            lora_alpha=4,
            lora_dropout=0.0,
            target_modules=r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))",
        ),
        autocast_adapter_dtype=False,
    ).double()
    model = ViT(vit)
    lora = build(LoRASettings(rank=4), model)
    lora.begin_task(TaskInfo(0, range(2), generator(0)))
    lora.double()
    noise = generator(1)
    layers = []
    with torch.no_grad():
        for site, U, V in zip(model.sites, lora.U, lora.V, strict=True):
            layer = theirs.base_model.model.get_submodule(site.name)
            U.copy_(torch.randn(U.shape, generator=noise) / 4)
            layer.lora_A["default"].weight.copy_(V.T)
            layer.lora_B["default"].weight.copy_(U)
            layers.append(layer)
    assert len(layers) == 8
    x = torch.randn(3, 3, 16, 16, generator=noise).double()
    x_ours, x_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    model.set_update(lora.factors(), None)
    # Not `features`, which are rounded to float32 for the head.
    ours = vit.forward_head(vit.forward_features(x_ours), pre_logits=True)
    other = theirs(x_theirs)
    torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)
    plain = tiny_vit().double()
    assert (plain.forward_head(plain.forward_features(x)) - other).abs().max() > 0.01

    g = torch.randn(ours.shape, generator=noise).double()
    ours.backward(g)
    other.backward(g)
    torch.testing.assert_close(x_ours.grad, x_theirs.grad, rtol=1e-10, atol=1e-10)
    for layer, U, V in zip(layers, lora.U, lora.V, strict=True):
        torch.testing.assert_close(
            U.grad, layer.lora_B["default"].weight.grad, rtol=1e-10, atol=1e-10
        )
        torch.testing.assert_close(
            V.grad.T, layer.lora_A["default"].weight.grad, rtol=1e-10, atol=1e-10
        )
        assert U.grad.abs().max() > 1e-6 and V.grad.abs().max() > 1e-6


def test_the_methods_compared_are_registered():
    assert {"fm-lora", "lora", "full", "linear-probe", "prototypes", "joint"} <= METHODS.keys()
