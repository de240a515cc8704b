"""Two towers: logits are open_clip's, sites are in both, a text is read where an image is, and the
expert pool in both is the released code's."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from small_clip import numbers, small_clip, towers

from fmlora_lab.backbone.glyphs_clip import GlyphsCLIP
from fmlora_lab.backbone.sites import Prompts
from fmlora_lab.backbone.vit import load_tower
from fmlora_lab.backbone.words import PAD, START, UNKNOWN, Words
from fmlora_lab.config import Backbone, BadInput
from fmlora_lab.methods.low_rank.rank1_pool import Rank1PoolSettings
from fmlora_lab.methods.method import Batch, build

SIX = ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")
# Made on 2026-11-26 by `apply_lora_all`, `clip_loss`, `compute_orthogonal_loss` and `merge_BA` of
# Fazhan-cs/DAC at 38be3b5, in float64, its dropout 0 and its LayerNorm in float64 too, on the
# numbers that `numbers` draws: a CLIP of width 64 with twelve blocks in either tower, five images.
RELEASED = json.loads((Path(__file__).parent / "dac.json").read_text("utf-8"))


def test_logits_are_open_clips_own_adapted_or_not():
    net = small_clip()
    x, tokens = numbers("x", (3, 3, 32, 32)).float(), torch.tensor([[98, 3, 99, 0, 0, 0, 0, 0]] * 2)
    tokens[1, 1] = 7
    with torch.no_grad():
        want, _ = net.get_logits(x, tokens)
        model = towers(net)
        names = set(net.state_dict())
        for adapted in (False, True):
            if adapted:
                assert len(model.adapt(SIX)) == 6 * 2 * 2
            got = model.scale * model.features(x) @ model.text_features(tokens).T
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    merged = model.merge()
    assert set(merged) == names
    again = small_clip().state_dict()
    assert all(torch.equal(merged[name], again[name]) for name in names)


def test_an_update_is_in_the_merged_weights_under_open_clips_names():
    model = towers(small_clip())
    method = build(Rank1PoolSettings(layers=SIX), model).eval()
    for n, (U, V) in enumerate(zip(method.U, method.V, strict=True)):
        U.data, V.data = (numbers(f"{n}", t.shape).float() / 8 for t in (U, V))
    model.set_update(method.factors(), None)
    x, tokens = numbers("x", (3, 3, 32, 32)).float(), torch.tensor([[98, 3, 99, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        image, text = model.features(x), model.text_features(tokens)
        plain = small_clip()
        plain.load_state_dict(model.merge())
        assert not torch.allclose(image, towers(small_clip()).features(x), atol=1e-2)
        want = plain.encode_image(x, normalize=True), plain.encode_text(tokens, normalize=True)
    torch.testing.assert_close((image, text), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [("attn.q", "attn.v"), ("mlp.fc2",), ("attn.qkv", "attn.proj")])
def test_layers_and_blocks_are_those_asked_for_in_both_towers(layers):
    sites = towers(small_clip()).adapt(layers, [1])
    each = sum(3 if layer == "attn.qkv" else 1 for layer in layers)
    assert len(sites) == 2 * each
    assert all(".1." in site.name for site in sites)
    assert [site.name.startswith("visual.") for site in sites] == [True] * each + [False] * each


def test_a_block_that_there_is_not_is_named():
    with pytest.raises(BadInput, match=r"method.blocks has 2, but the towers have blocks 0 to 1"):
        towers(small_clip()).adapt(SIX, [2])


def test_prompts_enter_the_image_tower_alone_and_prefixes_nowhere():
    model = towers(small_clip())
    x, tokens = numbers("x", (2, 3, 32, 32)).float(), torch.tensor([[98, 3, 99, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        image, text = model.features(x), model.text_features(tokens)
        model.set_prompts(Prompts(numbers("P", (2, 64)).float()))
        assert not torch.allclose(model.features(x), image, atol=1e-3)
        assert torch.equal(model.text_features(tokens), text)
    with pytest.raises(BadInput, match="prefixes"):
        model.set_prompts(Prompts(None, {0: (torch.zeros(1, 64), torch.zeros(1, 64))}))


def test_a_published_clip_has_the_published_number_of_trained_numbers():
    """3,317,760 of the experts and 1,660,608 of the routers, 18.99 MiB: PAPERS of the method."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: [clip]")
    with torch.device("meta"):
        net = open_clip.model.CLIP(
            512,
            open_clip.model.CLIPVisionCfg(layers=12, width=768, patch_size=16, image_size=224),
            open_clip.model.CLIPTextCfg(width=512, heads=8, layers=12),
        )
    net = net.to_empty(device="cpu")
    method = build(Rank1PoolSettings(layers=SIX, router="learned"), towers(net, 224))
    assert method.trained() == 4_978_368


