"""How long runs will take: from runs of their kind that are here, else from a measured step."""

import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch

from fmlora_lab.backbone.device import compute_type, pick_device
from fmlora_lab.backbone.tower import loader_of
from fmlora_lab.backbone.vit import ViT, load_tower
from fmlora_lab.benchmarks import select
from fmlora_lab.benchmarks.cut import sizes
from fmlora_lab.benchmarks.hub import DATASETS
from fmlora_lab.benchmarks.mtil import select_mtil
from fmlora_lab.config import (
    Backbone,
    Benchmark,
    Domains,
    Folder,
    GlyphDomains,
    Glyphs,
    GlyphScripts,
    Mtil,
    RunConfig,
)
from fmlora_lab.runs.archive import collections
from fmlora_lab.runs.stored import load_runs

STEP_IMAGES = 4
"""Images of the measured step: small, so that a large backbone takes seconds."""


@cache
def speeds(runs_dir: Path | str | None = None) -> dict[tuple, float]:
    """Seconds for a unit of `work` by `kind`: the median of the complete runs of a folder, all of
    which it opens, and of those that came with the lab."""
    shipped = [run for path in collections().values() for run in load_runs(path)]
    found: dict[tuple, list[float]] = {}
    for run in [*shipped, *load_runs(runs_dir)]:
        found.setdefault(kind(run.config), []).append(run.numbers["seconds"] / work(run.config))
    return {key: statistics.median(seconds) for key, seconds in found.items()}


def seconds_of(config: RunConfig, runs_dir: Path | str | None = None) -> float:
    """Seconds that a run will take."""
    settings = config.model_dump(mode="json")
    known = speeds(runs_dir).get(kind(settings))
    if known is not None:
        return known * work(settings)
    train, test, tasks = stream_sizes(config.benchmark)
    learn, predict = seconds_an_image(config.backbone.name, config.backbone.image_size)
    if config.training.iterations is None:
        learned = train * getattr(config.method, "epochs", config.training.epochs)
    else:
        learned = tasks * config.training.iterations * config.training.batch_size
    return learn * learned + predict * (train + test * (tasks + 1) / 2)


def kind(settings: dict) -> tuple:
    """What runs of about equal speed, whose `work` has one unit, share: of a user's images those
    of one name alone, since others have other classes. Runs that came with the lab know no more of
    their place than that name."""
    benchmark, backbone = settings["benchmark"], settings["backbone"]
    stream = benchmark.get("dataset") or benchmark["name"], Path(str(benchmark.get("data"))).name
    steps = settings["training"].get("iterations")  # of each task
    unit = steps and str(benchmark.get("tasks")), benchmark.get("train_images") is None
    return settings["method"]["name"], *stream, *unit, backbone["name"], backbone["image_size"]


def work(settings: dict) -> float:
    """A measure of a run's length among runs of its kind: images a class, all of them counting as
    one, times epochs, or images of its steps."""
    if steps := settings["training"].get("iterations"):
        return steps * settings["training"]["batch_size"]
    epochs = settings["method"].get("epochs", settings["training"]["epochs"])
    return (settings["benchmark"].get("train_images") or 1) * epochs


def stream_sizes(benchmark: Benchmark) -> tuple[int, int, int]:
    """Training images, test images and tasks of a benchmark, without loading it."""
    match benchmark:
        case Glyphs():
            tasks = len(sizes(benchmark.tasks, 100))
            return 100 * benchmark.train_images, 100 * benchmark.test_images, tasks
        case GlyphDomains():
            return 600 * benchmark.train_images, 600 * benchmark.test_images, 6
        case GlyphScripts():
            return 120 * benchmark.train_images, 120 * benchmark.test_images, 6
        case Mtil():
            chosen = select_mtil(benchmark, data_seed=0).values()
            counts = [own.counts() for own in chosen]
            train, test = (sum(sum(of[role]) for of in counts) for role in ("train", "test"))
            return train, test, len(counts)
        case Folder() | Domains():
            selection = select(benchmark, data_seed=0)
            counts, names = selection.counts(), selection.names
            train = sum(sum(of) for role, of in counts.items() if role.endswith("train"))
            cut = isinstance(benchmark, Folder)
            tasks = len(sizes(benchmark.tasks, len(names)) if cut else selection.domains)
            return train, sum(map(sum, counts.values())) - train, tasks
    source = DATASETS[benchmark.dataset]
    tasks = len(sizes(benchmark.tasks, source.classes))
    return source.counts["train"], source.counts["test"], tasks


@cache
def seconds_an_image(name: str, image_size: int | None) -> tuple[float, float]:
    """Measured on this machine with a backbone: seconds to learn from an image and to predict one.

    A timm model has random weights here; its speed does not depend on them.
    """
    device = pick_device()
    size: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    backbone = Backbone(name=name, image_size=image_size)
    if loader_of(backbone) is not None:
        tower = load_tower(backbone)
    else:
        vit: Any = timm.create_model(name, pretrained=False, num_classes=0, **size)
        tower = ViT(vit)
    tower, side = tower.to(device), tower.image_size
    images = torch.randn(STEP_IMAGES, 3, side, side, device=device, requires_grad=True)

    def step() -> None:
        with compute_type(device, "auto"):
            tower.features(images).square().mean().backward()

    def predict() -> None:
        with torch.inference_mode(), compute_type(device, "auto"):
            tower.features(images)

    for call in (step, predict):
        call()  # not counted
    return timed(step, device) / STEP_IMAGES, timed(predict, device) / STEP_IMAGES


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds from nothing to do on the device to nothing to do again."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - began


def said(seconds: float) -> str:
    """A duration for readers: `40 s`, `12 min`, `3.5 h`, `4 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"
