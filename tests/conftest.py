"""What the tests share: tiny models with weights of their own, tiny streams, a keeper in memory.

No test reads or writes the user's cache or runs, and what a test registers is gone after it.
"""

import os
import signal
import sys
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from quick import QUICK
from timm.models.vision_transformer import VisionTransformer

# ruff: noqa: E402  (types and shapes that these rooms state are checked at every call, which has
# to be said before they are imported)
CHECKED = ("fmlora_lab.backbone", "fmlora_lab.heads", "fmlora_lab.methods")
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")
# A shell's background has interrupts ignored, and tests interrupt themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)

from fmlora_lab.backbone.tower import TOWERS, tower
from fmlora_lab.backbone.vit import ViT
from fmlora_lab.benchmarks.stream import (
    Images,
    Stream,
    class_incremental,
    content_fingerprint,
    domain_incremental,
)
from fmlora_lab.cli.main import main
from fmlora_lab.config import METHOD_LABELS, MethodSettings, RunConfig, Training
from fmlora_lab.heads import BANKS, TRAINED
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.profiles import set_dotted
from fmlora_lab.runs import run as run_module
from fmlora_lab.runs.folder import FolderKeeper
from fmlora_lab.runs.stored import Run
from fmlora_lab.training import loop
from fmlora_lab.training.loop import Trainer

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("lab", deadline=None)
hypothesis.settings.load_profile("lab")

REGISTRIES = (
    METHODS,
    METHOD_LABELS,
    MethodSettings.known,
    TRAINED,
    BANKS,
    Training.known_heads,
    TOWERS,
)


