"""What a run trains: a backbone, a method, a head and class means, as one thing."""

import hashlib

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fmlora_lab.backbone.device import compute_type
from fmlora_lab.backbone.heads import ClassMeans, Head
from fmlora_lab.backbone.vit import AdaptedViT
from fmlora_lab.benchmarks.augment import to_float
from fmlora_lab.benchmarks.stream import Images
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.methods import build
from fmlora_lab.methods.method import Batch

EVALUATION_BATCH = 128
"""Images a forward pass of evaluation: small enough to stay in cache."""


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A generator of its own for each purpose, so that an epoch boundary describes a run."""
    text = "/".join(map(str, (seed, *purpose)))
    value = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
    return torch.Generator().manual_seed(value)


class Learner:
    """Backbone, method, head and class means of one run, on one device."""

    def __init__(self, config: RunConfig, model: AdaptedViT, n_classes: int, device: torch.device):
        self.config, self.device = config, device
        self.model = model.to(device)
        self.method = build(config.method, self.model).to(device)
        self.method.eval()
        cosine = config.training.head == "cosine"
        self.head = Head(model.width, n_classes, cosine).to(device)
        self.means = ClassMeans(model.width, n_classes).to(device)

    def parts(self) -> dict[str, nn.Module]:
        return {"method": self.method, "head": self.head, "means": self.means}

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes, by name."""
        return {
            f"{part}.{name}": tensor
            for part, module in self.parts().items()
            for name, tensor in module.state_dict().items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave, whatever shapes the parameters had then."""
        for part, module in self.parts().items():
            for name in module.state_dict():
                assign(module, name, state[f"{part}.{name}"].to(self.device))

    def features(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) on the device to features (B, d), with the method's present update."""
        self.model.set_update(self.method.factors(), None)
        return self._forward(pixels)[0]

    def loss(self, images: Images, query: Tensor | None = None) -> Tensor:
        """The method's mean loss over the current task's classes.

        `query` (B, d), where the method needs one and it is known already.
        """
        self.model.set_update(self.method.factors(), None)
        features, query = self._forward(images.pixels, query)
        labels = images.labels - self.head.classes.start
        return self.method.loss(Batch(features, self.head.task_logits(features), labels, query))

    @torch.inference_mode()
    def queries(self, images: Images) -> Tensor:
        """The frozen backbone's features (n, d) of images as they are."""
        parts = torch.arange(len(images)).split(EVALUATION_BATCH)
        with compute_type(self.device, self.config.training.precision):
            return torch.cat(
                [self.model.frozen_features(self._input(images.pixels[part])) for part in parts]
            )

    @torch.inference_mode()
    def mean_loss(self, images: Images) -> float:
        """Mean cross-entropy over the current task's classes, without augmentation."""
        total = 0.0
        for features, labels in self.in_batches(images):
            logits = self.head.task_logits(features)
            labels = labels - self.head.classes.start
            total += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        return total / len(images)

    @torch.inference_mode()
    def in_batches(self, images: Images):
        """Yield (features, labels) for inference, every effective weight formed once."""
        self.model.set_update(self.method.factors(), None)
        with compute_type(self.device, self.config.training.precision):
            self.model.fold()
        for index in torch.arange(len(images)).split(EVALUATION_BATCH):
            features, _ = self._forward(images.pixels[index])
            yield features, images.labels[index].to(self.device)

    @torch.no_grad()
    def inference_flops(self) -> int:
        """Floating-point operations of predicting one image, a query's pass included."""
        blank = torch.zeros(1, 3, self.model.image_size, self.model.image_size, dtype=torch.uint8)
        self.model.set_update(self.method.factors(), None)
        self.model.fold()
        with FlopCounterMode(display=False) as counter:
            self.head(self._forward(blank)[0])
        return counter.get_total_flops()

    def add_means(self, images: Images) -> None:
        """Take the class means of a task that just ended."""
        for features, labels in self.in_batches(images):
            self.means.add(features, labels)

    def correct(self, images: Images) -> dict[str, int]:
        """Right answers of the trained head and of the class means, from the same features."""
        right = {"head": 0, "prototype": 0}
        for features, labels in self.in_batches(images):
            for name, classifier in (("head", self.head), ("prototype", self.means)):
                right[name] += int((classifier(features).argmax(1) == labels).sum())
        return right

    @torch.no_grad()
    def merge(self) -> tuple[dict[str, Tensor], Tensor | None]:
        """A plain timm state dict with the classifier as `head`, and the prompts (m, d) if any.

        Where there are no prompts, `timm.create_model(name, num_classes=K)` alone loads it and
        gives the same logits. Rows are the classes in the stream's order. BadInput for a cosine
        head, which timm has not.
        """
        if self.head.cosine:
            raise BadInput("training.head is 'cosine', which a plain timm model cannot express")
        if self.method.needs_query:
            raise BadInput(
                f"{self.config.method.name} chooses its prompts by a query of each image, which a "
                "plain timm model cannot express"
            )
        prompts = self.method.prompts(None)
        self.model.set_update(self.method.factors(), prompts)
        state = self.model.merge()
        state |= {"head.weight": self.head.weight.clone(), "head.bias": self.head.bias.clone()}
        return state, None if prompts is None else prompts.tokens.clone()

    def _input(self, pixels: Tensor) -> Tensor:
        m = self.model
        return to_float(pixels.to(self.device), m.image_size, m.mean, m.std)

    def _forward(self, pixels: Tensor, query: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Features and query (B, d) with the update that is set and the prompts for the query."""
        x = self._input(pixels)
        with compute_type(self.device, self.config.training.precision):
            if query is None and self.method.needs_query:
                query = self.model.frozen_features(x)
            self.model.set_prompts(self.method.prompts(query))
            return self.model.features(x), query


def assign(module: nn.Module, name: str, value: Tensor) -> None:
    """Set a parameter or buffer: in place where the shape is the same, else replaced."""
    *path, leaf = name.split(".")
    owner = module.get_submodule(".".join(path))
    old = getattr(owner, leaf)
    if old.shape == value.shape:
        old.data.copy_(value)
    elif isinstance(old, nn.Parameter):
        setattr(owner, leaf, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        setattr(owner, leaf, value)
