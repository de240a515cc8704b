"""Reading other people's weight files. Nothing is ever unpickled but tensors."""

import re
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import timm
import torch
from timm.models import VisionTransformer

from fmlora_lab import progress
from fmlora_lab.backbone.layouts import State, at_size, find_vit
from fmlora_lab.backbone.weight_files import read_tensors
from fmlora_lab.config import BadInput, some

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Other types need scales that lie elsewhere."""
FEATURES = (
    r"(blocks|encoder|patch_embed|norm|fc_norm|ln_|cls_token|dist_|reg_|register|pos|rope|rel_)"
)
"""How names begin that features depend on: one without its like in the model is no mere extra."""
JAX = r"(|opt/target/|params/|params/img/)embedding/kernel"
JAX_FEATURES = r"(embedding/|cls$|pos_embedding$|Transformer/|conv_root/|gn_root/|block\d)"
SIZES = {
    192: "tiny",
    384: "small",
    512: "medium",
    640: "betwixt",
    768: "base",
    1024: "large",
    1152: "so???m",
    1280: "huge",
    1408: "giant",
    1536: "giant",
    1664: "gigantic",
}
"""What timm calls a ViT of a width."""


def load_weights(vit: VisionTransformer, file: Path) -> None:
    """Load a weight file into `vit`, its position grid resampled: safetensors, PyTorch or NumPy, in
    timm's names or those of Hugging Face, torchvision, CLIP, DINOv2 or JAX (docs/data.md).

    What features do not use, such as a classifier, is left out, and stderr says so once. BadInput
    names the file if it cannot be read, and if it does not fit the tensors that differ, the file's
    own names and the model of timm that it is nearest to; `vit` is then as it was.
    """
    tensors = read_tensors(file)
    if jax := next((match for name in tensors if (match := re.fullmatch(JAX, name))), None):
        state, unused = _from_jax(vit, file, tensors, jax[1])
    else:
        state, unused = _from_torch(vit, file, tensors)
    vit.load_state_dict(state)
    if unused:
        counts = Counter(unused)
        parts = [f"{name} ({n} tensors)" if n > 1 else name for name, n in counts.items()]
        progress.once(f"{file}: left out what features do not use: {some(parts, 8)}")


def _from_torch(vit: VisionTransformer, file: Path, tensors: State) -> tuple[State, list[str]]:
    found = find_vit(tensors)
    if found is None:
        raise BadInput(
            f"backbone.weights: {file} has no ViT of a known layout; its {len(tensors)} tensors "
            f"are {some(list(tensors), 4)}"
        )
    own, state = vit.state_dict(), at_size(found.state, vit)
    extra = [name for name in state if name not in own and not re.match(FEATURES, name)]
    state = {name: tensor for name, tensor in state.items() if name not in extra}
    if differ := _differ(own, state):

        def distance(other: VisionTransformer) -> int:
            return len(_differ(other.state_dict(), at_size(found.state, other)))

        depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        raise _no_fit(file, differ, tensors, found.patch, depth, distance)
    return state, [*found.beside, *(name.split(".")[0] for name in extra)]


def _differ(own: State, state: State) -> list[str]:
    """What keeps a state from being the model's, a sentence a tensor."""
    shared = sorted(own.keys() & state.keys())
    return [
        *(f"{k} is missing" for k in sorted(own.keys() - state.keys())),
        *(f"{k} is not in the model" for k in sorted(state.keys() - own.keys())),
        *(
            f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
            for k in shared
            if own[k].shape != state[k].shape
        ),
        *(
            f"{k} is of type {str(state[k].dtype).removeprefix('torch.')}"
            for k in shared
            if own[k].is_floating_point() and state[k].dtype not in FLOATS
        ),
    ]


def _from_jax(
    vit: VisionTransformer, file: Path, tensors: State, prefix: str
) -> tuple[State, list[str]]:
    """timm's own loader does the work, on a copy; what it leaves as it was is missing."""
    kernel = tensors[f"{prefix}embedding/kernel"]
    patch = tuple(kernel.permute(*range(kernel.ndim)[::-1]).shape)
    block = rf"{prefix}Transformer/encoderblock(?:_(\d+))?/LayerNorm_0/scale"
    depth = sum(
        1 if match[1] else len(tensors[name])
        for name in tensors
        if (match := re.fullmatch(block, name))
    )
    own, copy, differ = vit.state_dict(), deepcopy(vit), []
    for tensor in copy.parameters():
        tensor.data.fill_(torch.nan)
    wanted = tuple(own["patch_embed.proj.weight"].shape) if "patch_embed.proj.weight" in own else ()
    if patch != wanted:
        differ = [f"{prefix}embedding/kernel is {patch[::-1]}, not {wanted[::-1]}"]
    elif depth != len(vit.blocks):
        differ = [f"blocks are {depth}, not {len(vit.blocks)}"]
    else:
        try:
            copy.load_pretrained(str(file))
        except (KeyError, RuntimeError, ValueError, AttributeError) as error:
            differ = [" ".join(str(error).split())]
    state = copy.state_dict()
    differ = differ or [f"{name} is missing" for name in own if state[name].isnan().any()]
    if differ:
        raise _no_fit(file, differ, tensors, patch, depth, lambda vit: abs(len(vit.blocks) - depth))
    names = [name.removeprefix(prefix) for name in tensors]
    features = JAX_FEATURES if vit.attn_pool is None else rf"{JAX_FEATURES}|MAPHead_0/"
    return state, [name.split("/")[0] for name in names if not re.match(features, name)]


def _no_fit(
    file: Path,
    differ: list[str],
    tensors: State,
    patch: tuple[int, ...],
    depth: int,
    distance: Callable[[VisionTransformer], int],
) -> BadInput:
    """What differs, what the file has in its place, and which model of timm has most of that."""
    width, side = patch[0], patch[-1]
    names = timm.list_models(f"vit_{SIZES.get(width)}_patch{side}_*", module="vision_transformer")
    with torch.device("meta"):
        models = [(name, timm.create_model(name, num_classes=0)) for name in names]
    away = {name: distance(vit) for name, vit in models if isinstance(vit, VisionTransformer)}
    nearest = min(away, key=lambda name: away[name], default=None)
    near = f"; the nearest model of timm is {nearest}" if nearest else ""
    return BadInput(
        f"backbone.weights: {file} (width {width}, {depth} blocks, patches of {side}, "
        f"{len(tensors)} tensors: {some(list(tensors), 4)}{near}) does not fit: "
        f"{some(differ, 6, '; ')}"
    )
