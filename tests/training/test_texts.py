"""Two towers through the one loop: what is trained, measured and kept where texts tell classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_clip import small_clip, towers

from fmlora_lab.benchmarks.stream import Stream
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.metrics import accuracy_matrix, transfer
from fmlora_lab.training import loop
from fmlora_lab.training.loop import Trainer

pytestmark = pytest.mark.train

REFUSED = {
    "lilora": "lilora infers the task of each image",
    "hide-prompt": "hide-prompt infers the task of each image",
    "dualprompt": "not as prefixes",
    "coda-prompt": "not as prefixes",
    "l2p": "method.read",
}
ADAPTING = sorted(METHODS.keys() - REFUSED.keys())


@pytest.fixture
def start(monkeypatch, tiny_stream, memory_keeper, quick):
    """`start(method, **training)`: a Trainer of the small CLIP on two tasks of two classes."""
    monkeypatch.setattr(loop, "pick_device", lambda: torch.device("cpu"))

    def make(method, stream: Stream | None = None, keeper=None, double=False, **training):
        settings = {"epochs": 2, "batch_size": 8, "precision": "float32", "augmentation": "none"}
        config = RunConfig(
            method=method if isinstance(method, dict) else quick(method),
            training=settings | training,
            heads={"random_features": 20},
            measure_ahead=True,
        )
        net = small_clip()
        model = towers(net.double() if double else net)
        return Trainer(config, stream or tiny_stream(), model, keeper or memory_keeper())

    return make


@pytest.mark.parametrize("name", ADAPTING)
def test_every_method_that_can_adapts_both_towers_and_learns(start, name):
    run = start(name, epochs=8)
    before = {n: t.clone() for n, t in run.learner.model.merge().items()}
    measured = run.run()
    record = METHODS[name].record
    losses = [line["loss"] for line in run.keeper.lines if line["loss"] is not None]
    if not losses:
        assert measured["trained"] in ([0, 0], [0])
        return
    assert np.mean(losses[-2:]) < losses[0]
    run.learner.model.set_update(run.method.factors(), None)
    after = run.learner.model.merge()
    moved = {n for n, t in after.items() if not torch.equal(t, before[n])}
    assert any(n.startswith("visual.") for n in moved), record.title
    assert any(n.startswith("transformer.") for n in moved), record.title


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_adapt_them_says_so(start, name):
    with pytest.raises(BadInput, match=REFUSED[name]):
        start(name).run()


def test_a_head_that_is_trained_has_no_place_and_is_refused(start):
    with pytest.raises(BadInput, match=r"training\.head is 'cosine'"):
        start("lora", head="cosine")
    assert start("lora", head="lda").run()["correct"]["lda"][-1][0] >= 0


def test_zero_shot_is_what_the_untrained_towers_say(start):
    """And a method that trains nothing stays there in every row, tasks ahead included."""
    run = start("linear-probe")
    measured = run.run()
    given, unknown = measured["zero_shot"]
    assert measured["within"]["trained"] == [given, given]
    assert measured["correct"]["trained"] == [unknown, unknown]
    by_hand = []
    model, stream = run.learner.model, run.stream
    with torch.no_grad():
        texts = torch.stack([
            torch.nn.functional.normalize(model.text_features(model.tokens(own)).mean(0), dim=0)
            for own in stream.texts
        ])  # fmt: skip
        for task in stream.tasks:
            f = model.features(model.pixels_in(task.test.pixels))
            by_hand.append(int(((f @ texts.T).argmax(1) == task.test.labels).sum()))
    assert by_hand == unknown
    assert sum(given) >= sum(unknown)


def test_zero_shot_has_no_prompt_in_it_that_nothing_has_trained(start, tiny_stream):
    stream = tiny_stream(test_each=40, noise=60.0)
    prompted = start("fm-lora", stream)
    with torch.no_grad():
        prompted.method.P.mul_(100)
    assert prompted.run()["zero_shot"] == start("linear-probe", stream).run()["zero_shot"]


def test_transfer_average_and_last_by_hand(start):
    measured = start("lora", epochs=4).run()
    a = accuracy_matrix(measured["within"]["trained"], measured["counts"])
    found = transfer(a)
    assert found["transfer"] == pytest.approx(a[0, 1])
    assert found["average"] == pytest.approx(a.mean())
    assert found["last"] == pytest.approx(a[1].mean())


@pytest.mark.parametrize("name", ["rank1-pool", "fm-lora", "still-lora", "inflora"])
def test_killed_and_resumed_is_never_killed(start, interrupted, memory_keeper, name):
    whole = memory_keeper()
    start(name, keeper=whole).run()
    kept = {}

    class Keeping(memory_keeper):
        def load_checkpoint(self):
            return kept.get("checkpoint")

        def save_checkpoint(self, tensors, position):
            super().save_checkpoint(tensors, position)
            copied = {n: a.copy() for n, a in tensors.items()}
            kept["checkpoint"] = copied, {**position}

    _, stops = interrupted(lambda keeper: start(name, keeper=keeper()).run(), Keeping)
    assert stops > 2
    state = kept["checkpoint"][0]
    assert state.keys() == whole.state.keys()
    for key, array in whole.state.items():
        np.testing.assert_array_equal(state[key], array, err_msg=key)


def test_iterations_are_steps_a_task(start, monkeypatch):
    steps = []
    method = METHODS["lora"]
    plain = method.step

    def counted(self, batch):
        steps.append(len(batch.images))
        return plain(self, batch)

    monkeypatch.setattr(method, "step", counted)
    measured = start("lora", iterations=5).run()  # 16 images a task: two batches an epoch
    assert len(steps) == 2 * 5
    assert measured["images"] == sum(steps) == 2 * 40


def test_of_many_iterations_the_rate_falls_over_all_of_them(start, monkeypatch):
    rates = []
    plain = METHODS["lora"].step

    def seen(self, batch):
        rates.append(batch.optimizer.param_groups[0]["lr"])
        return plain(self, batch)

    monkeypatch.setattr(METHODS["lora"], "step", seen)
    start("lora", iterations=5).run()
    want = [0.01 * 0.5 * (1 + np.cos(np.pi * k / 5)) for k in range(5)]
    assert rates == pytest.approx(want * 2)


def test_augmented_once_is_the_same_image_in_every_epoch(start, monkeypatch):
    seen = []
    plain = METHODS["lora"].step

    def looked(self, batch):
        order = batch.images.pixels.flatten(1).long()
        seen.append({tuple(row.tolist()[:200]) for row in order})
        return plain(self, batch)

    monkeypatch.setattr(METHODS["lora"], "step", looked)
    run = start("lora", augment_once=True, augmentation="crop", crop_scale=0.5)
    run.run()
    first, second = seen[0] | seen[1], seen[2] | seen[3]
    assert first == second
    plain_images = {
        tuple(row.tolist()[:200]) for row in run.stream.tasks[0].train.pixels.flatten(1).long()
    }
    assert first != plain_images


def test_a_share_of_what_a_task_changed_stays(start):
    """WiSE-FT: half of the way from the weights before a task to those after it."""

    def trained(keep):
        run = start({"name": "full", "lr": 0.003, "keep": keep}, stream=one)
        run.run()
        return run.learner.model.merge()

    two = start("full").stream
    one = replace(two, tasks=two.tasks[:1], class_names=two.class_names[:2])
    before = towers(small_clip()).merge()
    whole, half = trained(1.0), trained(0.5)
    for name, start_at in before.items():
        torch.testing.assert_close(half[name], (start_at + whole[name]) / 2, msg=name)
    assert not torch.equal(whole["token_embedding.weight"], before["token_embedding.weight"])
