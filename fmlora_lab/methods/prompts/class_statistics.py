"""What HiDe-Prompt keeps of a class instead of images: Gaussians of its features; and how a
classifier is trained anew on samples from them."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

SMALLEST_VARIANCE = 1e-4
"""Added to every variance, as in the official code."""


def describe(
    features: Float[Tensor, "n d"], centroids: int, generator: torch.Generator
) -> Float[Tensor, "{centroids} 2*d"]:
    """Features of one class to `centroids` rows (mean | variance).

    More than one centroid: Lloyd's k-means from random images, some of them twice where there are
    fewer; a centroid that is nearest to fewer than two images takes the class's own variance.
    """
    order = torch.randperm(len(features), generator=generator).to(features.device)
    start = order[torch.arange(centroids, device=order.device) % len(order)]
    centres = features[start] if centroids > 1 else features.mean(0, keepdim=True)
    for _ in range(10 if centroids > 1 else 0):
        nearest = torch.cdist(features, centres).argmin(1)
        for c in nearest.unique():
            centres[c] = features[nearest == c].mean(0)
    nearest = torch.cdist(features, centres).argmin(1)
    rows = []
    for c, centre in enumerate(centres):
        own = features[nearest == c]
        mean = own.mean(0) if len(own) else centre
        spread = own if len(own) > 1 else features
        rows.append(torch.cat([mean, spread.var(0, unbiased=False)]))
    return torch.stack(rows)


def sample(
    statistics: Float[Tensor, "n dd"], each: int, generator: torch.Generator
) -> Float[Tensor, "n {each} dd//2"]:
    """`each` features from every Gaussian, whose statistics are (mean | variance)."""
    mean, variance = statistics.chunk(2, dim=1)
    noise = torch.randn(len(mean), each, mean.shape[1], generator=generator).to(mean)
    return mean[:, None] + (variance + SMALLEST_VARIANCE).sqrt()[:, None] * noise


def train_on_samples(
    classifier: Callable[[Tensor], Tensor],
    parameters: list[nn.Parameter],
    statistics: Float[Tensor, "n _"],
    labels: Int64[Tensor, "k"],
    epochs: int,
    each: int,
    lr: float,
    generator: torch.Generator,
) -> None:
    """Train `classifier`, features (B, d) to logits, on samples of every Gaussian (see `sample`).

    `labels` are their classes, one for the n / k Gaussians in a row that it has. SGD with momentum
    0.9, cosine to zero, weight decay 5e-4, new samples in every epoch, batches of `each`, as in
    HiDe-Prompt's official code, whose epoch however is only as many batches as there were classes
    before the task.
    """
    if not epochs:
        return
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    )
    for _ in range(epochs):
        features = sample(statistics, each, generator).flatten(0, 1)
        targets = labels.repeat_interleave(len(features) // len(labels))
        order = torch.randperm(len(features), generator=generator).to(features.device)
        for batch in order.split(each):
            optimizer.zero_grad()
            with torch.enable_grad():
                F.cross_entropy(classifier(features[batch]), targets[batch]).backward()
            optimizer.step()
        schedule.step()
