"""The four reference points by which the difficulty of the embedded benchmarks was set.

    python -m fmlora_lab.benchmarks.glyphs.reference [--domains] [--orders 0 1 2]

None of them is a continual learner: class means and the best closed-form head on frozen features,
joint training, and the same closed-form head after fine-tuning on the first task alone. Each line
is one order of the classes, with images of its own. A few minutes an order on two CPU cores.
"""

import argparse
import json
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fmlora_lab.backbone.device import compute_type, keep_memory, pick_device
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.backbone.vit import load_tower
from fmlora_lab.benchmarks.augment import augment
from fmlora_lab.benchmarks.glyphs.streams import load_glyph_domains, load_glyphs
from fmlora_lab.benchmarks.stream import Images, Stream, together
from fmlora_lab.config import Backbone, GlyphDomains, Glyphs

RANDOM_FEATURES = 3000
PENALTIES = (1e-4, 1e-3, 1e-2)
"""Shares of the mean diagonal; the ridge is the best of them *on the test images*, so that the
line which an adapter must pass is not drawn too low."""
JOINT = {"epochs": 10, "lr": 1e-3, "batch": 32}
FIRST = {"epochs": 4, "lr": 3e-4, "batch": 32}
HEAD_LR = 5e-3


def measure(stream: Stream) -> dict[str, float]:
    """The four points of a stream, in percent of its test images."""
    train = together(task.train for task in stream.tasks)
    test = together(task.test for task in stream.tasks)
    frozen = load_tower(Backbone()).to(pick_device())
    first = load_tower(Backbone()).to(pick_device())
    fine_tune(first, stream.tasks[0].train, **FIRST)
    joint = load_tower(Backbone()).to(pick_device())
    head = fine_tune(joint, train, **JOINT)
    f, g = features(frozen, train), features(frozen, test)
    points = {
        "class means": class_means(f, train.labels, g, test.labels),
        "frozen, ridge": ridge(f, train.labels, g, test.labels),
    }
    f, g = features(first, train), features(first, test)
    points["first task, ridge"] = ridge(f, train.labels, g, test.labels)
    scores = features(joint, test) @ head.weight.detach().cpu().T + head.bias.detach().cpu()
    points["joint"] = _accuracy(scores, test.labels)
    return points


@torch.no_grad()
def features(tower: Tower, images: Images) -> Float[Tensor, "n d"]:
    """The tower's, in batches; on the CPU."""
    found = [_features(tower, pixels) for pixels in images.pixels.split(500)]
    return torch.cat(found).cpu()


def class_means(
    f: Float[Tensor, "n d"], y: Int64[Tensor, " n"], g: Float[Tensor, "m d"], z: Int64[Tensor, " m"]
) -> float:
    """Accuracy of the nearest class mean by angle: taken from f, y, tested on g, z."""
    f, g = F.normalize(f), F.normalize(g)
    means = F.one_hot(y).float().T @ f
    return _accuracy(g @ F.normalize(means).T, z)


def ridge(
    f: Float[Tensor, "n d"], y: Int64[Tensor, " n"], g: Float[Tensor, "m d"], z: Int64[Tensor, " m"]
) -> float:
    """Accuracy of ridge regression on random features of features of length 1.

    h = ReLU(f P), W = (HᵀH + λ I)⁻¹ HᵀY (RanPAC, McDonnell et al. 2023, equation 2).
    """
    P = torch.randn(f.shape[1], RANDOM_FEATURES, generator=torch.Generator().manual_seed(0))
    h, k = ((F.normalize(part) @ P).relu().double() for part in (f, g))
    gram, targets = h.T @ h, h.T @ F.one_hot(y).double()
    scale, eye = gram.diagonal().mean(), torch.eye(len(gram), dtype=torch.double)
    heads = (torch.linalg.solve(gram + share * scale * eye, targets) for share in PENALTIES)
    return max(_accuracy(k @ head, z) for head in heads)


def fine_tune(tower: Tower, images: Images, epochs: int, lr: float, batch: int) -> nn.Linear:
    """Train all of the backbone with a linear head over the images' classes; returns the head."""
    device, n = pick_device(), len(images)
    images = images.to(device)
    head = nn.Linear(tower.width, int(images.labels.max()) + 1).to(device)
    nn.init.zeros_(head.weight)
    body = list(tower.network.requires_grad_(True).parameters())
    groups = [{"params": body, "lr": lr}, {"params": head.parameters(), "lr": HEAD_LR}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    steps = epochs * math.ceil(n / batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps)
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for index in torch.randperm(n, generator=generator).to(device).split(batch):
            pixels = augment(images.pixels[index], "shift", 1, generator)
            loss = F.cross_entropy(head(_features(tower, pixels)), images.labels[index])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(body, 1.0)
            optimiser.step()
            schedule.step()
    return head


def _features(tower: Tower, pixels: Tensor) -> Tensor:
    device = pick_device()
    with compute_type(device, "auto"):
        return tower.features(tower.pixels_in(pixels.to(device))).float()


def _accuracy(scores: Tensor, labels: Tensor) -> float:
    return round(100 * (scores.argmax(1) == labels).double().mean().item(), 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the benchmark's four reference points.")
    parser.add_argument("--domains", action="store_true", help="of glyph-domains")
    parser.add_argument("--orders", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    keep_memory()
    for seed in asked.orders:
        if asked.domains:
            stream = load_glyph_domains(GlyphDomains(), seed, seed)
        else:
            stream = load_glyphs(Glyphs(), seed, seed)
        print(json.dumps({"order": seed, **measure(stream)}), flush=True)
