"""Weight files of others: what fits is loaded to the bit, what does not is named."""

from copy import deepcopy

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from fmlora_lab.backbone.weights import load_weights
from fmlora_lab.config import BadInput

pytestmark = pytest.mark.unit

MODELS = {
    "plain": {},
    "registers": {"reg_tokens": 4, "init_values": 1e-5},
    "registers-unembedded": {"reg_tokens": 4, "no_embed_class": True},
    "average-no-cls": {"global_pool": "avg", "class_token": False},
    "siglip": {"global_pool": "map", "class_token": False},
}


@pytest.fixture
def weight_file(tmp_path):
    def write(vit: VisionTransformer, without: tuple[str, ...] = (), **more: torch.Tensor):
        state = {k: v.clone() for k, v in vit.state_dict().items() if k not in without}
        save_file({**state, **more}, tmp_path / "weights.safetensors")
        return tmp_path / "weights.safetensors"

    return write


@pytest.mark.parametrize("kind", MODELS)
def test_the_position_grid_is_resampled_to_another_image_size(tiny_vit, weight_file, kind):
    source, target = tiny_vit(**MODELS[kind]), tiny_vit(seed=1, **MODELS[kind], img_size=40)
    load_weights(target, weight_file(source))
    prefix = source.pos_embed.shape[1] - 4
    assert target.pos_embed.shape == (1, prefix + 25, 32)
    assert torch.equal(target.pos_embed[:, :prefix], source.pos_embed[:, :prefix])
    expected = resample_abs_pos_embed(source.pos_embed, [5, 5], num_prefix_tokens=prefix)
    torch.testing.assert_close(target.pos_embed, expected)
    for name, tensor in source.state_dict().items():
        if name != "pos_embed":
            assert torch.equal(target.state_dict()[name], tensor), name


def test_the_same_image_size_loads_the_very_weights_without_the_classifier(tiny_vit, weight_file):
    source, target = tiny_vit(num_classes=7), tiny_vit(seed=1)
    load_weights(target, weight_file(source))
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name


def test_a_file_that_does_not_fit_names_the_tensors(tiny_vit, weight_file):
    file = weight_file(
        tiny_vit(),
        without=("norm.bias", "blocks.0.norm1.weight"),
        **{"blocks.0.mlp.fc1.weight": torch.zeros(64, 32), "blocks.0.ls1.gamma": torch.ones(32)},
    )
    untouched = tiny_vit(seed=1)
    before = deepcopy(untouched.state_dict())
    with pytest.raises(BadInput) as error:
        load_weights(untouched, file)
    for part in (
        str(file),
        "norm.bias is missing",
        "blocks.0.norm1.weight is missing",
        "blocks.0.ls1.gamma is not in the model",
        "blocks.0.mlp.fc1.weight is (64, 32), not (128, 32)",
    ):
        assert part in str(error.value)
    assert all(torch.equal(untouched.state_dict()[name], before[name]) for name in before)


def test_a_file_of_another_depth_names_a_few_tensors_and_counts_the_rest(tiny_vit, weight_file):
    with pytest.raises(BadInput, match=r"blocks\.1\.\S+ is missing.* and 6 more$"):
        load_weights(tiny_vit(), weight_file(tiny_vit(depth=1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_16_bit_tensors_are_the_very_numbers_in_32(tiny_vit, tmp_path, dtype):
    source, target = tiny_vit().to(dtype), tiny_vit(seed=1)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    load_weights(target, tmp_path / "weights.safetensors")
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor.float()), name
        assert target.state_dict()[name].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_tensors_are_refused_since_their_scales_lie_elsewhere(
    tiny_vit, weight_file, dtype
):
    name = "blocks.1.mlp.fc1.weight"
    file = weight_file(tiny_vit(), **{name: torch.ones(128, 32).to(dtype)})
    said = str(dtype).removeprefix("torch.")
    with pytest.raises(BadInput, match=f"does not fit: {name} is of type {said}$"):
        load_weights(tiny_vit(), file)


def test_a_file_that_does_not_fit_shows_its_own_names_and_the_nearest_model(tmp_path):
    """The nearest of timm's, by its tensors: CLIP's has a norm before its blocks."""
    with torch.device("meta"):
        clip = timm.create_model("vit_base_patch32_clip_224", num_classes=0)
        target = timm.create_model("vit_base_patch32_224", num_classes=0)
    state = {k: torch.zeros(v.shape, dtype=torch.bfloat16) for k, v in clip.state_dict().items()}
    save_file({f"trunk.{name}": tensor for name, tensor in state.items()}, tmp_path / "clip")
    with pytest.raises(BadInput) as error:
        load_weights(target, tmp_path / "clip")
    for part in (
        "width 768, 12 blocks, patches of 32, 151 tensors: trunk.blocks.0.attn.proj.bias, trunk.b",
        "the nearest model of timm is vit_base_patch32_clip_224)",
        "does not fit: patch_embed.proj.bias is missing; norm_pre.bias is not in the model",
    ):
        assert part in str(error.value)


def test_a_network_of_another_kind_shows_its_own_names(tiny_vit, tmp_path):
    state = {"conv1.weight": torch.ones(64, 3, 7, 7), "layer1.0.conv1.weight": torch.ones(1)}
    torch.save(state, tmp_path / "resnet.pth")
    said = (
        r"has no ViT of a known layout; its 2 tensors are conv1\.weight, layer1\.0\.conv1\.weight"
    )
    with pytest.raises(BadInput, match=said):
        load_weights(tiny_vit(), tmp_path / "resnet.pth")


def test_patches_of_another_size_are_not_resampled_without_a_word(tiny_vit, weight_file):
    file = weight_file(tiny_vit(patch_size=4))
    with pytest.raises(BadInput, match=r"patch_embed\.proj\.weight is \(32, 3, 4, 4\), not"):
        load_weights(tiny_vit(), file)


def test_a_file_of_another_width_or_with_other_prefix_tokens_is_refused(tiny_vit, weight_file):
    with pytest.raises(BadInput, match=r"attn\.proj\.bias is \(48,\), not \(32,\)"):
        load_weights(tiny_vit(), weight_file(tiny_vit(embed_dim=48)))
    no_cls = tiny_vit(img_size=32, class_token=False, global_pool="avg")
    with pytest.raises(BadInput, match="cls_token is missing"):
        load_weights(tiny_vit(img_size=32), weight_file(no_cls))


def test_a_missing_and_an_unreadable_file_are_named(tiny_vit, weight_file, tmp_path):
    with pytest.raises(BadInput, match=r"there is no file .*nowhere"):
        load_weights(tiny_vit(), tmp_path / "nowhere.safetensors")
    file = weight_file(tiny_vit())
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"weights\.safetensors is no readable safetensors file"):
        load_weights(tiny_vit(), file)
    file.write_text("not a safetensors file")
    with pytest.raises(BadInput, match=r"weights\.safetensors is no readable safetensors file"):
        load_weights(tiny_vit(), file)