def test_the_pool_in_both_towers_is_the_released_codes(float64):
    model = towers(small_clip(12, 224, 16, 49408, 77).double(), 224)
    method = build(Rank1PoolSettings(layers=SIX), model).double().train()
    paths = [
        site.name.replace("resblocks.", "").replace("attn.qkv.", "").replace("attn.", "")
        .replace("mlp.", "")
        for site in model.sites
    ]  # fmt: skip
    for n, name in enumerate(paths):
        d_in, d_out = len(method.V[n]), len(method.U[n])
        method.V[n].data = numbers(f"{name}A", (12, d_in)).T / d_in**0.5
        method.U[n].data = 0.2 * numbers(f"{name}B", (d_out, 12))
        method.routers[n].weight.data = 0.3 * numbers(f"{name}W", (12, d_in)) / d_in**0.5
        method.routers[n].bias.data = numbers(f"{name}b", (12,))
        method.counts[n] = torch.from_numpy(
            np.random.default_rng(zlib.crc32(f"{name}c".encode())).permutation(12) * 100
        )
        setattr(method, f"past{n}", numbers(f"{name}p", (d_out, 4)))
    tokens = torch.zeros(4, 77, dtype=torch.long)
    for c in range(4):
        words = np.random.default_rng(c).integers(1, 49000, size=4)
        tokens[c, :6] = torch.tensor([49406, *words, 49407])
    labels = torch.tensor([0, 1, 2, 1, 3])
    model.set_update(method.factors(), None)
    images = model.features(numbers("x", (5, 3, 224, 224)))
    texts = model.text_features(tokens[labels])
    shares = (labels[:, None] == labels).double()
    logits = model.scale * images @ texts.T
    batch = Batch(images, logits, shares / shares.sum(1, keepdim=True), None)
    loss = method.loss(batch)
    loss.backward()
    ago = method.overlap().item()

    want = RELEASED
    torch.testing.assert_close(images[:, :3].detach(), torch.tensor(want["images"]))
    torch.testing.assert_close(texts[:, :3].detach(), torch.tensor(want["texts"]))
    assert loss.item() == pytest.approx(want["loss"] + 0.1 * want["ago"], rel=1e-9)
    assert ago == pytest.approx(want["ago"], rel=1e-9)
    counts = dict(zip(paths, method.counts.tolist(), strict=True))
    assert {name: counts[name] for name in want["counts"]} == want["counts"]
    place = torch.arange(1, 13)
    assert int((method.counts * place).sum()) == want["all_counts"]
    for name, (of_V, of_U) in want["gradients"].items():
        n = paths.index(name)
        assert method.V[n].grad.norm().item() == pytest.approx(of_V, rel=1e-9)
        assert method.U[n].grad.norm().item() == pytest.approx(of_U, rel=1e-9)
    method.eval()
    for name, squares in want["merged"].items():
        dense = method.factors()[paths.index(name)].dense()
        assert dense.square().sum().item() == pytest.approx(squares, rel=1e-9)


