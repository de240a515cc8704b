"""A timm ViT adapted from outside: what is not asked for stays plain timm, exactly."""

import hashlib
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from fmlora_lab.backbone import vit as vit_module
from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.sites import Prompts
from fmlora_lab.backbone.vit import GLYPHS_VIT, ViT, load_tower
from fmlora_lab.config import Backbone, BadInput

pytestmark = pytest.mark.unit

ALL = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
LAYERS = [
    ALL,
    *[(layer,) for layer in ALL],
    ("attn.q",),
    ("attn.k",),
    ("attn.v",),
    ("attn.q", "attn.v"),
    ("attn.k", "attn.v"),
    ("attn.q", "attn.k", "attn.v", "attn.proj"),
]
MODELS = {
    "plain": {},
    "layer-scale": {"init_values": 1e-5},
    "registers": {"reg_tokens": 4, "init_values": 1e-5},
    "registers-unembedded": {"reg_tokens": 4, "no_embed_class": True},
    "average": {"global_pool": "avg"},
    "average-no-cls": {"global_pool": "avg", "class_token": False},
    "average-registers": {"global_pool": "avg", "class_token": False, "reg_tokens": 4},
    "average-norm-before": {"global_pool": "avg", "fc_norm": False, "reg_tokens": 2},
    "siglip": {"global_pool": "map", "class_token": False},
    "dinov2-registers": {
        "img_size": 28,
        "patch_size": 14,
        "reg_tokens": 4,
        "no_embed_class": True,
        "init_values": 1e-5,
    },
    "patch-14": {"img_size": 28, "patch_size": 14},
    "patch-32": {"img_size": 64, "patch_size": 32},
    "patch-16": {"img_size": 32, "patch_size": 16, "qkv_bias": False},
}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(model: ViT, n: int = 3) -> torch.Tensor:
    return random(n, 3, model.image_size, model.image_size, seed=5)


