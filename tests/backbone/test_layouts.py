"""Weights in others' names give the features of the ViT they were written from. Each layout is
written down here a second time, from timm's names outwards."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn

from fmlora_lab.backbone.weights import load_weights
from fmlora_lab.config import BadInput

pytestmark = pytest.mark.unit


def state_of(vit: VisionTransformer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in vit.state_dict().items()}


def qkv_apart(state, kinds: tuple[str, str, str]) -> dict[str, torch.Tensor]:
    """blocks.0.attn.qkv.weight as blocks.0.attn.<kind>.weight, three of them."""
    apart = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            d = len(tensor) // 3
            for n, kind in enumerate(kinds):
                apart[name.replace(".qkv.", f".{kind}.")] = tensor[n * d : (n + 1) * d].clone()
        else:
            apart[name] = tensor
    return apart


def replaced(state, *pairs: tuple[str, str]) -> dict[str, torch.Tensor]:
    new = {}
    for name, tensor in state.items():
        for old, now in pairs:
            name = name.replace(old, now)
        new[name] = tensor
    assert len(new) == len(state)
    return new


def hugging_face(vit) -> dict[str, torch.Tensor]:
    """ViTModel's names, as transformers' conversion script has them."""
    return replaced(
        qkv_apart(state_of(vit), ("attention.query", "attention.key", "attention.value")),
        ("cls_token", "embeddings.cls_token"),
        ("dist_token", "embeddings.distillation_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("attn.proj", "attention.output.dense"),
        ("attn.", "attention."),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
        ("blocks.", "encoder.layer."),
        ("norm.", "layernorm."),
    )


def dinov2_release(vit) -> dict[str, torch.Tensor]:
    """[CLS] has a position of its own, which timm adds to it; the mask's token is there."""
    state = state_of(vit)
    if vit.reg_token is not None:
        position = torch.full_like(state["cls_token"], 0.25)
        state["cls_token"] = state["cls_token"] - position
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
        state["register_tokens"] = state.pop("reg_token")
    return {**state, "mask_token": torch.zeros(1, 32)}


