"""O-LoRA: a LoRA a task that reads from other directions than all before it (Wang et al. 2023,
EMNLP Findings, arXiv 2310.14152).

    W_t = W_{t-1} + U_t V_tᵀ        U_t (d_out, r) from zero, V_t (d_in, r) Gaussian, std 1/√d_in
    L   = CE + λ1 Σ_sites Σ_{k<t} Σ |V_kᵀ V_t| + λ2 Σ_sites (‖U_t‖_F + ‖V_t‖_F)

Their A is our Vᵀ, their B our U. Earlier V_k are frozen, so the second term moves V_t alone; its
sum is over the entries of every V_kᵀ V_t. What all tasks added is in the weight; the V_k are kept
for the loss and grow with every task.

Published: q and v of T5-large (as in LoRA's own code), rank 8, λ1 0.5 and λ2 0 (for 15 tasks 0.5
to 5 and 0 to 0.3), learning rate 1e-3, one epoch, α/r 4, dropout 0.1. Made for language models.

Ours: α/r is 1 and there is no dropout, as in every method here. V starts Gaussian as in `lora`, in
the code (cmnfriend/O-LoRA) Kaiming-uniform, which is √3 times smaller. With the loss summed over
entries and sites as released, λ1 has to be seen beside the number of both. The optimiser is AdamW,
the rate falls along a cosine.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fmlora_lab.backbone.tower import Tower
from fmlora_lab.methods.low_rank.lora import LoRA, LoRASettings
from fmlora_lab.methods.method import HEAD_RATES, Batch, register
from fmlora_lab.methods.starts import STARTS


class OLoRASettings(LoRASettings):
    name: Literal["o-lora"] = "o-lora"
    orthogonality: float = Field(default=0.5, ge=0)
    """λ1, of what V_t shares with the old V_k."""
    norms: float = Field(default=0.0, ge=0)
    """λ2, of the norms of U_t and V_t."""


@register(
    OLoRASettings,
    title="O-LoRA",
    family="low-rank",
    what="one adapter a task, held orthogonal to what earlier ones read from",
    source="Wang et al. 2023, EMNLP Findings, arXiv 2310.14152",
    since="2023-10",
    paper={
        "method.layers": ["attn.q", "attn.v"],
        "method.rank": 8,
        "method.lr": 1e-3,
        "method.orthogonality": 0.5,
    },
    search={
        **HEAD_RATES,
        "method.lr": (5e-4, 1e-3, 2e-3, 4e-3),
        "method.rank": (4, 8, 16),
        "method.orthogonality": (0.005, 0.05, 0.5),
    },
    search_short={"method.lr": (1e-4, 3e-4, 1e-3)},
    updates="factors",
    ships=STARTS,
    alike=True,
)
class OLoRA(LoRA):
    settings: OLoRASettings

    def __init__(self, settings: OLoRASettings, model: Tower):
        super().__init__(settings, model)
        for s, site in enumerate(model.sites):  # of all earlier tasks, side by side
            self.register_buffer(f"old_V{s}", torch.zeros(site.d_in, 0))

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        if self._old(0).shape[1]:
            shared = [(self._old(s).T @ V).abs().sum() for s, V in enumerate(self.V)]
            loss = loss + self.settings.orthogonality * torch.stack(shared).sum()
        if self.settings.norms:
            norms = torch.stack([p.norm() for p in (*self.U, *self.V)])
            loss = loss + self.settings.norms * norms.sum()
        return loss

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        for s, V in enumerate(self.V):
            setattr(self, f"old_V{s}", torch.cat([self._old(s), V], dim=1))
        return super().end_task()

    def kept(self) -> int:
        return sum(self._old(s).numel() for s in range(len(self.V)))

    def _old(self, s: int) -> Tensor:
        return getattr(self, f"old_V{s}")