def test_the_loss_of_pairs_is_clips_both_ways():
    """With labels as shares (B, B): the mean of both cross-entropies, by hand."""
    method = build(Rank1PoolSettings(), towers(small_clip()))
    logits = numbers("logits", (4, 4))
    labels = torch.tensor([0, 1, 1, 2])
    shares = (labels[:, None] == labels).double()
    shares /= shares.sum(1, keepdim=True)
    by_hand = -(shares * logits.log_softmax(1)).sum(1).mean() / 2
    by_hand -= (shares.T * logits.T.log_softmax(1)).sum(1).mean() / 2
    got = method.loss(Batch(numbers("f", (4, 8)), logits, shares, None))
    torch.testing.assert_close(got, by_hand)


def test_words_are_tokens_between_a_start_and_an_end():
    words = Words(["letter", "a", "small"], 6)
    small, other, long = words(["Small LETTER a", "small omega", "a a a a a a a"]).tolist()
    assert words.end == UNKNOWN + 4
    assert small == [START, 5, 3, 4, words.end, PAD]
    assert other == [START, 5, UNKNOWN, words.end, PAD, PAD]
    assert long == [START, 4, 4, 4, 4, words.end]
    assert max(small) == words.end  # where the text tower reads


def test_a_text_is_read_at_its_end_and_looks_only_back():
    torch.manual_seed(0)
    net = GlyphsCLIP(["a", "b", "c"]).eval()
    with torch.no_grad():
        one, two = net.encode_text(net.words(["a b", "a c"]))
        tokens = net.words(["a b"])
        tokens[0, 6] = 4  # behind the end, which no token of the text may see
        behind = net.encode_text(tokens)[0]
    torch.testing.assert_close(behind, one)
    assert not torch.allclose(one, two, atol=1e-4)


def test_the_towers_that_ship_know_what_they_were_trained_on():
    model = load_tower(Backbone(name="glyphs-clip"))
    tokens = model.tokens(["greek small letter alpha with tonos", "nowhere"])
    assert UNKNOWN not in tokens[0]
    assert UNKNOWN in tokens[1]
    with torch.no_grad():
        features = model.text_features(tokens)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    assert model.scale <= 100 + 1e-3


def test_what_is_no_weight_file_of_these_towers_is_named(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(2)}, file)
    with pytest.raises(BadInput, match="has no vocabulary"):
        load_tower(Backbone(name="glyphs-clip", weights=file))
    save_file({"a": torch.zeros(2)}, file, {"vocabulary": "a b"})
    with pytest.raises(BadInput, match="does not fit"):
        load_tower(Backbone(name="glyphs-clip", weights=file))
    with pytest.raises(BadInput, match=r"\.safetensors"):
        load_tower(Backbone(name="glyphs-clip", weights=tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("open_clip:ViT-B-999", "open_clip has no model 'ViT-B-999'"),
        ("open_clip:ViT-B-16", "give a local file with backbone.weights, or name"),
        ("open_clip:RN50", "give a local file"),
    ],
)
def test_a_model_of_open_clip_that_cannot_be_had_is_said(name, said):
    pytest.importorskip("open_clip", reason="open_clip is not installed: [clip]")
    with pytest.raises(BadInput, match=said):
        load_tower(Backbone(name=name))


def test_a_model_of_open_clip_from_a_file_is_open_clips_own(tmp_path):
    """Its normalisation, size and tokenizer; pixels as its own transform gives them."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: [clip]")
    torch.manual_seed(0)
    net, _, transform = open_clip.create_model_and_transforms(
        "ViT-S-32-alt", pretrained=None, load_weights=False
    )
    file = tmp_path / "s32.safetensors"
    save_file({name: t.contiguous() for name, t in net.state_dict().items()}, file)
    model = load_tower(Backbone(name="open_clip:ViT-S-32-alt", weights=file))
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    own = model.pixels_in(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    theirs = transform(Image.fromarray(pixels))[None]
    torch.testing.assert_close(own, theirs, rtol=0, atol=1e-5)
    texts = ["a photo of a cat.", "a photo of a dog."]
    with torch.no_grad():
        tokens = open_clip.get_tokenizer("ViT-S-32-alt")(texts)
        want = net.eval().get_logits(theirs, tokens)[0]
        got = model.scale * model.features(own) @ model.text_features(model.tokens(texts)).T
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert F.cosine_similarity(got, want) > 0.999