def plain_features(vit: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
    return vit.forward_head(vit.forward_features(x), pre_logits=True)


def random_factors(sites, k: int = 3, core: bool = True) -> list[Factors]:
    return [
        Factors(
            random(s.d_out, k, seed=3 * n) / s.d_out**0.5,
            random(k, k, seed=3 * n + 1) if core else None,
            random(s.d_in, k, seed=3 * n + 2) / s.d_in**0.5,
        )
        for n, s in enumerate(sites)
    ]


def check_zero_update(plain: VisionTransformer, layers, blocks) -> None:
    """None, U = 0, C = 0 and the folded form all give plain timm's very numbers."""
    model = ViT(deepcopy(plain))
    x = images(model)
    wanted = plain_features(plain, x)
    sites = model.adapt(layers, blocks)
    some = random_factors(sites)
    no_U = [Factors(torch.zeros_like(f.U), None, f.V) for f in some]
    no_C = [Factors(f.U, torch.zeros_like(f.C), f.V) for f in some]
    for update in ([None] * len(sites), no_U, no_C):
        model.set_update(update, None)
        assert torch.equal(model.features(x), wanted)
        model.fold()
        assert torch.equal(model.features(x), wanted)
    model.set_update(some, None)  # and these are the layers that features depend on
    assert not torch.allclose(model.features(x), wanted, atol=1e-3)


@pytest.mark.parametrize("blocks", [None, (1,)], ids=["all-blocks", "block-1"])
@pytest.mark.parametrize("layers", LAYERS, ids="+".join)
def test_zero_update_of_any_layers_is_plain_timm(tiny_vit, layers, blocks):
    check_zero_update(tiny_vit(), layers, blocks)


@pytest.mark.parametrize("kind", MODELS)
def test_zero_update_of_any_model_is_plain_timm(tiny_vit, kind):
    check_zero_update(tiny_vit(**MODELS[kind]), ALL, None)


def test_sites_are_the_layers_asked_for_in_the_models_order(tiny_vit):
    sites = ViT(tiny_vit(depth=3)).adapt(("mlp.fc2", "attn.v", "attn.q"), (2, 0, 2))
    assert [s.name for s in sites] == [
        "blocks.0.attn.qkv",
        "blocks.0.mlp.fc2",
        "blocks.2.attn.qkv",
        "blocks.2.mlp.fc2",
    ]
    assert [(s.d_out, s.d_in) for s in sites[:2]] == [(64, 32), (32, 128)]


@pytest.mark.parametrize("block", [-1, 2])
def test_a_block_that_is_not_there_is_refused(tiny_vit, block):
    with pytest.raises(BadInput, match=r"method\.blocks .* blocks 0 to 1"):
        ViT(tiny_vit()).adapt(ALL, (0, block))


@pytest.mark.parametrize("folded", [False, True], ids=["trained", "folded"])
@pytest.mark.parametrize("core", [True, False], ids=["core", "no-core"])
def test_features_are_those_of_the_dense_weights(tiny_vit, core, folded):
    vit = tiny_vit()
    dense = deepcopy(vit)
    model = ViT(vit)
    x = images(model)
    sites = model.adapt(("attn.k", "attn.proj", "mlp.fc1", "mlp.fc2"))
    factors = random_factors(sites, core=core)
    with torch.no_grad():
        for site, (U, C, V, *_) in zip(sites, factors, strict=True):
            C = torch.eye(3) if C is None else C
            change = torch.einsum("oa,ab,ib->oi", U, C, V)
            weight = dense.get_submodule(site.name).weight
            weight[32:64] += change if "qkv" in site.name else 0
            if "qkv" not in site.name:
                weight += change
    model.set_update(factors, None)
    if folded:
        model.fold()
    torch.testing.assert_close(model.features(x), plain_features(dense, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "parts"),
    [(("attn.q",), (0,)), (("attn.v", "attn.q"), (0, 2)), (("attn.k", "attn.v"), (1, 2))],
    ids=["q", "qv", "kv"],
)
def test_q_k_v_subsets_change_their_own_rows_alone(tiny_vit, layers, parts):
    model = ViT(tiny_vit())
    before = model.network.blocks[0].attn.qkv.weight.clone()
    sites = model.adapt(layers)
    factors = random_factors(sites)
    model.set_update(factors, None)
    after = model.merge()["blocks.0.attn.qkv.weight"]
    update = factors[0].dense().chunk(len(parts))
    for part in range(3):
        rows = slice(32 * part, 32 * part + 32)
        if part in parts:
            expected = before[rows] + update[parts.index(part)]
            torch.testing.assert_close(after[rows], expected, rtol=1e-6, atol=1e-6)
            assert not torch.equal(after[rows], before[rows])
        else:
            assert torch.equal(after[rows], before[rows])


def test_asking_for_qkv_and_its_parts_adapts_the_whole(tiny_vit):
    site = ViT(tiny_vit()).adapt(("attn.q", "attn.qkv"), (0,))[0]
    assert (site.d_out, site.rows) == (96, None)


@pytest.mark.parametrize("layers", [ALL, ("attn.q", "attn.v")], ids=["all", "qv"])
def test_under_autocast_inference_is_that_of_training(tiny_vit, layers):
    """A folded weight would be rounded, and the update with it: docs/method.md, section 2."""
    model = ViT(tiny_vit())
    factors = random_factors(model.adapt(layers))
    x = images(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model.set_update(factors, None)
        trained = model.features(x)
        model.fold()
        assert torch.equal(model.features(x), trained) and trained.dtype == torch.float32
        model.set_update([None] * len(factors), None)
        assert not torch.allclose(model.features(x), trained, atol=1e-3)


# Prompts


class Seen:
    """What enters the first block and what leaves the last one."""

    def __init__(self, model: ViT):
        model.network.blocks[0].register_forward_pre_hook(self._enter)
        model.network.blocks[-1].register_forward_hook(self._leave)

    def _enter(self, block, args):
        self.entered = args[0]

    def _leave(self, block, args, x):
        self.inside, self.left = args[0], x


@pytest.mark.parametrize("kind", MODELS)
def test_prompts_enter_after_cls_and_leave_every_other_shape_alone(tiny_vit, kind):
    m = 5
    model = ViT(tiny_vit(**MODELS[kind]))
    x, seen, P = images(model), Seen(model), random(m, 32)
    model.set_update([], None)
    features = model.features(x)
    plain, last = seen.entered, seen.left
    cls = int(MODELS[kind].get("class_token", True))

    model.set_update([], Prompts(P))
    prompted = model.features(x)
    assert seen.entered.shape == (3, plain.shape[1] + m, 32)
    assert seen.inside.shape == seen.entered.shape
    assert torch.equal(seen.entered[:, :cls], plain[:, :cls])
    assert torch.equal(seen.entered[:, cls : cls + m], P.expand(3, m, 32))
    assert torch.equal(seen.entered[:, cls + m :], plain[:, cls:])  # registers, then patches
    assert seen.left.shape == last.shape
    assert prompted.shape == features.shape == (3, 32)
    assert not torch.allclose(prompted, features, atol=1e-4)  # and they are attended to

    model.set_update([], None)
    assert torch.equal(model.features(x), features)


@pytest.mark.parametrize("kind", [k for k in MODELS if k.startswith("average")])
def test_average_pooling_reads_patches_and_no_prompt(tiny_vit, kind):
    vit = tiny_vit(**MODELS[kind])
    model = ViT(vit)
    inside = []

    def whole(block, args, x):
        inside.append(x)

    # Before the hook that takes the prompts out, so that they are still there.
    vit.blocks[-1].register_forward_hook(whole, prepend=True)
    model.set_update([], Prompts(random(5, 32)))
    found = model.features(images(model))
    patches = inside[0][:, 5 + vit.num_prefix_tokens :]
    assert patches.shape[1] == vit.patch_embed.num_patches
    expected = vit.fc_norm(vit.norm(patches).mean(1))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_prompts_learn(tiny_vit):
    model = ViT(tiny_vit())
    P = random(4, 32).requires_grad_()
    model.set_update([], Prompts(P))
    model.features(images(model)).square().sum().backward()
    assert (P.grad.norm(dim=1) > 0).all()
    assert all(p.grad is None for p in model.network.parameters())


# Loading


def test_load_tower_says_what_names_are_allowed():
    with pytest.raises(
        BadInput, match=r"backbone\.name is 'vit_none'; allowed: glyphs-clip, glyphs-vit, "
    ):
        load_tower(Backbone(name="vit_none"))
    with pytest.raises(BadInput, match="a ResNet; allowed: models of timm's VisionTransformer"):
        load_tower(Backbone(name="resnet10t", weights="anything"))


def never(*_, **__):
    raise AssertionError("weights were fetched or read")


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("glyphs-vit", 30, r"image_size is 30; .* the patch of 8, of which 24 and 32 are"),
        ("vit_tiny_patch16_224", 100, r"is 100; .* patch of 16, of which 96 and 112 are"),
        ("vit_tiny_patch16_224", 9, r"is 9; .* of which 16 and 32 are the nearest"),
        ("vit_small_patch14_dinov2.lvd142m", 224 + 13, r"patch of 14, of which 224 and 238 are"),
        ("vit_small_r26_s32_224", 240, r"patch of 32, of which 224 and 256 are"),
        (
            "vit_so400m_patch14_siglip_384.webli",
            None,
            r"is 384, as vit_so400m_patch14_siglip_384.webli has it by default; .* 378 and 392 are",
        ),
    ],
)
def test_an_image_size_that_cuts_pixels_off_is_refused(monkeypatch, name, size, said):
    monkeypatch.setattr(vit_module, "load_weights", never)
    monkeypatch.setattr("timm.models._builder.load_pretrained", never)
    with pytest.raises(BadInput, match=said):
        load_tower(Backbone(name=name, image_size=size))


