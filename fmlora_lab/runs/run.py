"""`run`: the only door. A stored run is loaded, a half-done one resumed, else it is computed."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import Timeout

from fmlora_lab.backbone.device import has_bfloat16
from fmlora_lab.backbone.vit import AdaptedViT, load_vit
from fmlora_lab.benchmarks import load
from fmlora_lab.benchmarks.stream import Stream, validation_stream
from fmlora_lab.config import RunConfig
from fmlora_lab.learner import Learner, generator
from fmlora_lab.metrics import accuracy_matrix, summary
from fmlora_lab.runs.store import FolderKeeper, Run, RunFolder, runs_root, shipped
from fmlora_lab.training import Trainer, to_torch


def run(config: RunConfig, runs_dir: Path | str | None = None, use_shipped: bool = False) -> Run:
    """The run of this configuration, from disk if it is there, else trained.

    With `use_shipped`, a run that came with the lab counts as stored: its numbers are there, its
    weights are not. One process trains a run; another that asks for the same one waits for it and
    reads it. Raises BadInput for what cannot be used, DamagedFile for a stored file that is not as
    it was written.
    """
    model, stream = parts(config)
    folder = RunFolder(runs_root(runs_dir), config.run_id(stream.fingerprint, model.fingerprint))
    if use_shipped and not folder.complete and (found := shipped(folder.run_id)):
        return _as_asked(found, config)
    if not folder.complete:
        lock = folder.lock()
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"another process is computing run {folder.run_id}; waiting", file=sys.stderr)
            lock.acquire()
        with lock:
            if not folder.complete:
                _compute(config, model, stream, folder)
            lock.release()
    stored = Run(folder)
    stored.check()
    return _as_asked(stored, config)


def _as_asked(stored: Run, config: RunConfig) -> Run:
    """The run with the configuration as it reads today: its file may be older than an option,
    whose default it then has."""
    stored.config = config.model_dump(mode="json")
    return stored


def find_stored(
    config: RunConfig, runs_dir: Path | str | None = None, use_shipped: bool = False
) -> Run | None:
    """The run of this configuration if it is complete; nothing is computed."""
    model, stream = parts(config)
    run_id = config.run_id(stream.fingerprint, model.fingerprint)
    folder = RunFolder(runs_root(runs_dir), run_id)
    if folder.complete:
        return Run(folder)
    return shipped(run_id) if use_shipped else None


def restore(stored: Run) -> Learner:
    """The trained model of a complete run; `merge()` on it gives a plain timm state dict.

    Needs the run's images and weights where its configuration says that they are.
    """
    config = RunConfig.model_validate(stored.config)
    model, stream = parts(config)
    learner = Learner(config, model, len(stream.class_names), torch.device("cpu"))
    arrays, _ = stored.folder.read_arrays("checkpoint.safetensors")
    learner.load_state(to_torch(arrays))
    return learner


def parts(config: RunConfig) -> tuple[AdaptedViT, Stream]:
    """The backbone and the stream of a configuration."""
    model = load_vit(config.backbone)
    stream = load(config.benchmark, model.image_size, config.order_seed, config.data_seed)
    if config.evaluate_on == "validation":
        stream = validation_stream(stream, generator(config.data_seed, "validation"))
    return model, stream


def _compute(config: RunConfig, model: AdaptedViT, stream: Stream, folder: RunFolder) -> None:
    folder.write_json("config.json", config.model_dump(mode="json"))
    folder.write_json("environment.json", _environment(config, model, stream))
    measured = Trainer(config, stream, model, FolderKeeper(folder)).run()
    folder.write_json("result.json", {"run_id": folder.run_id, **_result(config, measured)})


def _result(config: RunConfig, measured: dict[str, Any]) -> dict[str, Any]:
    counts = measured["counts"]
    matrices = {name: accuracy_matrix(rows, counts) for name, rows in measured["correct"].items()}
    ranked_by = "prototype" if config.training.head == "prototype" else "head"
    if "head" not in matrices:
        ranked_by = "prototype"
    trained, seconds = measured["trained"], measured["training_seconds"]
    return {
        **summary(matrices[ranked_by], counts),
        "ranked_by": ranked_by,
        "accuracy_matrix": _jsonable(matrices[ranked_by]),
        "heads": {
            name: {**summary(a, counts), "accuracy_matrix": _jsonable(a)}
            for name, a in matrices.items()
        },
        "test_images": counts,
        "seconds": measured["seconds"],
        "training_seconds": seconds,
        "images_per_second": measured["images"] / seconds if seconds else None,
        "trainable_parameters": round(sum(trained) / len(trained)),
        "trainable_parameters_by_task": trained,
        "kept_parameters": measured["kept"],
        "inference_flops": measured["inference_flops"],
        "task_files": len(trained),
    }


def _jsonable(a: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in a]


def _environment(config: RunConfig, model: AdaptedViT, stream: Stream) -> dict[str, Any]:
    packages = ("fmlora-lab", "torch", "timm", "numpy", "safetensors")
    device = next(iter(["cuda"] if torch.cuda.is_available() else ["cpu"]))
    return {
        "packages": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "bfloat16": has_bfloat16(torch.device(device)),
        "threads": torch.get_num_threads(),
        "revision": revision(),
        "data": stream.fingerprint,
        "weights": model.fingerprint,
        "class_names": list(stream.class_names),
        "tasks": [task.name for task in stream.tasks],
        "sites": len(model.sites),
    }


def revision() -> str | None:
    """The lab's git revision, None outside a repository."""
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked.stdout.strip()