def dinov2_hugging_face(vit) -> dict[str, torch.Tensor]:
    return replaced(
        qkv_apart(dinov2_release(vit), ("attention.query", "attention.key", "attention.value")),
        ("cls_token", "embeddings.cls_token"),
        ("mask_token", "embeddings.mask_token"),
        ("register_tokens", "embeddings.register_tokens"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("attn.proj", "attention.output.dense"),
        ("attn.", "attention."),
        ("ls1.gamma", "layer_scale1.lambda1"),
        ("ls2.gamma", "layer_scale2.lambda1"),
        ("blocks.", "encoder.layer."),
        ("norm.", "layernorm."),
    )


def clip_hugging_face(vit) -> dict[str, torch.Tensor]:
    state = qkv_apart(state_of(vit), ("q_proj", "k_proj", "v_proj"))
    pool = {name: state.pop(name) for name in list(state) if name.startswith("attn_pool.")}
    state = replaced(
        state,
        ("cls_token", "embeddings.class_embedding"),
        ("pos_embed", "embeddings.position_embedding.weight"),
        ("patch_embed.proj", "embeddings.patch_embedding"),
        ("attn.proj", "attn.out_proj"),
        ("attn.", "self_attn."),
        ("norm1", "layer_norm1"),
        ("norm2", "layer_norm2"),
        ("norm_pre", "pre_layrnorm"),
        ("blocks.", "encoder.layers."),
    )
    state = {re.sub(r"^norm\.", "post_layernorm.", name): v for name, v in state.items()}
    if pool:
        for kind in ("weight", "bias"):
            query = pool.pop(f"attn_pool.q.{kind}")
            state[f"head.attention.in_proj_{kind}"] = torch.cat(
                [query, pool.pop(f"attn_pool.kv.{kind}")]
            )
        state |= replaced(
            pool,
            ("attn_pool.latent", "head.probe"),
            ("attn_pool.proj", "head.attention.out_proj"),
            ("attn_pool.norm", "head.layernorm"),
            ("attn_pool.mlp", "head.mlp"),
        )
    if "embeddings.class_embedding" in state:
        state["embeddings.class_embedding"] = state["embeddings.class_embedding"][0, 0]
    state["embeddings.position_embedding.weight"] = state["embeddings.position_embedding.weight"][0]
    state = {f"vision_model.{name}": tensor for name, tensor in state.items()}
    return {**state, "logit_scale": torch.ones(()), "text_model.final.weight": torch.ones(32)}


def openai_clip(vit) -> dict[str, torch.Tensor]:
    state = replaced(
        state_of(vit),
        ("cls_token", "class_embedding"),
        ("pos_embed", "positional_embedding"),
        ("patch_embed.proj", "conv1"),
        ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj", "attn.out_proj"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("norm1", "ln_1"),
        ("norm2", "ln_2"),
        ("norm_pre", "ln_pre"),
        ("blocks.", "transformer.resblocks."),
    )
    state = {re.sub(r"^norm\.", "ln_post.", name): tensor for name, tensor in state.items()}
    state["class_embedding"] = state["class_embedding"][0, 0]
    state["positional_embedding"] = state["positional_embedding"][0]
    state = {f"visual.{name}": tensor for name, tensor in state.items()}
    return {**state, "visual.proj": torch.ones(32, 16), "token_embedding.weight": torch.ones(9, 16)}


def torchvision(vit) -> dict[str, torch.Tensor]:
    state = replaced(
        state_of(vit),
        ("cls_token", "class_token"),
        ("pos_embed", "encoder.pos_embedding"),
        ("patch_embed.proj", "conv_proj"),
        ("attn.qkv.", "self_attention.in_proj_"),
        ("attn.proj", "self_attention.out_proj"),
        ("mlp.fc1", "mlp.0"),
        ("mlp.fc2", "mlp.3"),
        ("norm1", "ln_1"),
        ("norm2", "ln_2"),
        ("norm.", "encoder.ln."),
        ("blocks.", "encoder.layers.encoder_layer_"),
    )
    return {**state, "heads.head.weight": torch.ones(5, 32), "heads.head.bias": torch.ones(5)}


CLIP = {"pre_norm": True}
REGISTERS = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5, "patch_size": 14}
SIGLIP = {"class_token": False, "global_pool": "map"}
LAYOUTS = {
    "timm": (state_of, {}),
    "huggingface": (hugging_face, {}),
    "huggingface-vit.": (lambda vit: prefixed("vit.", hugging_face(vit)), {}),
    "huggingface-no-bias": (hugging_face, {"qkv_bias": False}),
    "dinov2": (dinov2_release, {"init_values": 1e-5, "patch_size": 14, "img_size": 28}),
    "dinov2-registers": (dinov2_release, {**REGISTERS, "img_size": 28}),
    "dinov2-registers-huggingface": (dinov2_hugging_face, {**REGISTERS, "img_size": 28}),
    "dinov2-huggingface": (dinov2_hugging_face, {"init_values": 1e-5}),
    "clip-huggingface": (clip_hugging_face, CLIP),
    "siglip-huggingface": (clip_hugging_face, SIGLIP),
    "clip-openai": (openai_clip, CLIP),
    "torchvision": (torchvision, {}),
    "patch-32": (hugging_face, {"patch_size": 32, "img_size": 64}),
}


