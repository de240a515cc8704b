"""A small CLIP of open_clip whose every number comes from NumPy by its name."""

import zlib

import numpy as np
import pytest
import torch

from fmlora_lab.backbone.two_towers import TwoTowers


def numbers(name: str, shape) -> torch.Tensor:
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    return torch.from_numpy(draw.standard_normal(tuple(shape)))


def small_clip(layers: int = 2, side: int = 32, patch: int = 8, vocabulary: int = 100, context=8):
    """In evaluation mode; its features are 8 wide. Skips where open_clip is not installed."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: [clip]")
    model = open_clip.model
    net = model.CLIP(
        8,
        model.CLIPVisionCfg(
            layers=layers, width=64, head_width=64, patch_size=patch, image_size=side
        ),
        model.CLIPTextCfg(
            context_length=context, vocab_size=vocabulary, width=64, heads=1, layers=layers
        ),
        quick_gelu=True,
    )
    state = net.state_dict()
    for name, tensor in state.items():
        x = numbers(name, tensor.shape)
        if name == "logit_scale":
            x = torch.tensor(np.log(20.0))
        elif tensor.ndim > 1:
            x = x / tensor.shape[-1] ** 0.5
        else:
            x = 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
        state[name] = x
    net.load_state_dict(state)
    return net.eval()


def towers(net, side: int = 32) -> TwoTowers:
    return TwoTowers(net, tokens_of, 8, side)


def tokens_of(texts: list[str]) -> torch.Tensor:
    """A start, a token a letter of the last three, an end."""
    rows = [[98, *(ord(c) % 90 + 1 for c in text[-3:].rjust(3)), 99, 0, 0, 0] for text in texts]
    return torch.tensor(rows)
