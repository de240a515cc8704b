"""Prefixes of attention and prompts for each image: a dense reference, and plain timm without."""

import pytest
import torch
from oracle import drawn, sums
from timm.layers import Attention
from torch import nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.vit import PrefixAttention, Prompts, ViT
from fmlora_lab.config import BadInput

MODELS = {
    "plain": {},
    "registers": {"reg_tokens": 4, "init_values": 1e-5},
    "average-no-cls": {"global_pool": "avg", "class_token": False},
    "norms": {"qk_norm": True, "scale_attn_norm": True},
}
every_model = pytest.mark.parametrize("kind", MODELS)


def floats(*shape: int, seed: int) -> torch.Tensor:
    return drawn(*shape, seed=seed).float()


def adapted(tiny_vit, **options) -> tuple[ViT, torch.Tensor]:
    return ViT(tiny_vit(**options)), floats(3, 3, 16, 16, seed=5)


def dense(attn: Attention, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor):
    """Attention over longer keys and values, written out image by image and head by head."""
    e, out = attn.head_dim, []
    for image, own_keys, own_values in zip(x, keys, values, strict=True):
        q, k, v = (image @ attn.qkv.weight.T + attn.qkv.bias).chunk(3, dim=1)
        heads = []
        for h in range(attn.num_heads):
            at = slice(h * e, (h + 1) * e)
            k_h = torch.cat([own_keys[:, at], attn.k_norm(k[:, at])])
            v_h = torch.cat([own_values[:, at], v[:, at]])
            heads.append((attn.q_norm(q[:, at]) @ k_h.T / e**0.5).softmax(1) @ v_h)
        out.append(attn.norm(torch.cat(heads, dim=1)) @ attn.proj.weight.T + attn.proj.bias)
    return torch.stack(out)


