"""Tower, method and heads as one: what is merged, stored and told apart."""

import pytest
import torch
from quick import QUICK
from timm.models.vision_transformer import VisionTransformer

from fmlora_lab.backbone.sites import Prompts
from fmlora_lab.backbone.vit import ViT
from fmlora_lab.runs.folder import RunFolder
from fmlora_lab.training.learner import Learner
from fmlora_lab.training.loop import to_numpy, to_torch

pytestmark = pytest.mark.train

MODELS = {
    "plain": {},
    "registers": {"reg_tokens": 4, "init_values": 1e-5},
    "average-no-cls": {"global_pool": "avg", "class_token": False},
}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_features(vit: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
    return vit.forward_head(vit.forward_features(x), pre_logits=True)


@pytest.mark.parametrize("name", ["l2p", "dualprompt", "coda-prompt", "hide-prompt", "lilora"])
def test_test_images_are_asked_for_their_queries_once(
    trainer, tiny_stream, tiny_vit, memory_keeper, monkeypatch, name
):
    """The same answers as if they were asked for again after every task and for every head."""
    results, asked = [], []
    queries = Learner.queries

    def noted(learner, images):
        asked.append(images)
        return queries(learner, images)

    for patched in (noted, lambda learner, images: queries(learner, images)):
        with monkeypatch.context() as patch:
            patch.setattr(Learner, "queries", patched)
            if patched is not noted:
                patch.setattr(Learner, "_queries_of", queries)
            stream, keeper = tiny_stream(tasks=3), memory_keeper()
            trainer({"name": name, **QUICK[name]}, stream, tiny_vit(), keeper).run()
            results.append(keeper)
        tests = [id(task.test) for task in stream.tasks]
        if patched is noted:
            assert sorted(id(images) for images in asked if id(images) in tests) == sorted(tests)
    once, again = (keeper.records for keeper in results)
    for own, other in zip(once, again, strict=True):
        assert own.keys() == other.keys() and all(torch.equal(own[k], other[k]) for k in own)


# merge()


def trained_learner(trainer, tiny_stream, memory_keeper, vit, method) -> tuple[Learner, dict]:
    keeper = memory_keeper()
    run = trainer(method, tiny_stream(), vit, keeper, lr_head=0.05)
    run.run()
    return run.learner, keeper.state


MERGED = [
    {"name": "fm-lora", "lr": 0.02, "basis_rank": 8, "bases": {"lr": 0.02},
     "prompt": {"tokens": 0}},
    {"name": "fm-lora", "lr": 0.02, "layers": ["attn.q", "attn.v", "mlp.fc1"],
     "bases": {"from": "weight-svd"}, "blocks": [1], "prompt": {"tokens": 0}},
    {"name": "lora", "lr": 0.02, "rank": 4},
    {"name": "lora", "lr": 0.02, "rank": 4, "layers": ["attn.k"]},
    {"name": "full", "lr": 0.01},
    {"name": "sd-lora", "lr": 0.02, "rank": 4, "lr_magnitudes": 0.02},
    {"name": "sd-lora", "lr": 0.02, "rank": 4, "layers": ["attn.q", "attn.v"]},
    {"name": "inflora", "lr": 0.05, "rank": 4, "threshold": 0.9},
]  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", MERGED, ids=lambda m: f"{m['name']}-{len(m)}")
def test_merged_weights_are_a_plain_timm_model(
    trainer, tiny_stream, tiny_vit, memory_keeper, method, kind
):
    vit = tiny_vit(**MODELS[kind])
    before = plain_features(vit, probe := random(6, 3, 16, 16)).clone()
    learner, _ = trained_learner(trainer, tiny_stream, memory_keeper, vit, method)
    state, prompts = learner.merge()
    assert prompts is None
    alone = tiny_vit(seed=99, **MODELS[kind], num_classes=4)
    alone.load_state_dict(state, strict=True)

    pixels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        adapted = learner.head(learner.features(pixels))
        logits = alone((pixels.float() / 255 - 0.5) / 0.5)
        torch.testing.assert_close(logits, adapted, rtol=1e-5, atol=1e-5)
        moved = plain_features(alone, probe) - before
    assert moved.abs().max() > 1e-2  # the training was felt


@pytest.mark.parametrize("method", MERGED, ids=lambda m: f"{m['name']}-{len(m)}")
def test_a_stored_state_merges_to_the_same_weights(
    trainer, tiny_stream, tiny_vit, memory_keeper, method
):
    """A learner made anew and given the last checkpoint is the one that was trained."""
    learner, stored = trained_learner(trainer, tiny_stream, memory_keeper, tiny_vit(), method)
    anew = Learner(learner.config, ViT(tiny_vit()), 4, torch.device("cpu"))
    anew.load_state({name: torch.from_numpy(array) for name, array in stored.items()})
    expected, _ = learner.merge()
    found, _ = anew.merge()
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_scalars_come_back_from_a_file_as_scalars(trainer, tiny_stream, tmp_path):
    learner = trainer("fm-lora", tiny_stream()).learner
    state = learner.state()
    folder = RunFolder(tmp_path, "run")
    folder.write_arrays("state.safetensors", to_numpy(state), {})
    learner.load_state(to_torch(folder.read_arrays("state.safetensors")[0]))
    assert {name: t.shape for name, t in learner.state().items()} == {
        name: t.shape for name, t in state.items()
    }
    assert state["method.H"].ndim == 0


def test_merge_gives_the_prompts_beside_the_weights(trainer, tiny_stream, tiny_vit, memory_keeper):
    method = {"name": "fm-lora", "prompt": {"tokens": 3}}
    learner, _ = trained_learner(trainer, tiny_stream, memory_keeper, tiny_vit(), method)
    state, prompts = learner.merge()
    assert torch.equal(prompts, learner.method.P.detach()) and not prompts.requires_grad
    model = ViT(tiny_vit(seed=99, num_classes=4))
    model.network.load_state_dict(state, strict=True)
    model.set_update([], Prompts(prompts))
    pixels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        adapted = learner.head(learner.features(pixels))
        logits = model.network.head(model.features((pixels.float() / 255 - 0.5) / 0.5))
    torch.testing.assert_close(logits, adapted, rtol=1e-5, atol=1e-5)
