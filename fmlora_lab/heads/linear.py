"""The linear head: logits = f Wᵀ + b. It keeps K (d + 1) numbers. docs/method.md, section 5."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fmlora_lab.heads.head import TrainedHead


class Linear(TrainedHead, name="linear"):
    def logits(
        self, features: Float[Tensor, "B d"], weight: Float[Tensor, "k d"], bias: Float[Tensor, "k"]
    ) -> Float[Tensor, "B k"]:
        return F.linear(features, weight, bias)
