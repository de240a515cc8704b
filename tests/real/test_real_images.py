"""Real CIFAR-100 images and a real pre-trained ViT-Ti, where FMLORA_TEST_DATA points to them."""

import os
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from fmlora_lab import configure, restore, run
from fmlora_lab.backbone.vit import load_tower
from fmlora_lab.config import Backbone, BadInput

pytestmark = pytest.mark.real

TAG = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
CLASSES = ("apple", "bicycle", "castle", "dolphin")


@pytest.fixture(scope="module")
def real():
    root = os.environ.get("FMLORA_TEST_DATA")
    if not root or not (Path(root) / "weights" / f"{TAG}.safetensors").is_file():
        pytest.skip("FMLORA_TEST_DATA does not point to real weights and images")
    return Path(root)


@pytest.fixture(scope="module")
def weights(real):
    return real / "weights" / f"{TAG}.safetensors"


@pytest.fixture(scope="module")
def cifar(real, tmp_path_factory):
    """Four classes of CIFAR-100, 16 training and 10 test images each."""
    folder = tmp_path_factory.mktemp("cifar")
    with zipfile.ZipFile(real / "data" / "cifar100.zip") as archive:
        names = sorted(archive.namelist())
        for part, count in (("train", 16), ("test", 10)):
            for c in CLASSES:
                inside = [n for n in names if f"/{part}/{c}/" in n and n.endswith(".png")]
                archive.extractall(folder, inside[:count])
    return folder / "cifar100"


def test_frozen_real_vit_equals_timm(weights):
    model = load_tower(Backbone(name=TAG, weights=weights))
    model.adapt(("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))
    plain = timm.create_model(TAG, pretrained=False, num_classes=0)
    state = {k: v.float() for k, v in load_file(weights).items() if not k.startswith("head.")}
    plain.load_state_dict(state)
    model.use_fused_attention(plain.blocks[0].attn.fused_attn)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(model.eval().features(x), plain.eval()(x))


def test_weights_of_another_model_name_the_tensors(weights):
    with pytest.raises(BadInput, match=r"does not fit: .*blocks\.0\.attn\.proj\.weight"):
        load_tower(Backbone(name="vit_small_patch16_224.augreg_in21k_ft_in1k", weights=weights))


def test_fm_lora_learns_real_classes_and_merges(cifar, weights, tmp_path):
    given = {
        "benchmark.data": cifar,
        "benchmark.tasks": 2,
        "backbone.name": TAG,
        "backbone.weights": weights,
        "backbone.image_size": 64,
        "training.epochs": 2,
        "training.batch_size": 8,
        "method.prompt.tokens": 0,
    }
    config = configure("fm-lora", "folder", "smoke", given)
    stored = run(config, tmp_path)
    assert stored.result["acc"] > 40  # chance is 25%
    learner = restore(stored)
    state, prompts = learner.merge()
    assert prompts is None
    plain = timm.create_model(TAG, pretrained=False, num_classes=4, img_size=64)
    plain.load_state_dict(state)
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    learner.model.set_update(learner.method.factors(), None)
    with torch.inference_mode():
        ours = learner.head(learner.model.eval().features(x))
        torch.testing.assert_close(plain.eval()(x), ours, atol=1e-5, rtol=1e-5)
