"""N-LoRA: a LoRA a task whose update changes few numbers of a weight, so that tasks rarely change
the same ones (Yang et al. 2025, COLING, arXiv 2410.10179).

    W_t = W_{t-1} + U_t V_tᵀ        U_t (d_out, r) from zero, V_t (d_in, r) Gaussian, std 1/√d_in
    L   = CE + λ Σ_sites mean |U_t V_tᵀ|

The mean is over the d_out · d_in entries of the product. No orthogonality is asked for: updates
without common entries are orthogonal. How many entries two tasks have in common is the collision
rate (`analysis.collision`).

Published: T5-large, λ 0.4 to 1.8 (0.4 for four tasks), learning rate 5e-4 to 1e-3, 10 epochs, batch
48 or 32, α/r 4. Made for language models, on O-LoRA's code.

Ours: the mean where the paper has a sum. A sum over a weight of 768 × 768 is 6e5 times as much, so
a λ of the sum could not go from one width to another; divide ours by d_out · d_in for theirs. The
released code (PKU-YuanGroup/N-LoRA) multiplies the factors in the other order: what it sums are
the r × r numbers of |V_tᵀ U_t|, of square weights alone, which are not the update; here it is the
paper's product, and λ was chosen anew: on Glyphs (width 128) two tasks' updates share 90% of their
entries with λ = 1, 72% with 10 and 49% with 100, as O-LoRA's share 91%. α/r is 1, no dropout, V
starts Gaussian, as in `lora`.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fmlora_lab.methods.low_rank.lora import LoRA, LoRASettings
from fmlora_lab.methods.method import HEAD_RATES, Batch, register
from fmlora_lab.methods.starts import STARTS


class NLoRASettings(LoRASettings):
    name: Literal["n-lora"] = "n-lora"
    sparsity: float = Field(default=10.0, ge=0)
    """λ, of the mean size of an entry of the update."""


@register(
    NLoRASettings,
    title="N-LoRA",
    family="low-rank",
    what="one adapter a task, whose update changes few numbers of a weight",
    source="Yang et al. 2025, COLING, arXiv 2410.10179",
    since="2024-10",
    paper={"method.layers": ["attn.q", "attn.v"], "method.rank": 8, "method.lr": 1e-3},
    search={
        **HEAD_RATES,
        "method.lr": (5e-4, 1e-3, 2e-3, 4e-3),
        "method.rank": (4, 8, 16),
        "method.sparsity": (1.0, 10.0, 100.0),
    },
    search_short={"method.lr": (1e-4, 3e-4, 1e-3)},
    updates="factors",
    ships=STARTS,
    alike=True,
)
class NLoRA(LoRA):
    settings: NLoRASettings

    def loss(self, batch: Batch) -> Tensor:
        sizes = [(U @ V.T).abs().mean() for U, V in zip(self.U, self.V, strict=True)]
        return super().loss(batch) + self.settings.sparsity * torch.stack(sizes).sum()
