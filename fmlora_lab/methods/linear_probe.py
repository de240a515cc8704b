"""A frozen backbone with a linear head: how far the pre-trained features go with no adaptation."""

from typing import Literal

from fmlora_lab.config import MethodSettings
from fmlora_lab.methods.method import Method, register


class LinearProbeSettings(MethodSettings):
    name: Literal["linear-probe"] = "linear-probe"


@register(LinearProbeSettings)
class LinearProbe(Method):
    """The base method as it stands: it adapts nothing and trains the head."""