TIERS = {"unit", "train", "process", "browser", "real", "gpu", "cluster"}
TRAINING = {"trainer", "tiny_config"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Where neither a test nor its module states a tier, it trains if a fixture of it does; a
    notebook runs in a kernel of its own."""
    for item in items:
        if not isinstance(item, pytest.Function):
            item.add_marker("process")
        elif not TIERS & {mark.name for mark in item.iter_markers()}:
            item.add_marker("train" if TRAINING & {*item.fixturenames} else "unit")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """One cache for the whole session, so that what takes work to draw is drawn once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMLORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("FMLORA_RUNS", str(tmp_path / "runs"))


@pytest.fixture(autouse=True)
def own_registries():
    """A method, head or tower that a test registers, as anyone would, is unknown after it."""
    before = [copy(registry) for registry in REGISTRIES]
    yield
    for registry, known in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(known)
    sys.modules.pop("fmlora_lab.leads", None)  # who imports it again has its methods again


@pytest.fixture
def call(monkeypatch, capsys):
    """`call(*words)` runs the command line in this process: (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["fmlora-lab", *map(str, words)])
        # What an option tells the processes that a command starts is for that command.
        with patch.dict(os.environ), pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return stopped.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def tiny_vit():
    """`tiny_vit(seed=0, **options)`: a timm ViT of width 32 whose every tensor matters.

    Values come from NumPy by the tensors' names, so they depend on no library's initialisation,
    and none is zero or one: a layer scale of 1e-5 would hide what a block does.
    """

    def make(seed: int = 0, **options: Any) -> VisionTransformer:
        sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        vit = VisionTransformer(**{**sizes, "num_classes": 0, **options}).eval()
        vit.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        draw = np.random.default_rng(seed)
        with torch.no_grad():
            for name, tensor in sorted(vit.state_dict().items()):
                noise = torch.from_numpy(draw.standard_normal(tuple(tensor.shape)))
                if name.endswith("weight") and tensor.ndim > 1:
                    tensor.copy_(noise / tensor[0].numel() ** 0.5)
                elif name.endswith(("weight", "gamma")):
                    tensor.copy_(1 + 0.1 * noise)
                else:
                    tensor.copy_((0.1 if name.endswith("bias") else 0.5) * noise)
        return vit

    return make


def pictures(labels: np.ndarray, noise: float, seed: int, size: int = 16) -> torch.Tensor:
    """uint8 images: one coarse random pattern a class, plus Gaussian noise (std `noise`)."""
    pattern = np.random.default_rng(7).uniform(40, 215, (64, 3, 4, 4)).repeat(size // 4, 2)
    clean = pattern.repeat(size // 4, 3)[labels]
    drawn = clean + noise * np.random.default_rng(seed).standard_normal(clean.shape)
    return torch.from_numpy(drawn.round().clip(0, 255).astype(np.uint8))


@pytest.fixture
def tiny_images():
    """`tiny_images(classes, each, noise=20, seed=0)`: that many images of each class label, or a
    number for each class."""

    def make(classes: range, each: int | list[int], noise: float = 20.0, seed: int = 0) -> Images:
        labels = np.repeat(np.asarray(classes), each)
        return Images(pictures(labels, noise, seed), torch.from_numpy(labels))

    return make


@pytest.fixture
def tiny_stream(tiny_images):
    """`tiny_stream(scenario, classes=4, tasks=2, ...)`: separable images, cut by the package."""

    def make(
        scenario: str = "class-incremental",
        classes: int = 4,
        tasks: int = 2,
        each: int | list[int] = 8,
        test_each: int = 3,
        noise: float = 20.0,
    ) -> Stream:
        names = tuple(f"class {k}" for k in range(classes))
        drawn = [
            (
                tiny_images(range(classes), each, noise, 2 * d),
                tiny_images(range(classes), test_each, noise, 2 * d + 1),
            )
            for d in range(tasks)
        ]
        if scenario == "class-incremental":
            train, test = drawn[0]
            mark = content_fingerprint(train, test)
            return class_incremental("tiny", train, test, names, tasks, 0, mark)
        domains = []
        for d, (train, test) in enumerate(drawn):  # each domain turns the colours further
            turned = [Images(part.pixels.roll(d, 1), part.labels) for part in (train, test)]
            domains.append((f"domain {d}", *turned))
        return domain_incremental("tiny", domains, names, 0, "tiny domains")

    return make


@dataclass
class MemoryKeeper:
    """Keeps a run in memory: the log's lines, each task's record, and the latest state."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, torch.Tensor]] = field(default_factory=list)
    state: dict[str, np.ndarray] = field(default_factory=dict)

    def load_checkpoint(self) -> None:
        return None

    def save_checkpoint(self, tensors: dict[str, np.ndarray], position: dict[str, Any]) -> None:
        self.state = {name: array.copy() for name, array in tensors.items()}

    def save_task(self, index: int, tensors: dict[str, np.ndarray]) -> None:
        self.records.append(
            {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
        )

    def save_features(self, index: int, features: dict[str, np.ndarray]) -> None:
        raise AssertionError("features are kept where that was asked for alone")

    def log(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def losses(self, task: int, stage: str = "train") -> list[float]:
        return [ln["loss"] for ln in self.lines if (ln["task"], ln["stage"]) == (task, stage)]


@pytest.fixture
def memory_keeper():
    return MemoryKeeper


class Stopped(Exception):
    """A run was stopped as by a kill: after an epoch's line, before what follows it."""


def stopping(keeper_type: type) -> type:
    """A keeper of this kind that stops its run once after every epoch."""
    seen = set()

    class Stopping(keeper_type):
        def log(self, line):
            super().log(line)
            key = line["task"], line["stage"], line["epoch"]
            if key not in seen:
                seen.add(key)
                raise Stopped

    return Stopping


@pytest.fixture
def interrupted(monkeypatch):
    """`interrupted(start, keeper_type)`: call `start(keeper_type)` until it is not stopped any
    more; returns what it then gives and how often it was stopped. No checkpoint is left out."""
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", float("inf"))

    def go(start, keeper_type):
        keeper, stops = stopping(keeper_type), 0
        while True:
            try:
                return start(keeper), stops
            except Stopped:
                stops += 1

    return go


@pytest.fixture(scope="session")
def quick():
    """`quick(name, **more)`: settings with which a method learns in a few steps."""

    def make(name: str, **more) -> dict:
        return {"name": name, **QUICK.get(name, {}), **more}

    return make


@pytest.fixture
def float64(monkeypatch):
    """Everything that a run computes in float32 is computed in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def trainer(monkeypatch, tiny_vit):
    """`trainer(method, stream, ...)`: a Trainer on the CPU in float32, ready to run.

    `method` is a name or a dictionary of its settings; further keywords are training settings.
    """
    monkeypatch.setattr(loop, "pick_device", lambda: torch.device("cpu"))

    def make(
        method, stream: Stream, vit=None, keeper=None, seed: int = 0, compile=False, **settings
    ) -> Trainer:
        defaults = {"epochs": 2, "batch_size": 8, "precision": "float32", "augmentation": "none"}
        training = {**defaults, **settings}
        heads = {"random_features": 30}
        config = RunConfig(method=method, seed=seed, training=training, heads=heads)
        model = ViT(tiny_vit() if vit is None else vit)
        return Trainer(config, stream, model, keeper or MemoryKeeper(), compile=compile)

    return make


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Separable images of four classes in class folders, six to train on and three to test."""
    root = tmp_path_factory.mktemp("images")
    for seed, (part, each) in enumerate((("train", 6), ("test", 3))):
        labels = np.repeat(np.arange(4), each)
        for n, (label, image) in enumerate(zip(labels, pictures(labels, 20, seed), strict=True)):
            file = root / part / f"class{label}" / f"{n}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return root


@pytest.fixture
def tiny_config(image_folder, tiny_vit):
    """`tiny_config(method, **dotted)`: a whole run's configuration, which takes a moment: the tiny
    ViT as a tower, `image_folder` in two tasks, two epochs."""

    @tower("tiny")
    def load(backbone) -> ViT:
        model = ViT(tiny_vit())
        model.fingerprint = "tiny"
        return model

    def make(method, **dotted: Any) -> RunConfig:
        config = {
            "method": method,
            "benchmark": {"name": "folder", "data": image_folder, "tasks": 2},
            "backbone": {"name": "tiny"},
            "training": {"epochs": 2, "batch_size": 8, "precision": "float32"},
            "heads": {"random_features": 30},
        }
        for key, value in dotted.items():
            set_dotted(config, key, value)
        return RunConfig.model_validate(config)

    return make


@pytest.fixture
def resumed(interrupted, monkeypatch):
    """`resumed(config, runs_dir)`: the run of this configuration, stopped after every epoch."""

    def go(config: RunConfig, runs_dir: Path) -> Run:
        def start(keeper):
            monkeypatch.setattr(run_module, "FolderKeeper", keeper)
            return run_module.run(config, runs_dir)

        stored, stops = interrupted(start, FolderKeeper)
        assert stops == len(stored.progress()) > 1
        return stored

    return go


@pytest.fixture
def same_run():
    """Whether two runs are one to the last bit: what they lost, answered and hold."""

    def check(a: Run, b: Run) -> None:
        assert a.result["heads"] == b.result["heads"]
        assert [line["loss"] for line in a.progress()] == [line["loss"] for line in b.progress()]
        left, right = (r.folder.read_arrays("checkpoint.safetensors")[0] for r in (a, b))
        assert left.keys() == right.keys()
        for name in left:
            assert left[name].tobytes() == right[name].tobytes(), name

    return check
