"""A timm VisionTransformer as a tower: its linear layers become sites, prompts enter and leave by
hooks, and no line of timm is forked. Its state dict stays plain timm throughout."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from timm.layers.attention import Attention
from timm.models import VisionTransformer
from torch import Tensor, nn

from fmlora_lab.backbone.sites import Prompts, Site
from fmlora_lab.backbone.tower import TOWERS, Tower, loader_of, tower
from fmlora_lab.backbone.weights import load_weights
from fmlora_lab.config import Backbone, BadInput

GLYPHS_VIT = Path(__file__).parent / "assets" / "glyphs-vit.safetensors"
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
"""What every block must have to be adapted, as plain linear layers."""
QKV_ROWS = {"attn.q": 0, "attn.k": 1, "attn.v": 2}


class PrefixAttention(Attention):
    """timm's attention over longer keys and values; without a prefix it is timm's own."""

    prefix: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        if self.prefix is None:
            return super().forward(x, *args, **kwargs)
        B, n, _ = x.shape
        heads = (B, -1, self.num_heads, self.head_dim)
        q, k, v = (part.reshape(heads).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))
        q, k = self.q_norm(q), self.k_norm(k)
        keys, values = (
            part.to(x.dtype).expand(B, -1, -1).reshape(heads).transpose(1, 2).to(q.dtype)
            for part in self.prefix
        )
        k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
        if self.fused_attn:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q * self.scale @ k.transpose(2, 3)).softmax(3) @ v
        return self.proj(self.norm(y.transpose(1, 2).reshape(B, n, -1)))


class ViT(Tower):
    """A timm ViT as a tower."""

    network: VisionTransformer
    mean: Tensor
    std: Tensor

    def __init__(self, vit: VisionTransformer):
        """BadInput for blocks that cannot be adapted."""
        check_blocks(vit)
        super().__init__(vit)
        cfg = getattr(vit, "pretrained_cfg", {})  # timm's; the lab's own ViT goes by the defaults
        for name in ("mean", "std"):
            value = torch.tensor(cfg.get(name, (0.5, 0.5, 0.5))).view(3, 1, 1)
            self.register_buffer(name, value, persistent=False)
        self.prompts_enter(vit.blocks[0], vit.blocks[-1], 0 if vit.cls_token is None else 1)

    @property
    def width(self) -> int:
        return self.network.embed_dim

    @property
    def image_size(self) -> int:
        return self.network.patch_embed.img_size[0]

    def pixels_in(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
        x = pixels.float() / 255
        size = self.image_size
        if x.shape[-1] != size:
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
        return (x - self.mean) / self.std

    def use_fused_attention(self, fused: bool) -> None:
        """Fused on CUDA; on a CPU its backward pass takes over half of a training step."""
        for attention in self._attentions():
            attention.fused_attn = fused

    @property
    def compilable(self) -> Sequence[nn.Module]:
        return [*self.network.blocks]

    def adapt(self, layers: Sequence[str], blocks: Sequence[int] | None = None) -> list[Site]:
        """`layers`: any of `attn.qkv` (or `attn.q`, `attn.k`, `attn.v`, its rows), `attn.proj`,
        `mlp.fc1`, `mlp.fc2`; `blocks`: which of the blocks, all by default."""
        depth = len(self.network.blocks)
        chosen = range(depth) if blocks is None else sorted(set(blocks))
        if any(not 0 <= b < depth for b in chosen):
            raise BadInput(
                f"method.blocks is {list(chosen)}, but the ViT has blocks 0 to {depth - 1}"
            )
        thirds = sorted(QKV_ROWS[layer] for layer in layers if layer in QKV_ROWS)
        part_of_qkv = bool(thirds) and "attn.qkv" not in layers
        for b in chosen:
            for layer in LAYERS:
                rows, in_part = None, part_of_qkv and layer == "attn.qkv"
                if layer not in layers and not in_part:
                    continue
                part, leaf = layer.split(".")
                parent = self.network.blocks[b].get_submodule(part)
                linear = getattr(parent, leaf)
                if in_part:
                    rows = torch.arange(linear.out_features).view(3, -1)[thirds].flatten()
                self.sites.append(Site(f"blocks.{b}.{layer}", linear, rows))
                setattr(parent, leaf, self.sites[-1])
        return self.sites

    def features(self, pixels: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B d"]:
        """What timm's own classifier would read, or the mean of the prompts' outputs where
        `Prompts.read` says so."""
        tokens = self.network.forward_features(pixels)
        if self.prompts is not None and self.prompts.read:
            return self.network.fc_norm(self.network.norm(self.prompt_outputs).mean(1)).float()
        return self.network.forward_head(tokens, pre_logits=True).float()

    def set_prompts(self, prompts: Prompts | None) -> None:
        """BadInput for a prefix at a block that there is not, or whose attention is not timm's."""
        super().set_prompts(prompts)
        prefixes = {} if prompts is None else prompts.prefixes
        if beyond := [b for b in prefixes if not 0 <= b < len(self.network.blocks)]:
            raise BadInput(
                f"method.blocks has {beyond[0]}, but the ViT has blocks 0 to "
                f"{len(self.network.blocks) - 1}"
            )
        for number, attention in enumerate(self._attentions()):
            if number in prefixes and type(attention) is Attention and attention.gate is None:
                attention.__class__ = PrefixAttention  # the same parameters, another forward
            if isinstance(attention, PrefixAttention):
                attention.prefix = prefixes.get(number)
            elif number in prefixes:
                raise BadInput(
                    f"block {number}'s attention is a {type(attention).__name__}; prefixes need "
                    "timm's own Attention, without a gate"
                )

    def _attentions(self) -> list[Any]:
        """Of the blocks, in their order: timm's own or one of its variants."""
        return [block.attn for block in self.network.blocks]