@pytest.mark.parametrize("name", ["vit_pwee_patch16_reg1_gap_256", "aimv2_large_patch14_224"])
def test_blocks_that_cannot_be_adapted_are_refused_before_weights_are_fetched(monkeypatch, name):
    monkeypatch.setattr("timm.models._builder.load_pretrained", never)
    with pytest.raises(BadInput, match=rf"backbone\.name: block 0 of {name}, .* has no linear"):
        load_tower(Backbone(name=name))


def test_any_block_is_looked_at(tiny_vit):
    vit = tiny_vit()
    vit.blocks[1].mlp.fc2 = torch.nn.Identity()
    with pytest.raises(
        BadInput, match=r"block 1 of this ViT, a Block, has no linear layer mlp\.fc2"
    ):
        ViT(vit)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_fingerprint_is_the_files_own(tmp_path, ending):
    """Runs are found by it, so it must stay what it was."""
    file = tmp_path / f"weights.{ending}"
    state = load_file(GLYPHS_VIT)
    (save_file if ending == "safetensors" else torch.save)(state, file)
    model = load_tower(Backbone(weights=file))
    assert model.fingerprint == hashlib.sha256(file.read_bytes()).hexdigest()
    assert all(torch.equal(model.network.state_dict()[name], state[name]) for name in state)


def test_load_tower_takes_a_timm_model_from_a_local_file(tmp_path):
    """A small timm model at a size of one's own; the fingerprint is the file's."""
    torch.manual_seed(0)
    source = VisionTransformer(
        img_size=32, patch_size=16, embed_dim=192, depth=12, num_heads=3, num_classes=5
    )
    file = tmp_path / "tiny.safetensors"
    save_file(source.state_dict(), file)
    model = load_tower(Backbone(name="vit_tiny_patch16_224", weights=file, image_size=48))
    assert (model.image_size, model.width) == (48, 192)
    assert model.network.pos_embed.shape == (1, 10, 192)
    assert torch.equal(model.network.norm.weight, source.norm.weight)
    assert torch.equal(model.network.blocks[11].mlp.fc2.weight, source.blocks[11].mlp.fc2.weight)
    assert not any(p.requires_grad for p in model.parameters())
    assert len(model.fingerprint) == 64
    first = model.fingerprint
    with torch.no_grad():
        source.norm.bias += 1
    save_file(source.state_dict(), file)
    again = load_tower(Backbone(name="vit_tiny_patch16_224", weights=file, image_size=48))
    assert again.fingerprint != first