@pytest.mark.parametrize("each", [False, True], ids=["one-for-all", "one-an-image"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("kind", ["plain", "norms"])
def test_prefixed_attention_is_dense_attention_over_longer_keys_and_values(
    tiny_vit, kind, fused, each
):
    """In outputs and in gradients of the input, of keys and of values, in float64."""
    model = ViT(tiny_vit(**MODELS[kind]).double())
    model.use_fused_attention(fused)
    shape = (3, 4, 32) if each else (4, 32)
    x, g = drawn(3, 5, 32, seed=1), drawn(3, 5, 32, seed=4)
    found = [x, drawn(*shape, seed=2), drawn(*shape, seed=3)]
    wanted = [part.clone().requires_grad_() for part in found]
    found = [part.requires_grad_() for part in found]
    model.set_prompts(Prompts(prefixes={1: tuple(found[1:])}))
    attn = model.network.blocks[1].attn
    assert isinstance(attn, PrefixAttention)
    ours = attn(found[0])
    theirs = dense(attn, wanted[0], *(part.expand(3, 4, 32) for part in wanted[1:]))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    (ours * g).sum().backward()
    (theirs * g).sum().backward()
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10)
        assert b.grad.abs().max() > 1e-3


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_prefixed_attention_gives_the_official_codes_numbers(fused):
    """Made on 2026-11-22 with GT-RIPL/CODA-Prompt (6417d4f) `models/vit.py`, `Attention.forward`
    with these weights, x and prompt=[pk, pv]; JH-LEE-KR/dualprompt-pytorch (7eb457d)
    `PreT_Attention` gave the same output."""
    attn = Attention(8, num_heads=2, qkv_bias=True).double()
    with torch.no_grad():
        for n, (_, weight) in enumerate(sorted(attn.state_dict().items())):
            weight.copy_(drawn(*weight.shape, seed=30 + n) / 8**0.5)
    attn.fused_attn, attn.__class__ = fused, PrefixAttention
    x, keys, values = drawn(3, 5, 8, seed=20), drawn(3, 2, 8, seed=21), drawn(3, 2, 8, seed=22)
    for part in (x, keys, values):
        part.requires_grad_()
    attn.prefix = (keys, values)
    y = attn(x)
    (y * drawn(3, 5, 8, seed=23)).sum().backward()
    for tensor, golden in (
        (y, [17.33011189, 79.73457356, 0.47348928]),
        (x.grad, [-2.17253842, 56.27400477, 1.25336389]),
        (keys.grad, [3.6649488, 4.53618827, 0.82178377]),
        (values.grad, [-1.1772804, 14.65928924, -2.09523523]),
        (attn.qkv.weight.grad, [-25.52543169, 633.14774628, -19.66078183]),
    ):
        assert sums(tensor) == pytest.approx(golden, abs=1e-7)


@every_model
def test_no_prefix_is_plain_timm_bit_for_bit(tiny_vit, kind):
    """Also in a block that had one, whose attention's forward is another since."""
    model, x = adapted(tiny_vit, **MODELS[kind])
    plain = tiny_vit(**MODELS[kind])
    wanted = plain.forward_head(plain.forward_features(x), pre_logits=True)
    one = {0: (floats(2, 32, seed=1), floats(2, 32, seed=2))}
    for prefixes in ({}, one, {}):
        model.set_update([], Prompts(prefixes=prefixes))
        assert torch.equal(model.features(x), wanted) == (not prefixes)
    model.set_update([], None)
    assert torch.equal(model.features(x), wanted)
    assert model.network.state_dict().keys() == plain.state_dict().keys()


@every_model
def test_a_prefix_changes_no_shape(tiny_vit, kind):
    model, x = adapted(tiny_vit, **MODELS[kind])
    shapes = []
    for block in model.network.blocks:
        block.register_forward_hook(lambda _, args, y: shapes.append(y.shape))
    prefixes = {b: (floats(6, 32, seed=b), floats(6, 32, seed=b + 2)) for b in (0, 1)}
    for prompts in (None, Prompts(prefixes=prefixes)):
        model.set_update([], prompts)
        assert model.features(x).shape == (3, 32)
    assert shapes[:2] == shapes[2:]


def test_a_block_whose_prefix_was_taken_away_has_none(tiny_vit):
    model, x = adapted(tiny_vit)
    prefixes = [{b: (floats(2, 32, seed=b), floats(2, 32, seed=9))} for b in (0, 1)]
    fresh, _ = adapted(tiny_vit)
    fresh.set_update([], Prompts(prefixes=prefixes[1]))
    for prefix in prefixes:
        model.set_update([], Prompts(prefixes=prefix))
    assert torch.equal(model.features(x), fresh.features(x))


@pytest.mark.parametrize("block", [-1, 2])
def test_a_prefix_at_a_block_that_is_not_there_is_refused(tiny_vit, block):
    model, _ = adapted(tiny_vit)
    prefix = (floats(2, 32, seed=1), floats(2, 32, seed=2))
    with pytest.raises(BadInput, match=rf"^method\.blocks has {block}, but .* blocks 0 to 1$"):
        model.set_update([], Prompts(prefixes={block: prefix}))


class OtherAttention(Attention):
    """What a model with an attention of its own has."""


@pytest.mark.parametrize("kind", ["other", "gated"])
def test_a_prefix_for_another_attention_than_timms_is_refused(tiny_vit, kind):
    model, x = adapted(tiny_vit)
    attn = model.network.blocks[1].attn
    if kind == "other":
        attn.__class__ = OtherAttention
    else:
        attn.gate = nn.Linear(32, 32)
    before = model.features(x)
    prefix = (floats(2, 32, seed=1), floats(2, 32, seed=2))
    with pytest.raises(BadInput, match=r"^block 1's attention is a \w+; prefixes need timm's own"):
        model.set_update([], Prompts(prefixes={1: prefix}))
    model.set_update([], None)
    assert torch.equal(model.features(x), before)


def for_each_image(n: int) -> Prompts:
    """Tokens and prefixes of n images."""
    keys, values = floats(n, 3, 32, seed=2), floats(n, 3, 32, seed=3)
    return Prompts(floats(n, 4, 32, seed=1), {1: (keys, values)})


@pytest.mark.parametrize("read", [False, True])
@every_model
def test_prompts_of_each_image_are_those_of_the_image_alone(tiny_vit, kind, read):
    model, x = adapted(tiny_vit, **MODELS[kind])
    tokens, prefixes, _ = for_each_image(3)
    model.set_update([], Prompts(tokens, prefixes, read))
    together = model.features(x)
    for n in range(3):
        own = {b: (keys[n], values[n]) for b, (keys, values) in prefixes.items()}
        model.set_update([], Prompts(tokens[n], own, read))
        alone = model.features(x[n : n + 1])
        torch.testing.assert_close(together[n : n + 1], alone, rtol=1e-5, atol=1e-5)
    model.set_update([], Prompts(tokens[:1], {1: tuple(p[:1] for p in prefixes[1])}, read))
    assert (model.features(x)[1:] - together[1:]).abs().max() > 1e-4  # each had its own


@every_model
def test_reading_prompts_is_the_mean_of_their_outputs_after_the_final_norm(tiny_vit, kind):
    model, x = adapted(tiny_vit, **MODELS[kind])
    vit, inside = model.network, []
    vit.blocks[-1].register_forward_hook(lambda _, args, y: inside.append(y), prepend=True)
    cls = 0 if vit.cls_token is None else 1
    model.set_update([], for_each_image(3)._replace(read=True))
    found = model.features(x)
    (outputs,) = inside
    expected = vit.fc_norm(vit.norm(outputs[:, cls : cls + 4]).mean(1))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    model.set_update([], for_each_image(3))
    assert not torch.allclose(model.features(x), found, atol=1e-3)


@pytest.mark.parametrize("read", [False, True])
@every_model
def test_frozen_features_are_plain_timms_and_leave_everything_as_it_was(tiny_vit, kind, read):
    model, x = adapted(tiny_vit, **MODELS[kind])
    plain = tiny_vit(**MODELS[kind])
    wanted = plain.forward_head(plain.forward_features(x), pre_logits=True)
    sites = model.adapt(("attn.qkv", "mlp.fc1"))
    factors = [
        Factors(floats(s.d_out, 2, seed=1), None, floats(s.d_in, 2, seed=2) / 8) for s in sites
    ]
    prompts = for_each_image(3)._replace(read=read)
    for fold in (False, True):
        model.set_update(factors, prompts)
        if fold:
            model.fold()
        before, folded = model.features(x), [site.folded for site in sites]
        assert torch.equal(model.frozen_features(x), wanted)
        assert all(site.factors is f for site, f in zip(sites, factors, strict=True))
        assert all(site.folded is f for site, f in zip(sites, folded, strict=True))
        assert model.prompts is prompts
        assert torch.equal(model.features(x), before)
        assert not torch.allclose(before, wanted, atol=1e-3)


def test_frozen_features_need_no_gradient_and_disturb_none(tiny_vit):
    model, x = adapted(tiny_vit)
    keys, values = (floats(3, 32, seed=s).requires_grad_() for s in (1, 2))
    model.set_update([], Prompts(prefixes={0: (keys, values)}))
    features = model.features(x)
    assert not model.frozen_features(x).requires_grad
    features.square().sum().backward()
    assert (keys.grad.norm(dim=1) > 0).all() and (values.grad.norm(dim=1) > 0).all()
    assert all(p.grad is None for p in model.network.parameters())


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_prefixes_take_part_in_autocast(tiny_vit, fused):
    """float32 prefixes beside bfloat16 keys; features are float32 and near those of float32."""
    model, x = adapted(tiny_vit)
    model.use_fused_attention(fused)
    model.set_update([], for_each_image(3))
    exact = model.features(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.features(x)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.1)
