"""Still-LoRA, the lab's own: a LoRA of rank 2 that keeps the current images' features in place.

    W_t = W_{t-1} + U_t V_tᵀ        U (d_out, r) from zero, V (d_in, r) Gaussian, std 1/√d_in
    L = CE + λ D                    D = mean (f(x) - f₀(x))², from the second task on
    f₀: features as they were when the task began

Published: not as such. Keeping features of new images where the old network has them is
less-forgetting learning (Jung et al. 2016, arXiv 1607.00122), the adapter that of Hu et al. 2021
(`low_rank.lora`). Ortho-LoRA (`low_rank.ortho_lora`) has the same two losses and projects their
gradients off each other; what this page leaves out, or not, tells what the projection is worth.

Ours: the use of both for heads in closed form. These keep statistics of earlier classes' features,
which are true for as long as features stay; no image, direction or weight of an earlier task is
kept to hold them, and rank 2 is a quarter of the numbers that LoRA has at rank 8, about what
FM-LoRA trains a task. D is over images and dimensions, whatever the head. As earlier updates are
merged into the weight, f₀ is the network without the present update: a forward pass more in each
step, none at inference. The first task has nothing to keep, but of two towers: they know classes
that no task has brought. There this is distillation to the model before each task on its own
images, the lab's stand-in for ZSCL's, which is on images from elsewhere (Zheng et al. 2023, arXiv
2303.06628).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fmlora_lab.methods.low_rank.lora import LoRA, LoRASettings
from fmlora_lab.methods.method import HEAD_RATES, Batch, TaskInfo, register
from fmlora_lab.methods.starts import STARTS


class StillLoRASettings(LoRASettings):
    name: Literal["still-lora"] = "still-lora"  # type: ignore[assignment]
    rank: int = Field(default=2, ge=1)
    """Width r of each task's adapter."""
    lr: float = Field(default=2e-3, gt=0)
    """Learning rate of U and V."""
    distill: float = Field(default=1.0, ge=0)
    """λ, the weight of the features' distance from where they were."""


@register(
    StillLoRASettings,
    title="Still-LoRA (ours)",
    family="low-rank",
    what="the lab's own: a LoRA of rank 2, features of the current images held in place",
    source="this lab; Jung et al. 2016, arXiv 1607.00122, with Hu et al. 2021, arXiv 2106.09685",
    since="2026-11",
    search={
        **HEAD_RATES,
        "method.lr": (5e-4, 1e-3, 2e-3, 4e-3),
        "method.distill": (0.1, 0.3, 1.0, 3.0),
    },
    search_short={"method.lr": (3e-4, 1e-3, 2e-3)},
    updates="factors",
    ships=STARTS,
    alike=True,
)
class StillLoRA(LoRA):
    settings: StillLoRASettings
    later = False
    """Whether there is something to keep."""

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.later = task.index > 0 or self.model.reads_text

    def train(self, mode: bool = True) -> "StillLoRA":
        # f₀ is what the lab calls the query: asked for in training steps, not to predict.
        self.needs_query = mode and self.later
        return super().train(mode)

    def both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The task's mean loss, and λ D, which is zero where there is nothing to keep."""
        loss = super().loss(batch)
        if batch.query is None:
            return loss, torch.zeros_like(loss)
        return loss, self.settings.distill * F.mse_loss(batch.features, batch.query)

    def loss(self, batch: Batch) -> Tensor:
        loss, distance = self.both(batch)
        return loss + distance
