"""What the tests share: tiny models with weights of their own, tiny streams, a keeper in memory.

No test reads or writes the user's cache or runs.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import fmlora_lab.methods  # noqa: F401  (a configuration names a method: all must be known)
from fmlora_lab import cli, training
from fmlora_lab.backbone.vit import AdaptedViT
from fmlora_lab.benchmarks.stream import (
    Images,
    Stream,
    class_incremental,
    content_fingerprint,
    domain_incremental,
)
from fmlora_lab.config import RunConfig
from fmlora_lab.training import Trainer


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """One cache for the whole session, so that what takes work to draw is drawn once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMLORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("FMLORA_RUNS", str(tmp_path / "runs"))


@pytest.fixture
def call(monkeypatch, capsys):
    """`call(*words)` runs the command line in this process: (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["fmlora-lab", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
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
    """`tiny_images(classes, each, noise=20, seed=0)`: that many images of each class label."""

    def make(classes: range, each: int, noise: float = 20.0, seed: int = 0) -> Images:
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
        each: int = 8,
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

    def log(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def losses(self, task: int, stage: str = "train") -> list[float]:
        return [ln["loss"] for ln in self.lines if (ln["task"], ln["stage"]) == (task, stage)]


@pytest.fixture
def memory_keeper():
    return MemoryKeeper


@pytest.fixture
def trainer(monkeypatch, tiny_vit):
    """`trainer(method, stream, ...)`: a Trainer on the CPU in float32, ready to run.

    `method` is a name or a dictionary of its settings; further keywords are training settings.
    """
    monkeypatch.setattr(training, "pick_device", lambda: torch.device("cpu"))

    def make(method, stream: Stream, vit=None, keeper=None, seed: int = 0, **settings) -> Trainer:
        defaults = {"epochs": 2, "batch_size": 8, "precision": "float32", "augmentation": "none"}
        config = RunConfig(method=method, seed=seed, training={**defaults, **settings})
        model = AdaptedViT(tiny_vit() if vit is None else vit)
        return Trainer(config, stream, model, keeper or MemoryKeeper())

    return make
