"""Where the ViT is among a file's tensors, and which names it goes by: prefixes that wrappers leave
come off, query, key and value are joined, the position grid is resampled.

timm's `checkpoint_filter_fn` is not asked: it knows few of these names, and it makes files of
another patch size fit without a word.
"""

import math
import re
from typing import NamedTuple

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import VisionTransformer
from torch import Tensor

State = dict[str, Tensor]


class Layout(NamedTuple):
    """Names that a ViT goes by outside timm."""

    patch: str
    """What cuts the patches. Whatever stands before it in the file is a prefix of all names."""
    renames: tuple[tuple[str, str], ...]
    """Pattern and replacement, one after the other."""


QKV = tuple((rf"\.{name}\.", f".{name[0]}.") for name in ("query", "key", "value"))
TIMM = Layout(
    r"patch_embed\.(?:proj|backbone\.0\.conv)\.weight",
    (  # and DINOv2's release: blocks in chunks, other names for a gated MLP
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
        (r"\.gamma_(\d)$", r".ls\1.gamma"),
        (r"\.mlp\.w12\.", ".mlp.fc1."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
    ),
)
HUGGING_FACE = Layout(  # ViT, DeiT, MAE, MSN, DINOv2 with and without registers
    r"embeddings\.patch_embeddings\.projection\.weight",
    (
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.distillation_token$", "dist_token"),
        (r"^embeddings\.", ""),
        (r"^encoder\.layer\.", "blocks."),
        (r"^layernorm\.", "norm."),
        (r"\.attention\.attention\.", ".attn."),
        *QKV,
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.weights_in\.", ".mlp.fc1."),
        (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    ),
)
HUGGING_FACE_CLIP = Layout(  # and SigLIP
    r"embeddings\.patch_embedding\.weight",
    (
        (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
        (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
        (r"^embeddings\.class_embedding$", "cls_token"),
        (r"^encoder\.layers\.", "blocks."),
        (r"^pre_layrnorm\.", "norm_pre."),
        (r"^post_layernorm\.", "norm."),
        (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
        (r"\.self_attn\.out_proj\.", ".attn.proj."),
        (r"\.layer_norm(\d)\.", r".norm\1."),
        (r"^head\.probe$", "attn_pool.latent"),
        (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
        (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
        (r"^head\.layernorm\.", "attn_pool.norm."),
        (r"^head\.mlp\.", "attn_pool.mlp."),
    ),
)
TORCHVISION = Layout(
    r"conv_proj\.weight",
    (
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^class_token$", "cls_token"),
        (r"^encoder\.pos_embedding$", "pos_embed"),
        (r"^encoder\.layers\.encoder_layer_", "blocks."),
        (r"^encoder\.ln\.", "norm."),
        (r"\.ln_(\d)\.", r".norm\1."),
        (r"\.self_attention\.in_proj_", ".attn.qkv."),
        (r"\.self_attention\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.(?:linear_1|0)\.", ".mlp.fc1."),
        (r"\.mlp\.(?:linear_2|3)\.", ".mlp.fc2."),
    ),
)
OPENAI_CLIP = Layout(
    r"(?:visual\.)?conv1\.weight",
    (
        (r"^visual\.", ""),
        (r"^conv1\.", "patch_embed.proj."),
        (r"^positional_embedding$", "pos_embed"),
        (r"^class_embedding$", "cls_token"),
        (r"^transformer\.resblocks\.", "blocks."),
        (r"^ln_pre\.", "norm_pre."),
        (r"^ln_post\.", "norm."),
        (r"\.ln_(\d)\.", r".norm\1."),
        (r"\.attn\.in_proj_", ".attn.qkv."),
        (r"\.attn\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.c_fc\.", ".mlp.fc1."),
        (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    ),
)
LAYOUTS = (TIMM, HUGGING_FACE, HUGGING_FACE_CLIP, TORCHVISION, OPENAI_CLIP)

WRAPPERS = r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
"""What compiling and sharding leave anywhere in a name."""
FIRST, LAST = r"(^|[._])ema([._]|$)|teacher", r"student|momentum|target|decoder|predictor|text"
"""Of several ViTs in a file: averaged weights come first, as in timm's loader; what only serves
training comes last."""


class Found(NamedTuple):
    """The ViT in a file."""

    state: State
    """In timm's names, as far as the layout has a name for them."""
    patch: tuple[int, ...]
    """Shape of what cuts the patches: (d, 3, p, p)."""
    beside: list[str]
    """What the file has besides, by the part of the name that tells it from the ViT's."""


def find_vit(tensors: State) -> Found | None:
    """The ViT among the tensors, whatever stands before its names; None where there is none of a
    known layout."""
    plain = {re.sub(WRAPPERS, "", name): tensor for name, tensor in tensors.items()}
    places = [
        (match[1], match[2], layout)
        for name in plain
        for layout in LAYOUTS
        if (match := re.fullmatch(rf"(|.*?\.)({layout.patch})", name))
    ]
    for prefix, patch, layout in sorted(places, key=lambda place: _rank(place[0])):
        inside = {k.removeprefix(prefix): v for k, v in plain.items() if k.startswith(prefix)}
        state = _renamed(inside, layout)
        if any(name.startswith("blocks.") for name in state):
            beside = [_parting(name, prefix) for name in plain if not name.startswith(prefix)]
            return Found(state, tuple(inside[patch].shape), beside)
    return None


def _rank(prefix: str) -> int:
    return 0 if re.search(FIRST, prefix) else 2 if re.search(LAST, prefix) else 1


def _parting(name: str, prefix: str) -> str:
    """The name up to where it parts from the prefix."""
    parts, shared = name.split("."), prefix.split(".")
    same = next((i for i, part in enumerate(parts) if part != shared[i]), len(parts))
    return ".".join(parts[: same + 1])


def _renamed(state: State, layout: Layout) -> State:
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in layout.renames:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    for name in [name for name in renamed if re.search(r"\.attn\.q\.(weight|bias)$", name)]:
        apart = [name.replace(".q.", f".{part}.") for part in "qkv"]
        if all(part in renamed for part in apart):
            fused = torch.cat([renamed.pop(part) for part in apart])
            renamed[name.replace(".q.", ".qkv.")] = fused
    for kind in ("weight", "bias"):  # timm's pooling has a query of its own
        if (fused := renamed.pop(f"attn_pool.qkv.{kind}", None)) is not None:
            q, k, v = fused.chunk(3)
            renamed |= {f"attn_pool.q.{kind}": q, f"attn_pool.kv.{kind}": torch.cat([k, v])}
    for name in ("cls_token", "pos_embed"):  # CLIP has them without the batch's axis
        if name in renamed:
            renamed[name] = renamed[name].reshape(1, -1, renamed[name].shape[-1])
    return renamed


def at_size(state: State, vit: VisionTransformer) -> State:
    """The state with its position grid resampled to the model's, where its tokens are the model's.

    DINOv2 adds a position to [CLS] and none to registers; timm's model has that sum in [CLS].
    """
    state = dict(state)
    if vit.no_embed_class and {"register_tokens", "cls_token", "pos_embed"} <= state.keys():
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    grid, like = state.get("pos_embed"), vit.pos_embed
    if grid is not None and like is not None and grid.shape[::2] == like.shape[::2]:
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        patches = max(grid.shape[1] - prefix, 0)
        if patches and math.isqrt(patches) ** 2 == patches:  # else it has other prefix tokens
            state["pos_embed"] = resample_abs_pos_embed(
                grid.float(), vit.patch_embed.grid_size, num_prefix_tokens=prefix
            )
    return state
