"""Which task an image is of, by the nearest class: Gaussians of the frozen backbone's features.

    t̂(x) = task of argmax_k μ_kᵀ Σ⁻¹ q(x) − ½ μ_kᵀ Σ⁻¹ μ_k        Σ = (1 − s) S / n + s mean(diag) I

q(x) are the frozen backbone's features (the query), k counts the classes of every task: a class
that comes again in another domain has a mean for each. S is the scatter about the means, pooled
over all classes so far, n its images less its classes, s = 0.1. Kept are the means and S, no image.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

SHRINKAGE = 0.1


class TaskGaussians(nn.Module):
    means: Tensor
    task_of: Tensor
    scatter: Tensor
    free: Tensor
    weight: Tensor

    def __init__(self, d: int):
        super().__init__()
        self.register_buffer("means", torch.zeros(0, d))
        self.register_buffer("task_of", torch.zeros(0, dtype=torch.long))
        self.register_buffer("scatter", torch.zeros(d, d))
        self.register_buffer("free", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(0, d))  # Σ⁻¹ μ_k, made anew with each task

    def add(self, task: int, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"]) -> None:
        """Take in all images of a task."""
        classes, which = labels.unique(return_inverse=True)
        of = F.one_hot(which).to(features)
        means = (of.T @ features) / of.sum(0)[:, None]
        rest = features - means[which]
        self.means = torch.cat([self.means, means])
        self.task_of = torch.cat([self.task_of, torch.full_like(classes, task)])
        self.scatter += rest.T @ rest
        self.free += len(features) - len(classes)
        S = self.scatter.double() / self.free.clamp(min=1)
        level = S.diagonal().mean()
        level = torch.where(level > 0, level, 1.0)  # one image a class: nothing is known of S
        shrunk = (1 - SHRINKAGE) * S + SHRINKAGE * level * torch.eye(len(S)).to(S)
        self.weight = torch.linalg.solve(shrunk, self.means.double().T).T.to(self.means)

    def forward(self, query: Float[Tensor, "B d"], tasks: int) -> Int64[Tensor, "B"]:
        """The task of each image, among the first `tasks`."""
        with torch.autocast(query.device.type, enabled=False):
            scores = query.to(self.weight) @ self.weight.T
            scores = scores - 0.5 * (self.weight * self.means).sum(1)
        scores = scores.masked_fill(self.task_of >= tasks, -torch.inf)
        return self.task_of[scores.argmax(1)]

    def kept(self) -> int:
        return self.means.numel() + self.scatter.numel()
