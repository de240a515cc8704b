"""The head of two towers: logits = s f · g_k, with g_k what the text tower says of class k's texts.

Nothing of it is trained and nothing is kept: it is read anew whenever the towers have changed. It
knows every class of the stream from the start, those of tasks to come included.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fmlora_lab.heads.head import Head


class Text(Head):
    name = "text"
    weight: Tensor

    def __init__(self, width: int, n_classes: int):
        super().__init__(width, n_classes)
        self.register_buffer("weight", torch.zeros(n_classes, width), persistent=False)
        self.classes = range(0)
        self.rows = nn.Parameter(torch.empty(0, width))  # none: what the optimiser asks for

    def begin_task(self, classes: range, generator: torch.Generator) -> None:
        self.classes = classes

    def end_task(self) -> None:
        """Nothing was trained."""

    def task_logits(self, features: Float[Tensor, "B d"]) -> Float[Tensor, "B k"]:
        """Of the current task's classes alone."""
        return features @ self.weight[self.classes.start : self.classes.stop].T

    def seen_logits(self, features: Float[Tensor, "B d"]) -> Float[Tensor, "B k"]:
        """Of all classes up to the current task's."""
        return features @ self.weight[: self.classes.stop].T

    def forward(self, features: Float[Tensor, "B d"]) -> Float[Tensor, "B K"]:
        return features @ self.weight.T

    def kept(self) -> int:
        return 0
