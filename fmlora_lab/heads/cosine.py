"""The cosine head: logits = 16 cos(f, w_k), so that no class has longer rows than another."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fmlora_lab.heads.head import TrainedHead

SCALE = 16.0


class Cosine(TrainedHead, name="cosine"):
    def logits(
        self, features: Float[Tensor, "B d"], weight: Float[Tensor, "k d"], bias: Float[Tensor, "k"]
    ) -> Float[Tensor, "B k"]:
        return SCALE * F.linear(F.normalize(features), F.normalize(weight))
