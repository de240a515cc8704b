"""A head of one's own is one class: it is in the results of every method, in checkpoints, and may
rank a run."""

import pytest
import torch
import torch.nn.functional as F

from fmlora_lab import run
from fmlora_lab.config import BadInput
from fmlora_lab.heads import Bank, TrainedHead
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.profiles import configure

pytestmark = pytest.mark.train


@pytest.fixture
def nearest():
    """A bank: the score of a class is −‖f − μ_k‖²."""

    class Nearest(Bank, name="nearest"):
        def __init__(self, width, n_classes, settings):
            super().__init__(width, n_classes, settings)
            self.register_buffer("sums", torch.zeros(n_classes, width))
            self.register_buffer("counts", torch.zeros(n_classes))

        def add(self, features, labels):
            own = F.one_hot(labels, len(self.counts)).to(features)
            self.sums += own.T @ features
            self.counts += own.sum(0)

        def forward(self, features):
            means = self.sums / self.counts.clamp(min=1)[:, None]
            return (-torch.cdist(features, means)).masked_fill(self.counts == 0, -torch.inf)

        def kept(self):
            return self.sums.numel() + self.counts.numel()

    return Nearest


@pytest.fixture
def scaled():
    """A trained head with a parameter of its own: logits = s · cos(f, w_k), s learned."""

    class Scaled(TrainedHead, name="scaled"):
        def __init__(self, width, n_classes):
            super().__init__(width, n_classes)
            self.scale = torch.nn.Parameter(torch.tensor(4.0))

        def logits(self, features, weight, bias):
            return self.scale * F.linear(F.normalize(features), F.normalize(weight))

    return Scaled


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_bank_is_in_every_methods_results(trainer, tiny_stream, quick, nearest, name):
    started = trainer(quick(name), tiny_stream(), epochs=1)
    measured = started.run()
    assert "nearest" in measured["correct"] and measured["kept_by_head"]["nearest"] == 4 * 33
    bank = started.learner.banks.plain["nearest"]
    assert bank.counts.tolist() == [8, 8, 8, 8]  # each class once, by its own task's images
    assert sum(measured["correct"]["nearest"][-1]) >= 6  # of 12: chance is 3


@pytest.mark.parametrize("method", ["lora", "prototypes"])
def test_a_bank_ranks_a_run_and_survives_resuming(
    tiny_config, nearest, resumed, same_run, tmp_path, method
):
    config = tiny_config(method, **{"training.head": "nearest"})
    whole = run(config, tmp_path / "whole")
    by_bank = whole.result["heads"]["nearest"]
    assert set(whole.result["heads"]) >= {"nearest", "means"}
    if method == "lora":
        assert whole.result["ranked_by"] == "nearest" and whole.result["acc"] == by_bank["acc"]
        same_run(whole, resumed(config, tmp_path / "stopped"))
    arrays = whole.folder.read_arrays("checkpoint.safetensors")[0]
    assert arrays["banks.nearest.sums"].any() and "head.weight" in arrays


def test_a_trained_head_learns_its_own_parameter_and_survives_resuming(
    tiny_config, scaled, resumed, same_run, tmp_path
):
    config = tiny_config("lora", **{"training.head": "scaled"})
    whole = run(config, tmp_path / "whole")
    same_run(whole, resumed(config, tmp_path / "stopped"))
    assert whole.result["ranked_by"] == "trained"
    arrays = whole.folder.read_arrays("checkpoint.safetensors")[0]
    assert arrays["head.scale"] != 4
    linear = run(tiny_config("lora"), tmp_path / "linear").result["trainable_parameters"]
    assert whole.result["trainable_parameters"] == linear + 1


TRAINED = sorted(name for name, method in METHODS.items() if method.ranked_by == "trained")


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_trains_any_head(trainer, tiny_stream, quick, scaled, name):
    started = trainer(quick(name), tiny_stream(), epochs=1, head="scaled")
    started.run()
    head = started.learner.head
    assert head.name == "scaled" and head.known.all() and head.scale != 4


def test_a_head_that_is_not_there_is_refused_by_name():
    with pytest.raises(BadInput, match=r"training\.head is 'nearest'; allowed: cosine, lda, "):
        configure("lora", overrides={"training.head": "nearest"})


def test_a_state_without_the_head_is_refused_in_one_sentence(trainer, tiny_stream, request):
    before = trainer("lora", tiny_stream()).learner.state()
    request.getfixturevalue("nearest")
    with pytest.raises(BadInput, match=r"no 'banks.nearest.sums', which this run would have today"):
        trainer("lora", tiny_stream()).learner.load_state(before)
