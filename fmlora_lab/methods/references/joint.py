"""Joint training: every task's images at once, which continual learning forbids; the upper bound.

It fine-tunes the whole backbone with a budget of its own, since the few epochs of a task do not
take 100 classes at once to their plateau. Its first epoch trains the head alone: behind a head of
noise the first gradients would damage the backbone (Kumar et al. 2022, "Fine-Tuning can Distort
Pretrained Features and Underperform Out-of-Distribution").
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field

from fmlora_lab.methods.method import Group, Stage, register
from fmlora_lab.methods.references.full import Full, FullSettings


class JointSettings(FullSettings):
    name: Literal["joint"] = "joint"
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the whole backbone."""
    epochs: int = Field(default=20, ge=1)
    """Epochs of the whole model over all images, in the place of the configured ones a task."""


@register(
    JointSettings,
    title="joint training",
    family="references",
    what="all tasks at once: the upper bound, which continual learning forbids",
    one_task=True,
    alike=True,
)
class Joint(Full):
    settings: JointSettings

    def stages(self, epochs: int) -> Iterator[Stage]:
        yield Stage("head", 1)
        yield Stage("train", self.settings.epochs)

    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        self.vit.requires_grad_(stage.name == "train")

    def groups(self) -> list[Group]:
        return [group for group in super().groups() if group.parameters[0].requires_grad]
