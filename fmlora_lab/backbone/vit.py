"""A timm VisionTransformer, adapted from outside: its linear layers become sites, prompts enter
and leave by hooks, and no line of timm is forked. Its state dict stays plain timm throughout."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import Attention, resample_abs_pos_embed
from timm.models import VisionTransformer
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors, low_rank_linear
from fmlora_lab.config import Backbone, BadInput

GLYPHS_VIT = Path(__file__).parent / "assets" / "glyphs-vit.safetensors"
QKV_ROWS = {"attn.q": 0, "attn.k": 1, "attn.v": 2}


class Site(nn.Linear):
    """One adapted linear layer; `factors` is its update for this step, None for none.

    `rows` picks the output rows that are adapted (q, k or v of a fused qkv); U has that many.
    """

    def __init__(self, name: str, linear: nn.Linear, rows: Tensor | None):
        nn.Module.__init__(self)
        self.name = name
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("rows", rows, persistent=False)
        self.d_out = linear.out_features if rows is None else len(rows)
        self.d_in = linear.in_features
        self.factors: Factors | None = None
        self.folded: Tensor | None = None

    def full_rows(self, factors: Factors) -> Factors:
        """The same update with a U of all the layer's output rows."""
        if self.rows is None:
            return factors
        U = factors.U.new_zeros(self.out_features, factors.U.shape[1])
        return factors._replace(U=U.index_copy(0, self.rows, factors.U))

    def effective_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """W0 + U C Vᵀ (d_out, d_in), summed in `dtype`, returned in the weight's own type."""
        weight = self.weight.detach()
        if self.factors is None:
            return weight
        U, C, V, _ = self.full_rows(self.factors)
        exact = Factors(U.to(dtype), None if C is None else C.to(dtype), V.to(dtype))
        return (weight.to(dtype) + exact.dense()).to(weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        if self.folded is not None:
            return F.linear(x, self.folded, self.bias)
        if self.factors is None:
            return F.linear(x, self.weight, self.bias)
        return low_rank_linear(x, self.weight, self.bias, *self.full_rows(self.factors))


class Prompts(NamedTuple):
    """What a method adds to the tokens, for all images alike or, with a leading B, for each.

    `tokens` (m, d) or (B, m, d) are put after [CLS] before the first block. `prefixes`: for a
    block's number, keys and values, (L, d) or (B, L, d) each, put before those of its attention.
    With `read`, the features are the mean of the tokens' outputs, not what timm would read.
    """

    tokens: Tensor | None = None
    prefixes: Mapping[int, tuple[Tensor, Tensor]] = {}
    read: bool = False


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


class AdaptedViT(nn.Module):
    """A ViT whose sites and prompts a method sets before each forward pass.

    `fingerprint` is the hash of the weights it was loaded with.
    """

    def __init__(self, vit: VisionTransformer):
        super().__init__()
        self.vit = vit.requires_grad_(False).eval()  # no dropout: features are the same for all
        self.fingerprint = ""
        self.sites: list[Site] = []
        self.prompts: Prompts | None = None
        self.prompt_outputs: Tensor | None = None
        cfg = vit.pretrained_cfg
        for name in ("mean", "std"):
            value = torch.tensor(cfg.get(name, (0.5, 0.5, 0.5))).view(3, 1, 1)
            self.register_buffer(name, value, persistent=False)
        vit.blocks[0].register_forward_pre_hook(self._insert_prompts)
        vit.blocks[-1].register_forward_hook(self._remove_prompts)

    @property
    def width(self) -> int:
        """Width d of a token and of the features."""
        return self.vit.embed_dim

    @property
    def image_size(self) -> int:
        return self.vit.patch_embed.img_size[0]

    def use_fused_attention(self, fused: bool) -> None:
        """Fused on CUDA; on a CPU its backward pass takes over half of a training step."""
        for block in self.vit.blocks:
            block.attn.fused_attn = fused

    def adapt(self, layers: Sequence[str], blocks: Sequence[int] | None = None) -> list[Site]:
        """Turn linear layers into sites and return them in the order of the model.

        `layers`: any of `attn.qkv` (or `attn.q`, `attn.k`, `attn.v`, its rows), `attn.proj`,
        `mlp.fc1`, `mlp.fc2`; `blocks`: which of the blocks, all by default. BadInput where the
        model has no such block.
        """
        depth = len(self.vit.blocks)
        chosen = range(depth) if blocks is None else sorted(set(blocks))
        if any(not 0 <= b < depth for b in chosen):
            raise BadInput(
                f"method.blocks is {list(chosen)}, but the ViT has blocks 0 to {depth - 1}"
            )
        parts = sorted(QKV_ROWS[layer] for layer in layers if layer in QKV_ROWS)
        whole = [
            layer for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2") if layer in layers
        ]
        if parts and "attn.qkv" not in whole:
            whole.insert(0, "attn.qkv")
        for b in chosen:
            for layer in whole:
                parent = self.vit.blocks[b].get_submodule(layer.split(".")[0])
                linear = getattr(parent, layer.split(".")[1])
                rows = None
                if layer == "attn.qkv" and parts and "attn.qkv" not in layers:
                    third = linear.out_features // 3
                    rows = torch.cat([torch.arange(p * third, (p + 1) * third) for p in parts])
                site = Site(f"blocks.{b}.{layer}", linear, rows)
                setattr(parent, layer.split(".")[1], site)
                self.sites.append(site)
        return self.sites

    def features(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) normalised floats to (B, d): what timm's own classifier would read, or the
        mean of the prompts' outputs where `Prompts.read` says so."""
        tokens = self.vit.forward_features(pixels)
        if self.prompts is not None and self.prompts.read:
            return self.vit.fc_norm(self.vit.norm(self.prompt_outputs).mean(1)).float()
        return self.vit.forward_head(tokens, pre_logits=True).float()

    @torch.no_grad()
    def frozen_features(self, pixels: Tensor) -> Tensor:
        """`features` of the backbone alone, without update and prompts, whatever is set."""
        kept = [(site.factors, site.folded) for site in self.sites], self.prompts
        self.set_update([None] * len(self.sites), None)
        found = self.features(pixels)
        for site, (site_factors, site_folded) in zip(self.sites, kept[0], strict=True):
            site.factors, site.folded = site_factors, site_folded
        self.set_prompts(kept[1])
        return found

    def set_update(self, factors: Sequence[Factors | None], prompts: Prompts | None) -> None:
        """Give every site its factors for this step, and set the prompts."""
        self.set_prompts(prompts)
        for site, update in zip(self.sites, factors, strict=True):
            site.factors, site.folded = update, None

    def set_prompts(self, prompts: Prompts | None) -> None:
        """Give the input its tokens, and the blocks' attention its prefixes.

        BadInput for a prefix at a block that the ViT has not, or whose attention is not timm's.
        """
        self.prompts = prompts
        prefixes = {} if prompts is None else prompts.prefixes
        if beyond := [b for b in prefixes if not 0 <= b < len(self.vit.blocks)]:
            raise BadInput(
                f"method.blocks has {beyond[0]}, but the ViT has blocks 0 to "
                f"{len(self.vit.blocks) - 1}"
            )
        for number, block in enumerate(self.vit.blocks):
            if number in prefixes and type(block.attn) is Attention and block.attn.gate is None:
                block.attn.__class__ = PrefixAttention  # the same parameters, another forward
            if isinstance(block.attn, PrefixAttention):
                block.attn.prefix = prefixes.get(number)
            elif number in prefixes:
                raise BadInput(
                    f"block {number}'s attention is a {type(block.attn).__name__}; prefixes need "
                    "timm's own Attention, without a gate"
                )

    @torch.no_grad()
    def fold(self) -> None:
        """For inference: form every effective weight once, in the compute type, until the next
        `set_update`."""
        device = self.mean.device.type
        autocast = torch.is_autocast_enabled(device)
        for site in self.sites:
            with torch.autocast(device, enabled=False):  # which would sum it in bfloat16
                weight = site.effective_weight()
            site.folded = weight.to(torch.get_autocast_dtype(device)) if autocast else weight

    @torch.no_grad()
    def merge(self) -> dict[str, Tensor]:
        """A plain timm state dict with the update summed in (in float64) at every site."""
        state = {name: tensor.detach().clone() for name, tensor in self.vit.state_dict().items()}
        for site in self.sites:
            state[f"{site.name}.weight"] = site.effective_weight(torch.float64).clone()
        return state

    # z_0 = [CLS ; P ; registers ; patches], after the position embedding (METHOD section 4).
    def _insert_prompts(self, block: nn.Module, args: tuple) -> tuple | None:
        if self.prompts is None or self.prompts.tokens is None:
            return None
        x, *rest = args
        at = 0 if self.vit.cls_token is None else 1
        P = self.prompts.tokens.to(x.dtype).expand(len(x), -1, -1)
        return (torch.cat([x[:, :at], P, x[:, at:]], dim=1), *rest)

    # Taken out again after the last block, so that pooling and shapes are those of plain timm.
    def _remove_prompts(self, block: nn.Module, args: tuple, x: Tensor) -> Tensor:
        if self.prompts is None or self.prompts.tokens is None:
            return x
        at = 0 if self.vit.cls_token is None else 1
        end = at + self.prompts.tokens.shape[-2]
        self.prompt_outputs = x[:, at:end]
        return torch.cat([x[:, :at], x[:, end:]], dim=1)


def load_vit(backbone: Backbone) -> AdaptedViT:
    """The configured ViT with its pre-trained weights, frozen. BadInput if it cannot be had."""
    if backbone.name == "glyphs-vit":
        vit = VisionTransformer(
            img_size=backbone.image_size or 32,
            patch_size=8,
            embed_dim=128,
            depth=6,
            num_heads=2,
            num_classes=0,
        )
        vit.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        return _with_weights(vit, backbone.weights or GLYPHS_VIT)
    if not timm.is_model(backbone.name):
        raise BadInput(
            f"backbone.name is {backbone.name!r}; allowed: glyphs-vit or the full tag of a timm "
            "ViT, such as vit_tiny_patch16_224.augreg_in21k_ft_in1k"
        )
    size = {"img_size": backbone.image_size} if backbone.image_size else {}
    try:
        vit = timm.create_model(
            backbone.name, pretrained=backbone.weights is None, num_classes=0, **size
        )
    except Exception as error:  # timm and its hub raise many kinds; the user needs one sentence
        raise BadInput(
            f"backbone.name: the weights of {backbone.name} could not be had "
            f"({type(error).__name__}); give a local safetensors file with backbone.weights"
        ) from error
    if not isinstance(vit, VisionTransformer):
        raise BadInput(
            f"backbone.name is {backbone.name!r}, a {type(vit).__name__}; "
            "allowed: models of timm's VisionTransformer class"
        )
    if backbone.weights is not None:
        return _with_weights(vit, backbone.weights)
    model = AdaptedViT(vit)
    digest = hashlib.sha256()
    for name, tensor in vit.state_dict().items():
        if name != "pos_embed":  # resampled to the image size, which the configuration names
            digest.update(name.encode() + tensor.numpy().tobytes())
    model.fingerprint = digest.hexdigest()
    return model


def _with_weights(vit: VisionTransformer, file: Path) -> AdaptedViT:
    load_weights(vit, file)
    model = AdaptedViT(vit)
    model.fingerprint = hashlib.sha256(file.read_bytes()).hexdigest()
    return model


def load_weights(vit: VisionTransformer, file: Path) -> None:
    """Load a safetensors file with timm's names into `vit`, resampling the position grid.

    Classifier tensors are left out. BadInput names the file if it cannot be read, and the tensors
    that differ if it does not fit.
    """
    if not file.is_file():
        raise BadInput(f"backbone.weights: there is no file {file}")
    try:
        state = {k: v.float() for k, v in load_file(file).items() if not k.startswith("head.")}
    except (SafetensorError, OSError) as error:
        raise BadInput(
            f"backbone.weights: {file} is no readable safetensors file ({error})"
        ) from error
    own = vit.state_dict()
    grid, like = state.get("pos_embed"), own.get("pos_embed")
    if grid is not None and like is not None and grid.shape[::2] == like.shape[::2]:
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        patches = max(grid.shape[1] - prefix, 0)
        if patches and math.isqrt(patches) ** 2 == patches:  # else it has other prefix tokens
            state["pos_embed"] = resample_abs_pos_embed(
                grid, vit.patch_embed.grid_size, num_prefix_tokens=prefix
            )
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    differ = (
        [f"{k} is missing" for k in missing]
        + [f"{k} is not in the model" for k in extra]
        + [f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in shapes]
    )
    if differ:
        rest = f" and {len(differ) - 6} more" if len(differ) > 6 else ""
        raise BadInput(f"backbone.weights: {file} does not fit: {'; '.join(differ[:6])}{rest}")
    vit.load_state_dict(state)
