"""Sequential full fine-tuning: every weight of the backbone learns every task, and forgets."""

from typing import Literal

from pydantic import Field

from fmlora_lab.backbone.tower import Tower
from fmlora_lab.config import MethodSettings
from fmlora_lab.methods.method import HEAD_RATES, Group, Method, TaskInfo, register


class FullSettings(MethodSettings):
    name: Literal["full"] = "full"
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate of the whole backbone."""


@register(
    FullSettings,
    title="full fine-tuning",
    family="references",
    what="every weight, task after task",
    search={**HEAD_RATES, "method.lr": (3e-5, 1e-4, 3e-4)},
    search_short={"method.lr": (1e-5, 3e-5, 1e-4)},
)
class Full(Method):
    settings: FullSettings

    def __init__(self, settings: FullSettings, model: Tower):
        super().__init__(settings, model)
        self.vit = model.network

    def begin_task(self, task: TaskInfo) -> None:
        self.vit.requires_grad_(True)

    def groups(self) -> list[Group]:
        weights = [p for p in self.vit.parameters() if p.ndim > 1]
        rest = [p for p in self.vit.parameters() if p.ndim <= 1]
        return [Group(weights, self.settings.lr), Group(rest, self.settings.lr, decay=False)]
