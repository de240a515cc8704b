"""An image and a text tower as one: sites in every block of both, classes told by their texts.

Adapted from outside, as a ViT is: q, k, v, output and both layers of the MLP of timm's blocks or of
open_clip's, by the same operation. A router reads a text where it reads an image, at the first
token. Prompts enter the image tower. The plain state dict keeps the network's own names.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from safetensors import safe_open
from torch import Tensor, nn

from fmlora_lab.backbone.glyphs_clip import GLYPHS_CLIP, SCALE_LIMIT, GlyphsCLIP
from fmlora_lab.backbone.sites import Prompts, Site
from fmlora_lab.backbone.tower import Tower, tower
from fmlora_lab.backbone.vit import check_size
from fmlora_lab.backbone.weight_files import read_tensors
from fmlora_lab.config import Backbone, BadInput, some

THIRDS = ("attn.q", "attn.k", "attn.v")
NAMES = {
    "Block": {"attn.proj": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"},
    "ResidualAttentionBlock": {
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    },
}
"""By the kind of block, timm's and open_clip's, what it calls the layers that are sites."""


class Thirds(nn.Module):
    """A fused qkv as three layers, which may be sites: each with an update of its own."""

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        biases = (None,) * 3 if bias is None else bias.detach().chunk(3)
        for name, W, b in zip("qkv", weight.detach().chunk(3), biases, strict=True):
            linear = nn.utils.skip_init(nn.Linear, W.shape[1], W.shape[0], bias=b is not None)
            linear.weight = nn.Parameter(W.clone(), requires_grad=False)
            if b is not None:
                linear.bias = nn.Parameter(b.clone(), requires_grad=False)
            setattr(self, name, linear)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


class OpenAttention(nn.Module):
    """PyTorch's multi-head attention with layers that can be sites: `qkv` and `out_proj`."""

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.heads = attention.num_heads
        self.qkv = Thirds(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj = attention.out_proj

    def forward(self, x: Tensor, *_: Any, attn_mask: Tensor | None = None, **__: Any) -> tuple:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(y.transpose(1, 2).flatten(2)), None


class TwoTowers(Tower):
    """A network with `encode_image`, `encode_text`, `logit_scale`, and blocks in both towers."""

    network: Any
    reads_text = True
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: Any,
        tokenize: Callable[[Sequence[str]], Tensor],
        width: int,
        image_size: int,
        mean: Sequence[float] = (0.5,) * 3,
        std: Sequence[float] = (0.5,) * 3,
    ):
        """BadInput for a tower that has no blocks whose layers are known."""
        super().__init__(network)
        self.tokenize, self._width, self._image_size = tokenize, width, image_size
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)
        blocks = {n: m for n, m in network.named_modules() if type(m).__name__ in NAMES}
        self.blocks = {
            part: [name for name in blocks if name.startswith("visual.") == (part == "image")]
            for part in ("image", "text")
        }
        if lacking := [part for part, found in self.blocks.items() if not found]:
            raise BadInput(
                f"backbone.name: the {lacking[0]} tower, a {type(network).__name__}'s, has no "
                f"blocks that can be adapted; allowed: {' and '.join(NAMES)}"
            )
        self.fused: dict[str, str] = {}  # where a fused qkv was, and its plain name
        of_image = [blocks[name] for name in self.blocks["image"]]
        self.prompts_enter(of_image[0], of_image[-1], 1)

    @property
    def width(self) -> int:
        return self._width

    @property
    def token_width(self) -> int:
        name = self.blocks["image"][0]
        known = NAMES[type(self.network.get_submodule(name)).__name__]["mlp.fc1"]
        return self.network.get_submodule(f"{name}.{known}").in_features

    @property
    def image_size(self) -> int:
        return self._image_size

    def pixels_in(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
        x, size = pixels.float() / 255, self.image_size
        if x.shape[-1] != size:
            x = F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        return (x - self.mean) / self.std

    def features(self, pixels: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B d"]:
        """Unit vectors. BadInput where they would be the mean of the prompts' outputs."""
        if self.prompts is not None and self.prompts.read:
            raise BadInput("method.read: of two towers the image's features are read at [CLS]")
        return F.normalize(self.network.encode_image(pixels).float(), dim=-1)

    def tokens(self, texts: Sequence[str]) -> Int64[Tensor, "n L"]:
        return self.tokenize(list(texts))

    def text_features(self, tokens: Int64[Tensor, "n L"]) -> Float[Tensor, "n d"]:
        return F.normalize(self.network.encode_text(tokens).float(), dim=-1)

    @property
    def scale(self) -> Float[Tensor, ""]:
        return self.network.logit_scale.clamp(max=SCALE_LIMIT).exp().squeeze()

    def set_prompts(self, prompts: Prompts | None) -> None:
        """BadInput for prefixes."""
        if prompts is not None and prompts.prefixes:
            raise BadInput("two towers take prompts as tokens, not as prefixes of attention")
        super().set_prompts(prompts)

    def adapt(self, layers: Sequence[str], blocks: Sequence[int] | None = None) -> list[Site]:
        """`layers`: any of `attn.qkv`, which stands for q, k and v, each a site of its own here,
        `attn.q`, `attn.k`, `attn.v`, `attn.proj`, `mlp.fc1`, `mlp.fc2`; `blocks`: which of each
        tower's, all by default. Sites come in the order of the image tower, then of the text
        tower."""
        depth = max(map(len, self.blocks.values()))
        if blocks is not None and (beyond := [b for b in blocks if not 0 <= b < depth]):
            raise BadInput(
                f"method.blocks has {beyond[0]}, but the towers have blocks 0 to {depth - 1}"
            )
        thirds = [third for third in THIRDS if {"attn.qkv", third} & set(layers)]
        for part in self.blocks.values():
            for number, name in enumerate(part):
                if blocks is not None and number not in blocks:
                    continue
                block = self.network.get_submodule(name)
                known = NAMES[type(block).__name__]
                if "attn.proj" in layers or thirds:
                    self._split(block, name)
                for layer in thirds:
                    self._site(f"{name}.attn.qkv.{layer[-1]}")
                for layer in ("attn.proj", "mlp.fc1", "mlp.fc2"):
                    if layer in layers:
                        self._site(f"{name}.{known[layer]}")
        return self.sites

    def _split(self, block: Any, name: str) -> None:
        """Give a block's attention q, k and v as layers."""
        if isinstance(block.attn, nn.MultiheadAttention):
            self.fused[f"{name}.attn.qkv"] = f"{name}.attn.in_proj_"
            block.attn = OpenAttention(block.attn)
        else:
            self.fused[f"{name}.attn.qkv"] = f"{name}.attn.qkv."
            block.attn.qkv = Thirds(block.attn.qkv.weight, block.attn.qkv.bias)

    def _site(self, name: str) -> None:
        parent, leaf = name.rsplit(".", 1)
        owner = self.network.get_submodule(parent)
        self.sites.append(Site(name, getattr(owner, leaf), None))
        setattr(owner, leaf, self.sites[-1])

    @torch.no_grad()
    def merge(self) -> dict[str, Tensor]:
        state = super().merge()
        for path, plain in self.fused.items():
            for kind in ("weight", "bias"):
                parts = [f"{path}.{third}.{kind}" for third in "qkv"]
                if parts[0] in state:
                    state[plain + kind] = torch.cat([state.pop(part) for part in parts])
        return state


@tower("glyphs-clip", weights=GLYPHS_CLIP)
def glyphs_clip(backbone: Backbone) -> TwoTowers:
    """The small CLIP that ships with the lab."""
    file = backbone.weights or GLYPHS_CLIP
    if file.suffix != ".safetensors":
        raise BadInput(
            f"backbone.weights is {file}; glyphs-clip needs a .safetensors file of its own"
        )
    state = read_tensors(file)
    with safe_open(file, "pt") as opened:
        vocabulary = (opened.metadata() or {}).get("vocabulary")
    if vocabulary is None:
        raise BadInput(f"{file} has no vocabulary beside its weights: it is no glyphs-clip")
    network = GlyphsCLIP(vocabulary.split(), backbone.image_size or 32)
    check_size(network.visual, backbone)
    _fill(network, {name: tensor.float() for name, tensor in state.items()}, file)
    return _known(TwoTowers(network, network.words, 128, backbone.image_size or 32), file)


@tower("open_clip")
def open_clip_towers(backbone: Backbone) -> TwoTowers:
    """A model of open_clip by `open_clip:MODEL` or, with the hub's weights, `open_clip:MODEL/TAG`;
    its normalisation, size and tokenizer are its own."""
    try:
        import open_clip
    except ImportError as error:
        raise BadInput(
            f"backbone.name is {backbone.name!r}, for which open_clip is needed: "
            "pip install 'fmlora-lab[clip]'"
        ) from error
    model, _, tag = backbone.name.removeprefix("open_clip:").partition("/")
    known, tags = open_clip.list_models(), open_clip.list_pretrained_tags_by_model(model)
    if model not in known:
        near = [name for name in known if name.lower().startswith(model.lower()[:5])] or known
        raise BadInput(f"backbone.name: open_clip has no model {model!r}; it has {some(near)}")
    if backbone.weights is None and tag not in tags:
        raise BadInput(
            f"backbone.name is {backbone.name!r}; give a local file with backbone.weights, or name "
            f"what the hub has as open_clip:{model}/TAG, TAG being one of {some(tags)}"
        )
    options: dict[str, Any] = {} if backbone.weights else {"pretrained": tag}
    if backbone.image_size is not None:
        options["force_image_size"] = backbone.image_size
    logging.disable(logging.WARNING)  # that weights are random until the file's take their place
    try:
        network: Any = open_clip.create_model(model, load_weights=not backbone.weights, **options)
    except Exception as error:  # open_clip and its hub raise many kinds
        raise BadInput(
            f"backbone.name: {backbone.name} could not be had ({type(error).__name__}: {error}); "
            "give a local file with backbone.weights"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    if backbone.weights is not None:
        _fill(network, read_tensors(backbone.weights), backbone.weights)
    visual: Any = network.visual
    shape = visual.image_size
    with torch.no_grad():
        tokenize: Any = open_clip.get_tokenizer(model)
        width = network.encode_text(tokenize(["."])).shape[1]
    side = shape[0] if isinstance(shape, tuple) else shape
    found = TwoTowers(network, tokenize, width, side, visual.image_mean, visual.image_std)
    return _known(found, backbone.weights)


def _fill(network: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    """Load a plain state dict. BadInput names the file and what does not fit."""
    own = network.state_dict()
    wrong = [n for n, t in own.items() if n not in state or state[n].shape != t.shape]
    if wrong:
        raise BadInput(
            f"{file} does not fit: {len(wrong)} of {len(own)} tensors are missing or of another "
            f"shape, first {wrong[0]}"
        )
    network.load_state_dict({name: state[name] for name in own})


def _known(model: TwoTowers, file: Path | None) -> TwoTowers:
    """With its fingerprint: of the file, or of the weights."""
    digest = hashlib.sha256()
    if file is not None:
        with file.open("rb") as opened:
            model.fingerprint = hashlib.file_digest(opened, "sha256").hexdigest()
        return model
    for name, tensor in model.network.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    model.fingerprint = digest.hexdigest()
    return model