def prefixed(prefix: str, state) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def features(vit: VisionTransformer) -> torch.Tensor:
    x = torch.randn(3, 3, *vit.patch_embed.img_size, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return vit.eval().forward_head(vit.forward_features(x), pre_logits=True)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_features_are_those_of_the_vit_that_was_written(tiny_vit, tmp_path, kind):
    written, options = LAYOUTS[kind]
    source, target = tiny_vit(**options), tiny_vit(seed=1, **options)
    save_file(written(source), tmp_path / "weights.safetensors")
    assert not torch.allclose(features(target), features(source), atol=1e-2)
    load_weights(target, tmp_path / "weights.safetensors")
    torch.testing.assert_close(features(target), features(source), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["clip-openai", "dinov2", "dinov2-registers"])
def test_what_timms_filter_converts_comes_out_as_there(tiny_vit, tmp_path, kind):
    written, options = LAYOUTS[kind]
    target, theirs = (tiny_vit(seed=1, **options) for _ in range(2))
    state = written(tiny_vit(**options))
    save_file(state, tmp_path / "weights.safetensors")
    load_weights(target, tmp_path / "weights.safetensors")
    theirs.load_state_dict(checkpoint_filter_fn(state, theirs), strict=False)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", ["huggingface", "clip-huggingface", "dinov2-registers"])
def test_any_layouts_position_grid_is_resampled(tiny_vit, tmp_path, kind):
    written, options = LAYOUTS[kind]
    source = tiny_vit(**options)
    larger = {**options, "img_size": 3 * source.patch_embed.patch_size[0]}
    target, expected = tiny_vit(seed=1, **larger), tiny_vit(**options)
    save_file(written(source), tmp_path / "weights.safetensors")
    load_weights(target, tmp_path / "weights.safetensors")
    expected.set_input_size(img_size=larger["img_size"])
    torch.testing.assert_close(target.pos_embed, expected.pos_embed)


WRAPPED = {
    "DDP": lambda s: prefixed("module.", s),
    "compiled": lambda s: prefixed("_orig_mod.", s),
    "compiled, DDP": lambda s: prefixed("_orig_mod.module.", s),
    "CLIP's trunk": lambda s: prefixed("module.visual.trunk.", s),
    "a deep one": lambda s: prefixed("model.backbone.encoder.net.", s),
    "blocks compiled one by one": lambda s: replaced(s, ("blocks.0.", "blocks.0._orig_mod.")),
    "checkpointed blocks": lambda s: replaced(s, (".norm1", "._checkpoint_wrapped_module.norm1")),
    "sharded": lambda s: replaced(s, (".attn.", "._fsdp_wrapped_module.attn.")),
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": prefixed("module.", s), "optimizer": {"state": {0: {"step": 1}}}},
    "Lightning": lambda s: {"state_dict": prefixed("model.vit.", s), "callbacks": {"a": {"b": 1}}},
    "a teacher": lambda s: {"student": other(s), "teacher": prefixed("backbone.", s)},
    "an average": lambda s: {"state_dict": other(s), "state_dict_ema": s},
    "model_ema": lambda s: {"model": other(s), "model_ema": prefixed("module.", s)},
    "MoCo": lambda s: prefixed("base_encoder.", s) | prefixed("momentum_encoder.", other(s)),
    "a decoder": lambda s: prefixed("decoder.", other(s)) | prefixed("encoder.", s),
    "layer scale as in DeiT III": lambda s: replaced(s, ("ls1.gamma", "gamma_1")),
    "DINOv2's chunks": lambda s: replaced(s, ("blocks.", "blocks.0.")),
}


def other(state) -> dict[str, torch.Tensor]:
    return {name: tensor + 1 for name, tensor in state.items()}


@pytest.mark.parametrize("how", WRAPPED)
def test_what_wrappers_leave_comes_off(tiny_vit, tmp_path, how):
    source, target = (tiny_vit(seed, init_values=1e-5) for seed in (0, 1))
    torch.save(WRAPPED[how](state_of(source)), tmp_path / "weights.pth")
    load_weights(target, tmp_path / "weights.pth")
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name


# What features do not use

EXTRA = {
    "head.weight": "head (2 tensors)",
    "head.bias": "head (2 tensors)",
    "mask_token": "mask_token",
    "pre_logits.fc.weight": "pre_logits",
    "decoder_blocks.0.norm1.weight": "decoder_blocks",
    "decoder_norm.weight": "decoder_norm",
    "projector.0.weight": "projector",
}


def test_what_features_do_not_use_is_left_out_with_one_line(tiny_vit, tmp_path, capsys):
    source, target = tiny_vit(), tiny_vit(seed=1)
    file = tmp_path / "weights.safetensors"
    save_file({**state_of(source), **{name: torch.ones(1) for name in EXTRA}}, file)
    for _ in range(2):
        load_weights(target, file)
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith(f"{file}: left out what features do not use: ")
    assert all(part in said.err for part in EXTRA.values())
    torch.testing.assert_close(features(target), features(source), rtol=0, atol=0)


def test_a_file_of_the_very_tensors_is_loaded_without_a_word(tiny_vit, tmp_path, capsys):
    save_file(state_of(tiny_vit()), tmp_path / "weights.safetensors")
    load_weights(tiny_vit(seed=1), tmp_path / "weights.safetensors")
    assert capsys.readouterr() == ("", "")


def test_what_stands_beside_the_vit_is_named_by_where_it_parts(tiny_vit, tmp_path, capsys):
    state = {
        "state_dict": {
            **prefixed("module.base_encoder.", state_of(tiny_vit())),
            **prefixed("module.momentum_encoder.", state_of(tiny_vit())),
            "module.predictor.0.weight": torch.ones(3),
        },
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}},
    }
    torch.save(state, tmp_path / "weights.pth")
    load_weights(tiny_vit(seed=1), tmp_path / "weights.pth")
    said = capsys.readouterr().err
    assert "state_dict.module.momentum_encoder (30 tensors)" in said
    assert "state_dict.module.predictor, optimizer" in said


