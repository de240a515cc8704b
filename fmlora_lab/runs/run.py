"""`run`: the only door. A stored run is loaded, a half-done one resumed, else it is computed."""

import platform
import subprocess
from collections.abc import Callable, Collection, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from fmlora_lab import progress, threads
from fmlora_lab.backbone.device import has_bfloat16, pick_device
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.backbone.vit import load_tower
from fmlora_lab.benchmarks import check_stream, load
from fmlora_lab.benchmarks.cut import sizes_said
from fmlora_lab.benchmarks.stream import Stream, validation_stream
from fmlora_lab.config import METHOD_LABELS, BadInput, RunConfig
from fmlora_lab.files import TEMPORARY
from fmlora_lab.interrupts import stopping
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.metrics import acc_over_time, accuracy_matrix, summary, told_apart, transfer
from fmlora_lab.runs import planning
from fmlora_lab.runs.archive import shipped
from fmlora_lab.runs.folder import FEATURES, FolderKeeper, RunFolder
from fmlora_lab.runs.identity import check_tower, identity, images_known, names_elsewhere, settled
from fmlora_lab.runs.stored import Run, run_folder
from fmlora_lab.seeds import generator
from fmlora_lab.training import distributed
from fmlora_lab.training.learner import TRAINED_HEAD, Learner
from fmlora_lab.training.loop import Nowhere, Position, Trainer, to_torch

Curves = dict[str, list[float]]
"""By head, Acc in percent on all that was seen after each task learned so far; NaN where a head was
not tested."""


@stopping("before training began")
def run(
    config: RunConfig,
    runs_dir: Path | str | None = None,
    use_shipped: bool = False,
    keep_features: bool = False,
    watch: Callable[[Curves], None] | None = None,
    compile: bool = False,
) -> Run:
    """The run of this configuration, from disk if it is there, else trained.

    With `keep_features` the features of all test images after each task stay with it, in half
    precision (`Run.features`); BadInput for a run that is stored, or was begun, without them.

    With `compile`, what lies between the backbone's products is compiled where the run has to be
    computed; it stays the same run, but for rounding. BadInput where that cannot be.

    `watch` is shown the run's curves after each task, or once those of what is stored. What it
    raises ends the run there; whoever asks for the same one again has it go on.

    With `use_shipped`, a run that came with the lab counts as stored: its numbers are there, its
    weights are not. One process trains a run; another that asks for the same one waits for it and
    reads it. Raises BadInput for what cannot be used, DamagedFile for a stored file that is not as
    it was written, OSError, with the path, for what the system refuses: when the cause is gone, the
    run goes on from its last checkpoint. So it does after an interrupt, which is `Stopped`.
    """
    if not isinstance(config, RunConfig):
        kind = type(config).__name__
        raise BadInput(f"a run is of a configuration, as `configure` makes it; this is a {kind}")
    ranks = distributed.ranks()
    if (found := find_stored(config, runs_dir, use_shipped)) is not None:
        ranks.told(False)
        if keep_features:
            _check_features(found.folder)
        return _shown(found, watch)
    if planning.active:
        raise planning.UpToHere
    model, stream = parts(config)
    settles = settled(config, images_known(config, model.image_size).names)
    run_id = settles.run_id(stream.fingerprint, model.fingerprint)
    folder = run_folder(run_id, runs_dir)
    with folder.alone():
        if keep_features:
            _check_features(folder)
        if ranks.told(not folder.complete):
            _compute(settles, model, stream, folder, keep_features, watch, compile)
            watch = None
    stored = Run(folder)
    stored.check()
    return _shown(_as_asked(stored, config), watch)


def _check_features(folder: RunFolder) -> None:
    """BadInput where they were not kept of all that a run has learned."""
    of_run = folder.has(FEATURES) or not folder.complete
    learned, kept = (
        sum(TEMPORARY not in file.name for file in folder.path.glob(f"{part}/*"))
        for part in ("tasks", FEATURES)
    )
    if not of_run or kept < learned:
        raise BadInput(
            f"run {folder.run_id} is stored without its features, or those of some tasks; compute "
            f"it anew after `fmlora-lab runs delete {folder.run_id}`"
        )


@stopping("in another process of this run")
def follow(config: RunConfig, compile: bool = False) -> None:
    """What the processes of a run on several devices do beside the first, which is in `run`."""
    if distributed.ranks().told(False):
        model, stream = parts(config)
        settles = settled(config, images_known(config, model.image_size).names)
        with threads.at_most(_threads(settles, model)):
            Trainer(settles, stream, model, Nowhere(), compile=compile).run()


def _shown(stored: Run, watch: Callable[[Curves], None] | None) -> Run:
    if watch is not None:
        counts, heads = stored.result["test_images"], stored.result["heads"]
        watch({name: _curve(stored.matrices(name)[0], counts) for name in heads})
    return stored


def _curve(a: np.ndarray, counts: list[int]) -> list[float]:
    return acc_over_time(a, counts).tolist()


