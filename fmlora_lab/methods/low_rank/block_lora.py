"""Block-LoRA: one down-projection, the head, that all n blocks of up-projections, the arms, share.

    reading "sum":   W_t = W_{t-1} + (B_1 + … + B_n) A        B_i (d_out, r/n) from zero
    reading "rows":  W_t = W_{t-1} + [B_1; …; B_n] A          B_i (d_out/n, r/n): rows of part i
    both:            A (r/n, d_in) Gaussian with std 1/√d_in; here U = ΣB_i or [B_i], V = Aᵀ

Source: Zhou et al. 2025, "One Head Eight Arms: Block Matrix based Low Rank Adaptation for
CLIP-based Few-Shot Learning", arXiv 2501.16720. Of LoRA's r columns in n blocks, n products
B_i (A x) with one A are a sum of the B_i and one product: the rank is at most r/n, and
d_in r/n + d_out r numbers are learned in place of (d_in + d_out) r.

What n arms do that one does not: nothing for what can be expressed, since only their sum is used.
All get the same gradient and begin at zero, so they stay equal, and their sum is one matrix trained
at n times the learning rate, with its weight decay divided by n. "rows" is plain LoRA of rank r/n
to the last bit, whatever the parts: with an A that all share, blocks of rows are rows.

Published: made for CLIP with few images a class, trained on ImageNet on one GPU of 24 GB. Only the
abstract was to be had; rank and rate are not known, the eight arms are the title's, and no code
was found.

Ours: the readings, of which the abstract's words fit the first (products become additions, fewer
numbers); one adapter a task, merged into the weight as it ends; the scale α/r left at 1. Any A of
r/n rows that all blocks share leaves the rank at r/n, so the default r is n times a LoRA's of
rank 4; and as the sum learns n times as fast, rates are smaller than a LoRA's.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.methods.low_rank.lora import LoRA, LoRASettings
from fmlora_lab.methods.method import HEAD_RATES, register
from fmlora_lab.methods.starts import STARTS


class BlockLoRASettings(LoRASettings):
    name: Literal["block-lora"] = "block-lora"  # type: ignore[assignment]
    rank: int = Field(default=32, ge=1)
    """r, the columns of all blocks together; the update has rank r / `heads` at most."""
    lr: float = Field(default=2.5e-4, gt=0)
    """Learning rate of A and of each B_i; their sum learns n times as fast."""
    heads: int = Field(default=8, ge=1)
    """n, the number of blocks."""
    reading: Literal["sum", "rows"] = "sum"
    """Whether blocks add up, or each has output rows of its own (see above)."""

    @model_validator(mode="after")
    def _blocks_of_whole_columns(self) -> "BlockLoRASettings":
        if self.rank % self.heads:
            raise ValueError(
                f"method.rank is {self.rank}, which {self.heads} blocks of method.heads do not "
                "divide into whole columns"
            )
        return self


@register(
    BlockLoRASettings,
    title="Block-LoRA",
    family="low-rank",
    what="one down-projection for all blocks of up-projections, merged after each task",
    source="Zhou et al. 2025, arXiv 2501.16720",
    since="2025-01",
    search={**HEAD_RATES, "method.lr": (1.2e-4, 2.5e-4, 5e-4, 1e-3), "method.rank": (8, 32, 64)},
    search_short={"method.lr": (3e-5, 8e-5, 2.5e-4)},
    updates="factors",
    ships=STARTS,
    alike=True,
)
class BlockLoRA(LoRA):
    settings: BlockLoRASettings

    def __init__(self, settings: BlockLoRASettings, model: Tower):
        super().__init__(settings, model)
        width = settings.rank // settings.heads
        arms = settings.heads if settings.reading == "sum" else 1  # blocks of rows, stacked, are U
        self.U = nn.ParameterList(torch.zeros(arms, s.d_out, width) for s in model.sites)
        self.V = nn.ParameterList(torch.zeros(s.d_in, width) for s in model.sites)

    def factors(self, query: Tensor | None = None) -> list[Factors]:
        return [Factors(arms.sum(0), None, V) for arms, V in zip(self.U, self.V, strict=True)]
