"""Every architecture of timm's VisionTransformer, small and with random weights: it is adapted, or
refused with one sentence. README says which are refused."""

import sys
from collections import defaultdict
from typing import NamedTuple

import pytest
import timm
import torch
from timm.models import VisionTransformer, build_model_with_cfg

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.vit import LAYERS, ViT
from fmlora_lab.config import BadInput

pytestmark = pytest.mark.unit

REFUSED = {
    "aimv2_": "mlp.fc1",
    "vitamin_": "mlp.fc1 and no mlp.fc2",
    "vit_small_patch16_18x2_": "attn.qkv and no attn.proj",
    "vit_base_patch16_18x2_": "attn.qkv and no attn.proj",
    "vit_base_patch16_xp_": "attn.qkv and no attn.proj",
    "vit_large_patch14_xp_": "attn.qkv and no attn.proj",
    "vit_huge_patch14_xp_": "attn.qkv and no attn.proj",
    "vit_dpwee_": "attn.qkv and no attn.proj",
    "vit_pwee_": "attn.qkv and no attn.proj",
}
"""How the names begin of what cannot be adapted, and what the blocks lack."""
TINY = {"embed_dim": 32, "num_heads": 2, "depth": 2, "num_classes": 0}
NOT_OF_THE_MODEL = {"feature_cfg", "cache_dir"}


class Built(NamedTuple):
    """What a name of timm builds."""

    model: type[VisionTransformer]
    arguments: dict


class Asked(Exception):
    """timm's builder was asked for a model."""


@pytest.fixture(scope="module")
def architectures():
    """Names of timm by what they build but for its size, of VisionTransformer and its kinds."""

    def ask(model, variant, pretrained, **arguments):
        if variant.startswith("resnet") and name.startswith("vit_"):  # a stem, not the model
            return build_model_with_cfg(model, variant, pretrained, **arguments)
        raise Asked(model, arguments)

    def alike(argument: str, value: object) -> str:
        size = argument in {*TINY, "img_size"} or argument.startswith("pretrained")
        return "" if size else getattr(value, "__name__", str(value))

    groups = defaultdict(list)
    with pytest.MonkeyPatch.context() as patch:
        for module in [m for path, m in sys.modules.items() if path.startswith("timm.models.")]:
            if hasattr(module, "build_model_with_cfg"):
                patch.setattr(module, "build_model_with_cfg", ask)
        for name in timm.list_models():
            with pytest.raises(Asked) as asked:
                timm.create_model(name)
            built = Built(*asked.value.args)
            if isinstance(built.model, type) and issubclass(built.model, VisionTransformer):
                key = [f"{k}={alike(k, v)}" for k, v in sorted(built.arguments.items())]
                groups[built.model.__name__, *key].append((name, built))
    return list(groups.values())


def small(built: Built) -> VisionTransformer:
    arguments = {
        k: v
        for k, v in built.arguments.items()
        if k not in NOT_OF_THE_MODEL and not k.startswith("pretrained")
    }
    sizes = TINY | {"img_size": 2 * arguments.get("patch_size", 16)}
    embed = arguments.get("embed_layer")
    if embed is not None:  # a convolutional stem, of stride 32 at most and with a width of its own
        sizes["img_size"] = 64
        if embed.keywords.get("proj") is False:
            sizes = {k: v for k, v in sizes.items() if k not in ("embed_dim", "num_heads")}
    torch.manual_seed(0)
    vit = built.model(**{**arguments, **sizes}).eval()
    for parameter in vit.parameters():  # a layer scale of 1e-6 would hide what a block does
        parameter.data += 0.1 * torch.randn_like(parameter)
    return vit


def adapt(vit: VisionTransformer) -> None:
    """An update at every site reaches the features, and features' gradient reaches every factor."""
    model = ViT(vit)
    sites = model.adapt(LAYERS)
    assert len(sites) == 4 * len(vit.blocks)
    x = torch.randn(2, 3, model.image_size, model.image_size)
    with torch.no_grad():
        plain = vit.forward_head(vit.forward_features(x), pre_logits=True)
        model.set_update([None] * len(sites), None)
        assert torch.equal(model.features(x), plain)
    factors = [
        Factors(torch.randn(s.d_out, 2, requires_grad=True), None, torch.randn(s.d_in, 2))
        for s in sites
    ]
    model.set_update(factors, None)
    features = model.features(x)
    assert features.shape == (2, model.width)
    assert not torch.allclose(features, plain, atol=1e-3)
    features.square().sum().backward()
    assert all(f.U.grad.isfinite().all() and f.U.grad.any() for f in factors)


def test_every_vit_of_timm_is_adapted_or_refused(architectures):
    refused = {}
    assert sum(map(len, architectures)) > 150
    for group in architectures:
        vit = small(group[0][1])
        try:
            adapt(vit)
        except BadInput as error:
            refused |= {name: str(error) for name, _ in group}
    for start, lacks in REFUSED.items():
        found = [said for name, said in refused.items() if name.startswith(start)]
        assert found, start
        assert all(f"has no linear layer {lacks}" in said for said in found), found
    assert not [name for name in refused if not name.startswith(tuple(REFUSED))]