def find_stored(
    config: RunConfig, runs_dir: Path | str | None = None, use_shipped: bool = False
) -> Run | None:
    """The run of this configuration if it is complete; nothing is loaded or computed for it.

    Runs that came with the lab are of one machine: with "auto" they count whatever type it chose.
    """
    folder = run_folder(identity(config), runs_dir)
    if folder.complete:
        stored = Run(folder)
        stored.check()
        return _as_asked(stored, config)
    archived = shipped(*names_elsewhere(config)) if use_shipped else None
    return None if archived is None else _as_asked(Run(archived), config)


def _as_asked(stored: Run, config: RunConfig) -> Run:
    """The run with the configuration as it reads today: its file may be older than an option,
    whose default it then has. What its stream and its machine decided stays."""
    was, training = stored.config, stored.config["training"]
    decided = {"loss_over": training.get("loss_over", "task"), "precision": training["precision"]}
    stored.read_as(config.model_dump(mode="json"))
    stored.config["training"] |= decided
    if config.benchmark.order != "drawn":
        stored.config["benchmark"]["order"] = was["benchmark"]["order"]
        stored.config["order_seed"] = 0
    return stored


def restore(stored: Run) -> Learner:
    """The trained model of a complete run; `merge()` on it gives a plain timm state dict.

    Needs the run's weights where its configuration says that they are, and no images. BadInput for
    a run that was shipped, and where there are other weights today.
    """
    stored.needs_factors("restore")
    config = RunConfig.model_validate(stored.config)
    model = tower_of_run(config)
    if model.fingerprint != stored.environment["weights"]:
        raise BadInput(
            f"run {stored.id} was trained on other weights of {config.backbone.name!r} than there "
            "are today, so its model cannot be restored; give those in backbone.weights"
        )
    classes = len(stored.environment["class_names"])
    texts = stored.environment.get("texts", ())
    learner = Learner(config, model, classes, torch.device("cpu"), texts=texts)
    arrays, _ = stored.folder.read_arrays("checkpoint.safetensors")
    # A run of an older version has no banks, or others.
    there = {name.split(".")[0] for name in arrays}
    learner.load_state(to_torch(arrays), there)
    return learner


def parts(config: RunConfig) -> tuple[Tower, Stream]:
    """The backbone and the stream of a configuration, read from disk or made."""
    model = tower_of_run(config)
    return model, stream_of_run(config, model.image_size)


def tower_of_run(config: RunConfig) -> Tower:
    """The backbone of a configuration, as it was pre-trained."""
    model = load_tower(config.backbone)
    check_tower(config.backbone, model)
    return model


def stream_of_run(config: RunConfig, image_size: int) -> Stream:
    """The stream of a configuration, its images square at `image_size`."""
    validation = config.evaluate_on == "validation"
    stream = load(config.benchmark, image_size, config.order_seed, config.data_seed, validation)
    check_stream(config.benchmark, image_size, config.data_seed, validation, stream)
    if validation:
        stream = validation_stream(stream, generator(config.data_seed, "validation"))
    return stream


def _compute(
    config: RunConfig,
    model: Tower,
    stream: Stream,
    folder: RunFolder,
    keep_features: bool,
    watch: Callable[[Curves], None] | None,
    compile: bool,
) -> None:
    counts = [len(task.test) for task in stream.tasks]

    def tell(at: Position) -> None:
        if watch is not None:
            right = at.correct.items()
            watch({name: _curve(accuracy_matrix(rows, counts), counts) for name, rows in right})

    for line in _notes(config, stream):
        progress.say(line)
    with threads.at_most(_threads(config, model)):
        # This adapts the model's sites.
        keeper = FolderKeeper(folder)
        trainer = Trainer(config, stream, model, keeper, keep_features, tell, compile)
        folder.write_json("config.json", config.model_dump(mode="json"))
        folder.write_json("environment.json", _environment(config, model, stream, compile))
        measured = trainer.run()
    folder.write_json("result.json", {"run_id": folder.run_id, **_result(config, measured)})


def _notes(config: RunConfig, stream: Stream) -> Iterator[str]:
    """What whoever asked for this stream should know of it."""
    if stream.scenario != "class-incremental":
        return
    each = [len(task.classes) for task in stream.tasks]
    if len(set(each)) > 1:
        yield f"{sum(each)} classes in {sizes_said(each)}"
    if METHODS[config.method.name].record.one_task:
        return
    if 1 in each[1:] and config.training.loss_over == "seen":
        yield (
            "there are tasks of one class, over which alone nothing can be learned: the loss is "
            "over all classes seen (training.loss_over = 'seen')"
        )
    if each[0] == 1:
        yield "the first task has one class: there is nothing to tell apart, so it trains nothing"


