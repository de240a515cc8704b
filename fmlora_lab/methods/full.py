"""Sequential full fine-tuning: every weight of the backbone learns every task, and forgets."""

from typing import Literal

from pydantic import Field

from fmlora_lab.backbone.vit import AdaptedViT
from fmlora_lab.config import MethodSettings
from fmlora_lab.methods.method import Group, Method, TaskInfo, register


class FullSettings(MethodSettings):
    name: Literal["full"] = "full"
    lr: float = Field(1e-4, gt=0)
    """Learning rate of the whole backbone."""


@register(FullSettings)
class Full(Method):
    settings: FullSettings

    def __init__(self, settings: FullSettings, model: AdaptedViT):
        super().__init__(settings, model)
        self.vit = model.vit

    def begin_task(self, task: TaskInfo) -> None:
        self.vit.requires_grad_(True)

    def groups(self) -> list[Group]:
        weights = [p for p in self.vit.parameters() if p.ndim > 1]
        rest = [p for p in self.vit.parameters() if p.ndim <= 1]
        return [Group(weights, self.settings.lr), Group(rest, self.settings.lr, decay=False)]

    def kept(self) -> int:
        return sum(p.numel() for p in self.vit.parameters())
