"""SLAO (Qiao and Mahdavi, ICLR 2026, arXiv 2512.23017): one adapter is fine-tuned on task after
task, and every result is merged into another of the same size.

    task i begins:  U = U_ft,i-1      V = Q diag(sign(diag R)),  Q R = V_ft,i-1     (U = 0, V drawn
                                                                                     for i = 1)
    training:       W0 + U Vᵀ                       ends with U_ft,i and V_ft,i
    merge:          U_m ← U_m + (U_ft,i − U_m) / √i     V_m ← V_ft,i
    inference:      W0 + U_m V_mᵀ

U (d_out, r) is the paper's B, V (d_in, r) its Aᵀ. U_m, U_ft and V_ft = V_m are all that is kept,
whatever the number of tasks. V_m is the new one under an average of old and new U.

Source: Qiao and Mahdavi 2026, "Merge before Forget: A Single LoRA Continual Learning via Continual
Merging".

Published: Llama-2-7B and 13B, Llama-3-3B on streams of text tasks; made for language models. Rank
and rate were not to be had, nor was the code; the paper calls itself robust to both.

Ours: sites, rank and rate as LoRA's, the scale α/r left at 1, the first V drawn as LoRA's. A task's
training begins from the fine-tuned pair, so that it does not begin where the merged model stands:
up to the first step of a task, and after its end, the model is the merged one; in between,
evaluation sees what would be merged now. What a task is said to have added to the weights, for
analysis, is U_m V_mᵀ after its merge less U_m V_mᵀ before it.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.methods.low_rank.lora import LoRASettings
from fmlora_lab.methods.method import HEAD_RATES, Group, Method, Stage, TaskInfo, register
from fmlora_lab.methods.starts import STARTS, shares_of_starts


class SLAOSettings(LoRASettings):
    name: Literal["slao"] = "slao"  # type: ignore[assignment]


@register(
    SLAOSettings,
    title="SLAO",
    family="low-rank",
    what="one adapter handed on from task to task, merged with 1/√i into another",
    source="Qiao and Mahdavi 2026, ICLR, arXiv 2512.23017",
    since="2025-12",
    search={**HEAD_RATES, "method.lr": (5e-4, 1e-3, 2e-3, 4e-3), "method.rank": (4, 8, 16)},
    search_short={"method.lr": (1e-4, 3e-4, 1e-3)},
    updates="factors",
    ships=STARTS,
    alike=True,
)
class SLAO(Method):
    settings: SLAOSettings

    def __init__(self, settings: SLAOSettings, model: Tower):
        super().__init__(settings, model)
        self.U, self.V = nn.ParameterList(), nn.ParameterList()
        for n, site in enumerate(model.sites):
            r = min(settings.rank, site.d_in)
            self.U.append(torch.zeros(site.d_out, r))
            self.V.append(torch.zeros(site.d_in, r))
            self.register_buffer(f"merged{n}", torch.zeros(site.d_out, r))  # U_m
            # Of the present task, for its record: where U and V began, and V_m before it.
            self.register_buffer(f"U_start{n}", torch.zeros(site.d_out, r))
            self.register_buffer(f"V_start{n}", torch.zeros(site.d_in, r))
            self.register_buffer(f"V_before{n}", torch.zeros(site.d_in, r))
        self.share = 0.0  # of what is learned in what is merged: 1/√i while task i is trained

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        self.index = task.index
        if not task.index:
            for V in self.V:
                V.copy_(torch.randn(V.shape, generator=task.generator) / len(V) ** 0.5)

    @torch.no_grad()
    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        self.share = (self.index + 1) ** -0.5
        for n, (U, V) in enumerate(zip(self.U, self.V, strict=True)):
            getattr(self, f"V_before{n}").copy_(V)
            if self.index:
                V.copy_(orthonormal(V))
            getattr(self, f"U_start{n}").copy_(U)
            getattr(self, f"V_start{n}").copy_(V)

    def factors(self, query: Tensor | None = None) -> list[Factors]:
        pairs = enumerate(zip(self.U, self.V, strict=True))
        return [Factors(U if self.training else self._merged(n), None, V) for n, (U, V) in pairs]

    def groups(self) -> list[Group]:
        return [Group([*self.U, *self.V], self.settings.lr)]

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        sides, record = [], {}
        for n, (site, V) in enumerate(zip(self.model.sites, self.V, strict=True)):
            before, merged = getattr(self, f"merged{n}"), self._merged(n)
            start = getattr(self, f"U_start{n}") if self.index else None  # the first is zero
            sides.append(((merged, start), (V, getattr(self, f"V_start{n}"))))
            record[f"U.{site.name}"] = torch.cat([merged, -before], dim=1)
            record[f"V.{site.name}"] = torch.cat([V, getattr(self, f"V_before{n}")], dim=1)
            before.copy_(merged)
        self.share = 0.0
        return shares_of_starts(sides) | record

    def kept(self) -> int:
        merged = sum(getattr(self, f"merged{n}").numel() for n in range(len(self.U)))
        return merged + sum(p.numel() for p in (*self.U, *self.V))

    def _merged(self, n: int) -> Float[Tensor, "o r"]:
        """U_m at site n if the task ended now; as it is between tasks."""
        merged = getattr(self, f"merged{n}")
        return merged + self.share * (self.U[n] - merged)


def orthonormal(V: Float[Tensor, "i r"]) -> Float[Tensor, "i r"]:
    """An orthonormal basis of V's columns, each on the side of the column that it comes from."""
    Q, R = torch.linalg.qr(V)
    return Q * torch.where(R.diagonal() < 0, -1.0, 1.0).to(Q)