def _threads(config: RunConfig, model: Tower) -> int:
    """How many pay for a process's part of a batch, and no more than its part of the cores; on
    another device they are not what computes."""
    if pick_device().type != "cpu" or threads.of_user() or torch.get_num_threads() == 1:
        return torch.get_num_threads()
    one = torch.zeros(1, 3, model.image_size, model.image_size, dtype=torch.uint8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.features(model.pixels_in(one))
    share = distributed.ranks().size
    paying = threads.paying(config.training.batch_size * counter.get_total_flops() / 2 / share)
    return paying if share == 1 else min(paying, max(1, threads.cores() // share))


def _result(config: RunConfig, measured: dict[str, Any]) -> dict[str, Any]:
    counts, kept = measured["counts"], measured["kept_by_head"]
    heads = {
        name: {
            **_of_head(measured["correct"][name], measured["within"][name], counts, kept[name]),
            **_final("task_given", measured["given"].get(name), counts),
        }
        for name in measured["correct"]
    }
    ranked_by = ranking_head(config, heads)
    ranking = {name: value for name, value in heads[ranked_by].items() if name != "kept"}
    trained, seconds = measured["trained"], measured["training_seconds"]
    matrix = np.array(ranking["accuracy_matrix"], float)
    n = len(counts)
    return {
        **ranking,
        "ranked_by": ranked_by,
        **(transfer(matrix) if config.measure_ahead else {}),
        **_of_texts(heads.get(TRAINED_HEAD), measured["zero_shot"], counts),
        "heads": heads,
        **_final("task_inferred", measured["inferred"].get("task"), counts),
        "drift": _lower(measured["drift"], n),
        "drift_explained": _lower(measured["explained"], n),
        "test_images": counts,
        "seconds": measured["seconds"],
        "training_seconds": seconds,
        "heads_seconds": measured["heads_seconds"],
        "images_per_second": measured["images"] / seconds if seconds else None,
        "passes": measured["images"] / measured["train_images"],
        "trainable_parameters": round(sum(trained) / len(trained)),
        "trainable_parameters_by_task": trained,
        "kept_parameters": measured["kept"],
        "inference_flops": measured["inference_flops"],
        "task_files": len(trained),
    }


def _of_texts(
    head: dict[str, Any] | None, zero_shot: list[list[int]], counts: list[int]
) -> dict[str, Any]:
    """Of two towers, with the task given and unknown: Transfer, Average, Last, and the accuracy on
    every task before anything was learned, in percent."""
    if not zero_shot or head is None:
        return {}
    matrices = (head["within_task_matrix"], head["accuracy_matrix"])
    return {
        "by_texts": {
            task: {
                **transfer(np.array(matrix, float)),
                "zero_shot": [100 * right / n for right, n in zip(rights, counts, strict=True)],
            }
            for task, matrix, rights in zip(("given", "unknown"), matrices, zero_shot, strict=True)
        }
    }


def ranking_head(config: RunConfig, heads: Collection[str]) -> str:
    """Of these heads the one that ranks a run of this configuration."""
    ranked_by, trained = METHODS[config.method.name].ranked_by, config.training.head
    return trained if ranked_by == TRAINED_HEAD and trained in heads else ranked_by


def _of_head(right: list, within: list, counts: list[int], kept: int) -> dict[str, Any]:
    a, w = accuracy_matrix(right, counts), accuracy_matrix(within, counts)
    return {
        **summary(a, counts),
        **told_apart(w, a, counts),
        "accuracy_matrix": _jsonable(a),
        "within_task_matrix": _jsonable(w),
        "kept": kept,
    }


def _final(name: str, right: list | None, counts: list[int]) -> dict[str, Any]:
    """What only a method that infers tasks has: percent of all test images after the last task,
    and the matrix."""
    if right is None:
        return {}
    matrix = accuracy_matrix(right, counts)
    last = np.average(matrix[-1], weights=counts)
    return {name: None if np.isnan(last) else float(last), f"{name}_matrix": _jsonable(matrix)}


def _lower(rows: list[list[float | None]], n: int) -> list[list[float | None]]:
    """(n, n) from the rows below the diagonal, the last of which is the last task's; None where
    nothing was measured."""
    rows = [[] for _ in range(n - len(rows))] + rows
    return [[*row, *[None] * (n - len(row))] for row in rows]


def _jsonable(a: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in a]


def _environment(config: RunConfig, model: Tower, stream: Stream, compile: bool) -> dict[str, Any]:
    packages = ("fmlora-lab", "torch", "timm", "numpy", "safetensors")
    device = pick_device()
    return {
        "packages": {name: version(name) for name in packages},
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "bfloat16": has_bfloat16(device),
        "threads": torch.get_num_threads(),
        "devices": distributed.ranks().size,
        "compiled": compile,
        "revision": revision(),
        "method": METHOD_LABELS[config.method.name]._asdict(),
        "data": stream.fingerprint,
        "weights": model.fingerprint,
        "class_names": list(stream.class_names),
        "tasks": [task.name for task in stream.tasks],
        "test_images": [len(task.test) for task in stream.tasks],
        "sites": len(model.sites),
        **({"texts": stream.texts} if model.reads_text else {}),
    }


def revision() -> str | None:
    """The lab's git revision, None outside a repository."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.check_output(asked, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
