"""How long runs will take: from runs of their kind that are here, else from a measured step."""

import statistics
import time
from collections.abc import Iterable
from functools import cache

import timm
import torch

from fmlora_lab.backbone.device import compute_type, pick_device
from fmlora_lab.benchmarks.hub import DATASETS
from fmlora_lab.config import Backbone, Benchmark, Domains, Folder, GlyphDomains, Glyphs, RunConfig
from fmlora_lab.runs.store import RESULTS, runs

STEP_IMAGES = 4
"""Images of the measured step: small, so that a large backbone takes seconds."""


class Estimator:
    """Knows the complete runs of a folder and those that came with the lab."""

    def __init__(self, runs_dir=None):
        shipped = [run for folder in sorted(RESULTS.iterdir()) for run in runs(folder)]
        self.seconds: dict[tuple, list[float]] = {}
        for run in [*shipped, *runs(runs_dir)]:
            self.seconds.setdefault(kind(run.config), []).append(
                run.result["seconds"] / work(run.config)
            )

    def total(self, configs: Iterable[RunConfig]) -> float:
        """Seconds for all of these runs, one after another."""
        return sum(map(self.of, configs))

    def of(self, config: RunConfig) -> float:
        """Seconds for a run."""
        settings = config.model_dump(mode="json")
        known = self.seconds.get(kind(settings))
        if known:
            return statistics.median(known) * work(settings)
        train, test, tasks = sizes(config.benchmark)
        learn, predict = seconds_an_image(config.backbone)
        epochs = getattr(config.method, "epochs", config.training.epochs)
        return learn * train * epochs + predict * (train + test * (tasks + 1) / 2)


def kind(settings: dict) -> tuple:
    """What runs of about equal speed share."""
    benchmark, backbone = settings["benchmark"], settings["backbone"]
    stream = benchmark.get("dataset") or benchmark["name"]
    return settings["method"]["name"], stream, backbone["name"], backbone["image_size"]


def work(settings: dict) -> float:
    """A measure of a run's length among runs of its kind: images a class, times epochs."""
    epochs = settings["method"].get("epochs", settings["training"]["epochs"])
    return (settings["benchmark"].get("train_images") or 1) * epochs


def sizes(benchmark: Benchmark) -> tuple[int, int, int]:
    """Training images, test images and tasks of a benchmark, without loading it."""
    match benchmark:
        case Glyphs():
            return 100 * benchmark.train_images, 100 * benchmark.test_images, benchmark.tasks
        case GlyphDomains():
            return 600 * benchmark.train_images, 600 * benchmark.test_images, 6
        case Folder():
            train, test = (_images(benchmark.data / part) for part in ("train", "test"))
            return sum(train), sum(test), benchmark.tasks
        case Domains():
            each = [sum(_images(folder)) for folder in benchmark.data.iterdir() if folder.is_dir()]
            test = round(benchmark.test_share * sum(each))
            return sum(each) - test, test, len(each)
    counts = DATASETS[benchmark.dataset].counts
    return counts["train"], counts["test"], benchmark.tasks


def _images(folder) -> list[int]:
    return [sum(1 for _ in path.iterdir()) for path in folder.iterdir() if path.is_dir()]


@cache
def seconds_an_image(backbone: Backbone) -> tuple[float, float]:
    """Measured on this machine: seconds to learn from an image and to predict one.

    The backbone has random weights here; its speed does not depend on them.
    """
    device = pick_device()
    size = {} if backbone.image_size is None else {"img_size": backbone.image_size}
    vit = timm.create_model(backbone.name, pretrained=False, num_classes=0, **size).to(device)
    side = vit.patch_embed.img_size[0]
    images = torch.randn(STEP_IMAGES, 3, side, side, device=device, requires_grad=True)

    def step() -> None:
        with compute_type(device, "auto"):
            vit(images).square().mean().backward()

    def predict() -> None:
        with torch.inference_mode(), compute_type(device, "auto"):
            vit(images)

    vit.requires_grad_(False)
    return _time(step) / STEP_IMAGES, _time(predict) / STEP_IMAGES


def _time(call) -> float:
    call()  # not counted
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def said(seconds: float) -> str:
    """A duration for readers: `40 s`, `12 min`, `3.5 h`, `4 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"