def check_blocks(vit: VisionTransformer, name: str = "this ViT") -> None:
    """BadInput for a block that lacks one of `LAYERS`: blocks of several branches, a gated MLP
    in parts, one projection for attention and MLP."""
    for number, block in enumerate(vit.blocks):
        layers = dict(block.named_modules())
        lacking = [name for name in LAYERS if type(layers.get(name)) is not nn.Linear]
        if lacking:
            raise BadInput(
                f"backbone.name: block {number} of {name}, a {type(block).__name__}, has no linear "
                f"layer {' and no '.join(lacking)}; allowed: ViTs whose every block has "
                f"{', '.join(LAYERS)}"
            )


def check_size(vit: VisionTransformer, backbone: Backbone) -> None:
    """BadInput for an image size, configured or the model's own, whose last pixels no patch would
    see."""
    patch = vit.patch_embed.feat_ratio()
    size = backbone.image_size or vit.patch_embed.img_size[0]
    if size % patch:
        lower = max(size // patch, 1) * patch
        given = "" if backbone.image_size else f", as {backbone.name} has it by default"
        raise BadInput(
            f"backbone.image_size is {size}{given}; allowed: multiples of the patch of {patch}, "
            f"of which {lower} and {lower + patch} are the nearest"
        )


def load_tower(backbone: Backbone) -> Tower:
    """The configured backbone, frozen, with its weights. BadInput if it cannot be had."""
    loader = loader_of(backbone)
    return timm_vit(backbone) if loader is None else loader.load(backbone)


@tower("glyphs-vit", weights=GLYPHS_VIT)
def glyphs_vit(backbone: Backbone) -> ViT:
    """The small ViT that ships with the lab: `benchmarks/glyphs/pretrain.py` made it."""
    vit = VisionTransformer(
        img_size=backbone.image_size or 32,
        patch_size=8,
        embed_dim=128,
        depth=6,
        num_heads=2,
        num_classes=0,
    )
    check_size(vit, backbone)
    return _with_weights(vit, backbone.weights or GLYPHS_VIT)


def check_timm(backbone: Backbone) -> None:
    """BadInput unless its name is the tag of a timm ViT, of an image size that fits."""
    if not timm.is_model(backbone.name):
        raise BadInput(
            f"backbone.name is {backbone.name!r}; allowed: {', '.join(sorted(TOWERS))} (as "
            "open_clip:MODEL), or the full tag of a timm ViT, such as "
            "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
        )
    with torch.device("meta"):  # what it is, before its weights are made or fetched
        plan = timm.create_model(backbone.name, num_classes=0)
    if not isinstance(plan, VisionTransformer):
        raise BadInput(
            f"backbone.name is {backbone.name!r}, a {type(plan).__name__}; "
            "allowed: models of timm's VisionTransformer class"
        )
    check_blocks(plan, backbone.name)
    check_size(plan, backbone)


def timm_vit(backbone: Backbone) -> ViT:
    """A ViT by its timm tag, with the weights of a local file or of timm's hub."""
    check_timm(backbone)
    size: dict[str, Any] = {"img_size": backbone.image_size} if backbone.image_size else {}
    try:
        vit = timm.create_model(
            backbone.name, pretrained=backbone.weights is None, num_classes=0, **size
        )
    except Exception as error:  # timm and its hub raise many kinds; the user needs one sentence
        raise BadInput(
            f"backbone.name: the weights of {backbone.name} could not be had "
            f"({type(error).__name__}); give a local file with backbone.weights"
        ) from error
    assert isinstance(vit, VisionTransformer)  # as its plan is
    if backbone.weights is not None:
        return _with_weights(vit, backbone.weights)
    model = ViT(vit)
    digest = hashlib.sha256()
    for name, tensor in vit.state_dict().items():
        if name != "pos_embed":  # resampled to the image size, which the configuration names
            digest.update(name.encode() + tensor.numpy().tobytes())
    model.fingerprint = digest.hexdigest()
    return model


def _with_weights(vit: VisionTransformer, file: Path) -> ViT:
    load_weights(vit, file)
    model = ViT(vit)
    with file.open("rb") as opened:
        model.fingerprint = hashlib.file_digest(opened, "sha256").hexdigest()
    return model
