"""A frozen backbone with a linear head: how far the pre-trained features go with no adaptation.

Of two towers, whose classes are told by their texts, nothing is left to train: this is zero-shot.
"""

from typing import Literal

from fmlora_lab.config import MethodSettings
from fmlora_lab.methods.method import Method, register


class LinearProbeSettings(MethodSettings):
    name: Literal["linear-probe"] = "linear-probe"


@register(
    LinearProbeSettings,
    title="linear probe",
    family="references",
    what="frozen backbone, linear head",
    search={"training.lr_head": (2e-3, 5e-3, 1e-2, 2e-2, 4e-2)},
    search_short={"training.lr_head": (2e-3, 5e-3, 1e-2)},
    alike=True,
)
class LinearProbe(Method):
    """The base method as it stands: it adapts nothing and trains the head."""

    def adapts(self, task: int) -> bool:
        return False
