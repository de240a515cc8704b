"""Ortho-LoRA: where two losses pull a LoRA apart, each gradient loses what opposes the other.

    W_t = W_{t-1} + U_t V_tᵀ                       two losses: the task's L_1, and L_2 = λ D
    D = mean (f(x) - f₀(x))²                       f₀: features as they were when the task began
    g_i ← g_i - min(⟨g_1, g_2⟩, 0) g_j / ‖g_j‖²    for U and V of each site apart; then g_1 + g_2

Source: Yang et al. 2026, "Disentangling Task Conflicts in Multi-Task LoRA via Orthogonal Gradient
Projection", arXiv 2601.09684, on the projection of Yu et al. 2020, "Gradient Surgery for Multi-Task
Learning" (PCGrad), NeurIPS, arXiv 2001.06782. It was made for many tasks that one LoRA learns at
once, and keeps their gradients from opposing each other on the factors A and B apart
("bipartite"). It is not a method of continual learning.

Published: GLUE, all tasks together; recovers 95% of what multi-task training loses to one model a
task. Rank and rate were not to be had, nor code.

Ours: the use for one task after another. An earlier task's loss cannot be had without its images,
so the second loss keeps the current images' features where they were when the task began: D is
their mean squared distance, over images and dimensions, whatever the head. As earlier updates are
merged into the weight, f₀ is the network without the present update: a forward pass more in each
step, and a second backward pass, none at inference. The first task has nothing to keep, and its
step is plain. Projection is by site, which implies that over all sites; of two losses each is
projected against the other as it was, so no order has to be drawn. The head learns by L_1 alone.
Without the projection it is `low_rank.still_lora`.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fmlora_lab.methods.low_rank.still_lora import StillLoRA, StillLoRASettings
from fmlora_lab.methods.method import HEAD_RATES, Batch, StepBatch, register
from fmlora_lab.methods.starts import STARTS


class OrthoLoRASettings(StillLoRASettings):
    name: Literal["ortho-lora"] = "ortho-lora"  # type: ignore[assignment]
    rank: int = Field(default=8, ge=1)
    """Width r of each task's adapter."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of U and V."""


@register(
    OrthoLoRASettings,
    title="Ortho-LoRA",
    family="low-rank",
    what="gradients of the task's loss and of a distillation loss, projected off each other",
    source="Yang et al. 2026, arXiv 2601.09684",
    since="2026-01",
    search={
        **HEAD_RATES,
        "method.lr": (5e-4, 1e-3, 2e-3, 4e-3),
        "method.rank": (4, 8, 16),
        "method.distill": (0.1, 1.0, 10.0),
    },
    search_short={"method.lr": (1e-4, 3e-4, 1e-3)},
    updates="factors",
    ships=STARTS,
    alike=True,
)
class OrthoLoRA(StillLoRA):
    settings: OrthoLoRASettings
    distance: Tensor
    """λ D, as much of it as the images at hand have."""

    def loss(self, batch: Batch) -> Tensor:
        loss, distance = self.both(batch)
        self.distance = batch.share * distance
        return loss

    def step(self, batch: StepBatch) -> Tensor:
        if not self.needs_query or batch.optimizer is None:
            return super().step(batch)
        factors: list[nn.Parameter] = [*self.U, *self.V]
        loss = batch.loss(batch.images, batch.query)
        batch.optimizer.zero_grad()
        # A text tower has no part in where images' features are: nothing to project off there.
        keeping = torch.autograd.grad(
            self.distance, factors, retain_graph=True, materialize_grads=True
        )
        loss, distance, *keeping = batch.backward(loss, self.distance, *keeping)
        for p, g in zip(factors, keeping, strict=True):
            assert p.grad is not None
            p.grad = torch.add(*projected(p.grad, g))
        batch.optimizer.step()
        return loss + distance


def projected(g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Two gradients of one matrix, each without what of it opposes the other as it was."""
    opposed = (g * h).sum().clamp(max=0)
    tiny = torch.finfo(g.dtype).tiny  # a gradient of zero opposes nothing
    return (
        g - opposed / h.square().sum().clamp(min=tiny) * h,
        h - opposed / g.square().sum().clamp(min=tiny) * g,
    )
