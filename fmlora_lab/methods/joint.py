"""Joint training: every task's images at once, which continual learning forbids; the upper bound.

It fine-tunes the whole backbone with a budget of its own, since the few epochs of a task do not
take 100 classes at once to their plateau.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from fmlora_lab.methods.full import Full, FullSettings
from fmlora_lab.methods.method import Stage, register


class JointSettings(FullSettings):
    name: Literal["joint"] = "joint"
    lr: float = Field(1e-3, gt=0)
    """Learning rate of the whole backbone."""
    epochs: int = Field(20, ge=1)
    """Epochs over all images, in the place of the configured epochs a task."""


@register(JointSettings)
class Joint(Full):
    settings: JointSettings
    one_task = True

    def stages(self, epochs: int) -> Iterator[Stage]:
        yield Stage("train", self.settings.epochs)
