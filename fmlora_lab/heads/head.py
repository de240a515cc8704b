"""What a head must say, and the registry: those trained, and those that keep statistics."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fmlora_lab.config import Heads, Training
from fmlora_lab.heads.drift import Drift


class Head(nn.Module):
    """Features (B, d) to scores (B, K), −∞ for classes that have not arrived.

    A subclass registers itself by its `name`: `class Linear(TrainedHead, name="linear")`.
    """

    name: str

    def __init__(self, width: int, n_classes: int):
        super().__init__()

    def forward(self, features: Float[Tensor, "B d"]) -> Float[Tensor, "B K"]:
        raise NotImplementedError

    def kept(self) -> int:
        """Numbers kept from task to task."""
        raise NotImplementedError


TRAINED: dict[str, type["TrainedHead"]] = {}
BANKS: dict[str, type["Bank"]] = {}


class TrainedHead(Head):
    """A classifier in float32 that grows, one row a class in order of arrival.

    Only the current task's rows are parameters: earlier rows get no gradient, no momentum and no
    weight decay, because the optimiser never sees them. Parameters that a subclass adds learn with
    them, and do not decay.
    """

    weight: Tensor
    bias: Tensor
    known: Tensor

    def __init_subclass__(cls, name: str) -> None:
        cls.name, TRAINED[name] = name, cls
        Training.known_heads.add(name)

    def __init__(self, width: int, n_classes: int):
        super().__init__(width, n_classes)
        self.register_buffer("weight", torch.zeros(n_classes, width))
        self.register_buffer("bias", torch.zeros(n_classes))
        self.register_buffer("known", torch.zeros(n_classes, dtype=torch.bool))
        self.classes = range(0)
        self.rows = nn.Parameter(torch.empty(0, width))
        self.row_bias = nn.Parameter(torch.empty(0))

    def logits(
        self, features: Float[Tensor, "B d"], weight: Float[Tensor, "k d"], bias: Float[Tensor, "k"]
    ) -> Float[Tensor, "B k"]:
        """With the given rows and biases."""
        raise NotImplementedError

    def begin_task(self, classes: range, generator: torch.Generator) -> None:
        """Make the rows of `classes` trainable: new ones Gaussian (std 0.02), known ones kept."""
        self.classes = classes
        own = slice(classes.start, classes.stop)
        fresh = 0.02 * torch.randn(len(classes), self.weight.shape[1], generator=generator)
        known = self.known[own, None]
        self.rows = nn.Parameter(torch.where(known, self.weight[own], fresh.to(self.weight)))
        self.row_bias = nn.Parameter(self.bias[own].clone())

    def end_task(self) -> None:
        """Put the trained rows in their place."""
        own = slice(self.classes.start, self.classes.stop)
        self.weight[own], self.bias[own] = self.rows.detach(), self.row_bias.detach()
        self.known[own] = True

    def task_logits(self, features: Float[Tensor, "B d"]) -> Float[Tensor, "B k"]:
        """Of the current task's classes alone, for training."""
        return self.logits(features, self.rows, self.row_bias)

    def seen_logits(self, features: Float[Tensor, "B d"]) -> Float[Tensor, "B k"]:
        """Of the classes seen in earlier tasks, whose rows are fixed, then of the task's own."""
        earlier = self.known.clone()
        earlier[self.classes.start : self.classes.stop] = False
        weight = torch.cat([self.weight[earlier], self.rows])
        return self.logits(features, weight, torch.cat([self.bias[earlier], self.row_bias]))

    def forward(self, features: Float[Tensor, "B d"]) -> Float[Tensor, "B K"]:
        logits = self.logits(features, self.weight, self.bias)
        return logits.masked_fill(~self.known, -torch.inf)

    def kept(self) -> int:
        return int(self.known.sum()) * (self.weight.shape[1] + 1)


class Bank(Head):
    """A head that is not trained: what it keeps of a class is taken once, when a task ended, from
    that task's own images. No image is kept.

    It sees features of length 1, and those of a task only when that has ended. One that has a
    `carry` of its own is kept twice: as it stands, and with its statistics carried along the drift
    of the features (`Banks`), as NAME-carried.
    """

    needs_gaussians = False
    """Whether it is carried by what the LDA keeps of the classes, beside what it keeps itself."""

    def __init_subclass__(cls, name: str) -> None:
        cls.name, BANKS[name] = name, cls
        Training.known_heads.add(name)
        if cls.carries():
            Training.known_heads.add(f"{name}-carried")

    def __init__(self, width: int, n_classes: int, settings: Heads):
        super().__init__(width, n_classes)

    def add(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"]) -> None:
        """Take in features of the task that just ended, with their labels among all classes."""
        raise NotImplementedError

    def settle(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"]) -> None:
        """Draw conclusions, when all of the task has been added; `features` are the task's, or a
        part of them that is enough to choose by."""

    def carry(self, drift: Drift, plain: "Bank", gaussians: "Bank") -> None:
        """Move what is kept of earlier tasks as features have moved, before more is added.

        `plain` is this head as it stands, the task in it already; `gaussians` is what the carried
        LDA had before the move.
        """

    @classmethod
    def carries(cls) -> bool:
        return cls.carry is not Bank.carry

    def finish(self) -> None:
        """No more tasks will come: let go of what only they would need."""


def trained_head(name: str, width: int, n_classes: int) -> TrainedHead:
    """The head of that name, or the linear one that is trained beside a bank."""
    return TRAINED.get(name, TRAINED["linear"])(width, n_classes)
