"""Classifiers over features: the trained head that grows with the classes, and class means.

Shape letters: B images, d feature width, K classes of the stream, k classes of the task.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COSINE_SCALE = 16.0


class Head(nn.Module):
    """A linear or cosine classifier in float32, one row a class in order of arrival.

    Only the current task's rows are parameters: earlier rows get no gradient, no momentum and no
    weight decay, because the optimiser never sees them.
    """

    def __init__(self, width: int, n_classes: int, cosine: bool):
        super().__init__()
        self.cosine = cosine
        self.register_buffer("weight", torch.zeros(n_classes, width))
        self.register_buffer("bias", torch.zeros(n_classes))
        self.register_buffer("known", torch.zeros(n_classes, dtype=torch.bool))
        self.classes = range(0)
        self.rows = nn.Parameter(torch.empty(0, width))
        self.row_bias = nn.Parameter(torch.empty(0))

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

    def task_logits(self, features: Tensor) -> Tensor:
        """(B, d) to (B, k): logits of the current task's classes alone, for training."""
        return self.logits(features, self.rows, self.row_bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, d) to (B, K): logits of all classes, −∞ for those that have not arrived."""
        logits = self.logits(features, self.weight, self.bias)
        return logits.masked_fill(~self.known, -torch.inf)

    def logits(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, d) to (B, k) with the given rows (k, d) and biases (k,)."""
        if self.cosine:
            return COSINE_SCALE * F.linear(F.normalize(features), F.normalize(weight))
        return F.linear(features, weight, bias)


class ClassMeans(nn.Module):
    """Prediction by cosine to class means of the adapted features ("prototype" head).

    A mean is taken once, when a task ended, from that task's own images; d numbers a class are
    kept and no image. A class that comes again in another domain keeps the mean over all.
    """

    def __init__(self, width: int, n_classes: int):
        super().__init__()
        self.register_buffer("sums", torch.zeros(n_classes, width))
        self.register_buffer("counts", torch.zeros(n_classes))

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Take in features (B, d) of the task that just ended, with their labels (B,)."""
        self.sums.index_add_(0, labels, features)
        self.counts += torch.bincount(labels, minlength=len(self.counts)).to(self.counts)

    def forward(self, features: Tensor) -> Tensor:
        """(B, d) to (B, K): cosines, −∞ for classes without a mean."""
        means = self.sums / self.counts.clamp(min=1)[:, None]
        cosines = F.linear(F.normalize(features), F.normalize(means))
        return cosines.masked_fill(self.counts == 0, -torch.inf)
