"""Nearest class mean on frozen features: nothing is trained, one mean a class is kept."""

from collections.abc import Iterator
from typing import Literal

from fmlora_lab.config import MethodSettings
from fmlora_lab.methods.method import Method, Stage, register


class PrototypesSettings(MethodSettings):
    name: Literal["prototypes"] = "prototypes"


@register(
    PrototypesSettings,
    title="nearest class mean",
    family="references",
    what="frozen backbone, nearest class mean",
)
class Prototypes(Method):
    ranked_by = "means"

    def adapts(self, task: int) -> bool:
        return False

    def stages(self, epochs: int) -> Iterator[Stage]:
        yield from ()
