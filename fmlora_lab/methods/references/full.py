"""Sequential full fine-tuning: every weight of the backbone learns every task, and forgets.

    W_t = W_{t-1} + α (W_fine-tuned − W_{t-1})        α = `keep`, 1 by default

Source of α < 1: WiSE-FT, Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", CVPR,
arXiv 2109.01903, eq. 1, which interpolates once between the zero-shot and the fine-tuned weights.
Ours: after every task, from the weights before it.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fmlora_lab.backbone.tower import Tower
from fmlora_lab.config import MethodSettings
from fmlora_lab.methods.method import HEAD_RATES, Group, Method, TaskInfo, register


class FullSettings(MethodSettings):
    name: Literal["full"] = "full"
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate of the whole backbone."""
    keep: float = Field(default=1.0, gt=0, le=1)
    """α, the share that stays of what a task has changed: below 1 WiSE-FT."""


@register(
    FullSettings,
    title="full fine-tuning",
    family="references",
    what="every weight, task after task",
    search={**HEAD_RATES, "method.lr": (3e-5, 1e-4, 3e-4)},
    search_short={"method.lr": (1e-5, 3e-5, 1e-4)},
    alike=True,
)
class Full(Method):
    settings: FullSettings

    def __init__(self, settings: FullSettings, model: Tower):
        super().__init__(settings, model)
        self.vit = model.network
        if settings.keep < 1:
            for n, weight in enumerate(self.vit.parameters()):
                self.register_buffer(f"before{n}", weight.detach().clone())

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        self.vit.requires_grad_(True)
        if self.settings.keep < 1:
            for n, weight in enumerate(self.vit.parameters()):
                self.get_buffer(f"before{n}").copy_(weight)

    def groups(self) -> list[Group]:
        weights = [p for p in self.vit.parameters() if p.ndim > 1]
        rest = [p for p in self.vit.parameters() if p.ndim <= 1]
        return [Group(weights, self.settings.lr), Group(rest, self.settings.lr, decay=False)]

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        if self.settings.keep < 1:
            for n, weight in enumerate(self.vit.parameters()):
                weight.lerp_(self.get_buffer(f"before{n}"), 1 - self.settings.keep)
        return {}
