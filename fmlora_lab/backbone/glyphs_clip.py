"""glyphs-clip: a small CLIP that ships with the lab, for characters and their Unicode names.

    f = P_i ViT(x)        g = P_t Text(w)_end        logit = s f · g / (‖f‖ ‖g‖)

The image tower has the shape of glyphs-vit, the text tower is four causal blocks over words, read
at the end token. `benchmarks/glyphs/pretrain_clip.py` made it.
Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision", ICML, arXiv 2103.00020, section 2.3.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from fmlora_lab.backbone.words import Words

GLYPHS_CLIP = Path(__file__).parent / "assets" / "glyphs-clip.safetensors"
WIDTH, CONTEXT = 128, 20
SCALE_LIMIT = math.log(100)
"""The learned temperature 1/s is not below a hundredth, as in CLIP."""


class GlyphsCLIP(nn.Module):
    """Both towers and the temperature. Features (·, 128) are not yet of length 1, and names are
    those of open_clip's models."""

    def __init__(self, vocabulary: Sequence[str], image_size: int = 32):
        super().__init__()
        self.words = Words(vocabulary, CONTEXT)
        self.visual = VisionTransformer(
            img_size=image_size,
            patch_size=8,
            embed_dim=WIDTH,
            depth=6,
            num_heads=2,
            num_classes=0,
        )
        self.visual_projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self.token_embedding = nn.Embedding(self.words.end + 1, WIDTH)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(CONTEXT, WIDTH))
        self.text = nn.Sequential(*(Block(WIDTH, 2, qkv_bias=True) for _ in range(4)))
        self.text_norm = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def encode_image(self, pixels: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B d"]:
        return self.visual_projection(self.visual(pixels))

    def encode_text(self, tokens: Int64[Tensor, "n L"]) -> Float[Tensor, "n d"]:
        x = self.token_embedding(tokens) + self.positional_embedding
        for block in self.text:
            x = block(x, is_causal=True)
        x = self.text_norm(x)[torch.arange(len(x)), tokens.argmax(-1)]
        return self.text_projection(x)
