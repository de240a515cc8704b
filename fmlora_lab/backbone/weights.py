"""Reading other people's weight files. Nothing is ever unpickled."""

import math
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import VisionTransformer

from fmlora_lab.config import BadInput


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
