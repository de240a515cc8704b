"""Cheaper estimates of a task's complexity H, measured beside it and used for nothing.

H costs a preliminary epoch. What might stand in for it: the loss of that epoch's first batches,
the size of their gradients, or how badly class means tell the task's images apart before anything
is learned. Notebook 23 asks whether any of them ranks the tasks as H does.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

EARLY = 3
"""Batches that count as the first."""
ESTIMATES = ("early_loss", "early_gradient", "means_error")
"""Of what is measured, as a task's record has it."""


class Estimates(nn.Module):
    """Of one task at a time; its buffers make it part of what a checkpoint keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.tensor(float("nan")))
        self.register_buffer("losses", torch.zeros(0))
        self.register_buffer("gradients", torch.zeros(0))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def begin_task(self) -> None:
        self.__init__()

    def observe(self, features: Float[Tensor, "B d"], labels: Int64[Tensor, "B"]) -> None:
        """Features of the task's images before it is learned."""
        self.seen.append((features.float(), labels))

    def end_observing(self) -> None:
        features, labels = (torch.cat(part) for part in zip(*self.seen, strict=True))
        self.means, self.seen = means_error(features, labels), []

    def observe_loss(self, loss: Float[Tensor, ""]) -> None:
        """The loss of a step of the preliminary epoch."""
        if len(self.losses) < EARLY:
            self.losses = torch.cat([self.losses.to(loss.device), loss.detach().reshape(1)])

    def observe_gradients(self, parameters: list[nn.Parameter]) -> None:
        """The last step's gradients, which are there until the next one's.

        Before the epoch's first loss they are what an earlier epoch left.
        """
        if len(self.gradients) < len(self.losses):
            norms = [p.grad.norm() for p in parameters if p.grad is not None]
            norm = torch.stack(norms).norm().reshape(1)
            self.gradients = torch.cat([self.gradients.to(norm.device), norm])

    def record(self) -> dict[str, Tensor]:
        """What was measured of the task."""
        measured = (self.losses.mean(), self.gradients.mean(), self.means)
        return dict(zip(ESTIMATES, measured, strict=True))


def means_error(features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"]) -> Float[Tensor, ""]:
    """Share of images whose nearest class mean by cosine is another class's.

    Each image is left out of its own class's mean; where it was alone, no mean is left and it
    counts as another's.
    """
    classes, index, count = labels.unique(return_inverse=True, return_counts=True)
    own = nn.functional.one_hot(index, len(classes)).to(features)
    x, sums = nn.functional.normalize(features, dim=1), own.T @ features
    similar = x @ nn.functional.normalize(sums, dim=1).T  # a sum points where its mean does
    left_out = (x * nn.functional.normalize(sums[index] - features, dim=1)).sum(1)
    left_out = left_out.where(count[index] > 1, -2.0)  # less than any cosine
    similar = similar.scatter(1, index[:, None], left_out[:, None])
    return (similar.argmax(1) != index).float().mean()