@pytest.mark.parametrize(
    "name",
    ["reg_token", "norm_pre.weight", "blocks.0.ls1.gamma", "rel_pos_bias.table", "blocks.2.x"],
)
def test_what_features_would_depend_on_is_never_left_out(tiny_vit, tmp_path, name):
    save_file({**state_of(tiny_vit()), name: torch.ones(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(BadInput, match=f"does not fit: {name} is not in the model$"):
        load_weights(tiny_vit(), tmp_path / "weights.safetensors")


# JAX


def jax(vit: VisionTransformer, prefix: str = "") -> dict[str, np.ndarray]:
    """The names and shapes of vision_transformer's releases: y = x @ kernel, heads apart."""
    s = {name: tensor.numpy() for name, tensor in state_of(vit).items()}
    d, heads = vit.embed_dim, vit.blocks[0].attn.num_heads
    out = {
        "cls": s["cls_token"],
        "embedding/kernel": s["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": s["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": s["pos_embed"],
        "Transformer/encoder_norm/scale": s["norm.weight"],
        "Transformer/encoder_norm/bias": s["norm.bias"],
        "pre_logits/kernel": np.ones((d, d), np.float32),
        "head/kernel": np.ones((d, 7), np.float32),
        "head/bias": np.ones(7, np.float32),
    }
    for b in range(len(vit.blocks)):
        t, j = f"blocks.{b}.", f"Transformer/encoderblock_{b}/"
        attention = f"{j}MultiHeadDotProductAttention_1/"
        for n, part in enumerate(("query", "key", "value")):
            rows = slice(n * d, (n + 1) * d)
            kernel = s[f"{t}attn.qkv.weight"][rows].T
            out[f"{attention}{part}/kernel"] = kernel.reshape(d, heads, d // heads)
            out[f"{attention}{part}/bias"] = s[f"{t}attn.qkv.bias"][rows].reshape(heads, -1)
        kernel = s[f"{t}attn.proj.weight"].T.reshape(heads, d // heads, d)
        out[f"{attention}out/kernel"], out[f"{attention}out/bias"] = kernel, s[f"{t}attn.proj.bias"]
        for norm, name in ((0, "norm1"), (2, "norm2")):
            out[f"{j}LayerNorm_{norm}/scale"] = s[f"{t}{name}.weight"]
            out[f"{j}LayerNorm_{norm}/bias"] = s[f"{t}{name}.bias"]
        for n in range(2):
            out[f"{j}MlpBlock_3/Dense_{n}/kernel"] = s[f"{t}mlp.fc{n + 1}.weight"].T
            out[f"{j}MlpBlock_3/Dense_{n}/bias"] = s[f"{t}mlp.fc{n + 1}.bias"]
    return {prefix + name: array for name, array in out.items()}


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_jax_weights_give_the_features_of_timms_own_loader(tiny_vit, tmp_path, capsys, prefix):
    source, target, theirs = tiny_vit(), tiny_vit(seed=1), tiny_vit(seed=2)
    file = tmp_path / "augreg.npz"
    np.savez(file, **jax(source, prefix))
    load_weights(target, file)
    theirs.load_pretrained(str(file))
    assert torch.equal(features(target), features(theirs))
    torch.testing.assert_close(features(target), features(source), rtol=0, atol=1e-6)
    said = capsys.readouterr().err
    assert said == f"{file}: left out what features do not use: pre_logits, head (2 tensors)\n"


def test_jax_weights_of_another_image_size_are_resampled_by_timm(tiny_vit, tmp_path):
    target, theirs = tiny_vit(seed=1, img_size=40), tiny_vit(seed=2, img_size=40)
    np.savez(tmp_path / "augreg.npz", **jax(tiny_vit()))
    load_weights(target, tmp_path / "augreg.npz")
    theirs.load_pretrained(str(tmp_path / "augreg.npz"))
    assert torch.equal(target.pos_embed, theirs.pos_embed) and target.pos_embed.shape[1] == 26


JAX_UNFIT = {
    "a block more": ({"depth": 3}, {}, "blocks are 3, not 2"),
    "a block less": ({"depth": 1}, {}, "blocks are 1, not 2"),
    "another patch": (
        {"patch_size": 4, "img_size": 8},
        {},
        r"embedding/kernel is \(4, 4, 3, 32\), not \(8, 8, 3, 32\)",
    ),
    "another width": ({"embed_dim": 48}, {}, r"embedding/kernel is \(8, 8, 3, 48\)"),
    "layer scale": ({}, {"init_values": 1e-5}, "blocks.0.ls1.gamma is missing"),
    "no bias": ({}, {"qkv_bias": False}, "does not fit: "),
    "another MLP": ({"mlp_ratio": 2}, {}, "does not fit: "),
}


@pytest.mark.parametrize("how", JAX_UNFIT)
def test_jax_weights_that_do_not_fit_leave_nothing_half_loaded(tiny_vit, tmp_path, how):
    theirs, own, said = JAX_UNFIT[how]
    target = tiny_vit(seed=1, **own)
    before = state_of(target)
    np.savez(tmp_path / "augreg.npz", **jax(tiny_vit(**theirs)))
    with pytest.raises(BadInput, match=said):
        load_weights(target, tmp_path / "augreg.npz")
    assert all(torch.equal(target.state_dict()[name], before[name]) for name in before)


def test_an_array_of_objects_is_never_unpickled(tiny_vit, tmp_path):
    arrays = jax(tiny_vit())
    arrays["head/bias"] = np.array([print], dtype=object)
    np.savez(tmp_path / "augreg.npz", **arrays)
    with pytest.raises(BadInput, match=r"no readable .* allow_pickle=False"):
        load_weights(tiny_vit(), tmp_path / "augreg.npz")


def test_numpy_arrays_in_timms_names_are_taken_too(tiny_vit, tmp_path):
    source, target = tiny_vit(), tiny_vit(seed=1)
    np.savez(tmp_path / "a.npz", **{k: v.numpy() for k, v in state_of(source).items()})
    load_weights(target, tmp_path / "a.npz")
    assert torch.equal(features(target), features(source))
