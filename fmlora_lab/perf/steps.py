"""How fast a training step and inference are, as ratios to a frozen backbone's.

The floor is the frozen backbone whose activations still get gradients, because prompts sit at the
input. Every row trains the same m prompts and the same head on the same random images with the
same attention, so that rows differ in the adapter alone. Rows are timed in turn, round after
round, in one process; a ratio compares steps of the same round.
"""

import gc
import json
import statistics
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmlora_lab import progress
from fmlora_lab.backbone.device import keep_memory, memory_suffices, pick_device, resolved
from fmlora_lab.backbone.sites import Prompts
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.backbone.vit import load_tower
from fmlora_lab.benchmarks.stream import Images
from fmlora_lab.config import Backbone, RunConfig, title_of
from fmlora_lab.files import write_atomically
from fmlora_lab.methods.method import StageEnd, StepBatch, TaskInfo
from fmlora_lab.runs.archive import RESULTS, use_shipped
from fmlora_lab.runs.estimate import timed
from fmlora_lab.runs.folder import runs_root
from fmlora_lab.training.compiled import compile_blocks
from fmlora_lab.training.learner import Learner
from fmlora_lab.training.recorded import BEFORE, RecordedStep

CLASSES = 10
PROMPT_TOKENS = 8
ROWS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text("utf-8")
)
"""Each row's method and the number of the task whose step is timed."""
COMPILED = " compiled"
"""What a row's name ends with whose blocks are compiled."""
ALSO_COMPILED = ("floor", "fm-lora-2", "fm-lora-20", "peft-lora")
BESIDE = 6
"""Rows that are in memory at once beside the floor: a device has to hold them all."""


class Row:
    """One method at one task of a stream, ready to step and to predict."""

    def __init__(self, name: str, backbone: Backbone, batch_size: int, pool: Any = None):
        """`pool` is the memory that recorded steps share (`recorded.py`)."""
        plain = name.removesuffix(COMPILED)
        settings, task_number = ROWS[plain]["method"], ROWS[plain]["task"]
        device = pick_device()
        model = deepcopy(_loaded(backbone.model_dump_json()))
        model.use_fused_attention(device.type == "cuda")
        if plain == "peft-lora":
            add_peft_lora(model)
        config = RunConfig.model_validate({"method": settings, "backbone": backbone})
        self.name, self.learner = name, Learner(config, model, CLASSES, device)
        if name != plain:
            compile_blocks(model)
        method = self.learner.method
        draw = torch.Generator().manual_seed(0)
        self.choices = torch.Generator().manual_seed(1)
        size = (batch_size, 3, model.image_size, model.image_size)
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=draw)
        labels = torch.randint(0, CLASSES, (batch_size,), generator=draw)
        self.images = Images(pixels, labels).to(device)
        for index in range(task_number):
            last = index + 1 == task_number
            task = TaskInfo(index, range(CLASSES), torch.Generator().manual_seed(index))
            self._begin(task, observe=last)
            if not last:
                method.end_task()
        prompts = method.prompts(None)
        if prompts is None:
            tokens = 0.02 * torch.randn(PROMPT_TOKENS, model.width)
            prompts = Prompts(torch.nn.Parameter(tokens.to(device)))
            method.prompts = lambda query: prompts
        learned = [p for p in model.network.parameters() if p.requires_grad]
        learned += [p for group in method.groups() for p in group.parameters]
        learned += [prompts.tokens, self.learner.head.rows, self.learner.head.row_bias]
        learned, on_card = list(dict.fromkeys(learned)), device.type == "cuda"
        self.optimizer = torch.optim.AdamW(learned, lr=1e-4, fused=True, capturable=on_card)
        records = on_card and method.record.alike
        self.method_step = RecordedStep(method, batch_size, pool) if records else method.step

    def _begin(self, task: TaskInfo, observe: bool) -> None:
        """Bring the method to the training of a task, with `observe` through its passes before."""
        method = self.learner.method
        self.learner.head.begin_task(task.classes, task.generator)
        method.begin_task(task)
        for stage in method.stages(1):
            if stage.observe and not observe:
                continue
            method.begin_stage(stage, task.generator)
            if not stage.observe:
                return
            for features, labels in self.learner.in_batches(self.images):
                method.observe(features, labels)
            method.end_stage(stage, StageEnd(None, task.generator))

    def step(self) -> None:
        """One training step, in the method's own way; on a CUDA device recorded as in training."""
        method = self.learner.method
        method.train()
        method.on_step(self.choices)
        self.method_step(StepBatch(self.images, None, self.learner.loss, self.optimizer))
        method.eval()

    def infer(self) -> None:
        """One pass over the batch as evaluation makes it."""
        for _ in self.learner.in_batches(self.images):
            pass


@lru_cache(maxsize=1)
def _loaded(backbone: str) -> Tower:
    """The tower that every row has a copy of, by its settings in JSON."""
    return load_tower(Backbone.model_validate_json(backbone))


def add_peft_lora(model: Tower) -> None:
    """Hugging Face PEFT's LoRA of rank 8 on the linear layers that the lab adapts by default."""
    from peft import LoraConfig, inject_adapter_in_model

    layers = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    inject_adapter_in_model(LoraConfig(r=8, lora_alpha=8, target_modules=layers), model.network)


def bench(
    backbone: Backbone,
    batch_size: int,
    repeats: int,
    compile: bool = False,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Time the named rows, all by default, with `compile` some of them compiled too; returns the
    object that `--json` prints.

    `train_ratio` is the median over rounds of a step's time over the floor's in the same round,
    `train_ratio_spread` its quartiles. `peak_memory_mb` is what building and stepping added to a
    fresh process (CPU) or allocated on the device (CUDA). A few rows at a time are timed beside the
    floor. BadInput where the device's memory does not hold them.
    """
    keep_memory()
    device = pick_device()
    names = [name for name in names or ROWS if name != "peft-lora" or _has_peft()]
    names += [name + COMPILED for name in ALSO_COMPILED if compile]
    pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
    found: list[dict[str, Any]] = []
    with memory_suffices(
        f"--batch-size is {batch_size}, for which the device's memory is too small; allowed: fewer "
        "images"
    ):
        floor = _built("floor", backbone, batch_size, pool)
        others = [name for name in names if name != "floor"]
        with progress.bar(total=len(others), desc="rows", unit="row", leave=False) as bar:
            for first in range(0, max(len(others), 1), BESIDE):
                some = others[first : first + BESIDE]
                rows = [floor, *(_built(name, backbone, batch_size, pool) for name in some)]
                measured = _timed(rows, batch_size, repeats, device)
                found += measured[1:] if found else measured  # the floor stands there once
                rows.clear()  # before the next ones are built
                bar.update(len(some))
    return {
        "backbone": backbone.name,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "image_size": floor[0].learner.model.image_size,
        "batch_size": batch_size,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "precision": resolved("auto", device),
        "rows": found,
    }


def stored_or_measured(runs_dir: Path | str | None = None) -> dict[str, Any]:
    """`bench` of the lab's own backbone: as stored beside the runs, else as it came with the lab,
    else (FMLORA_FRESH is set) measured now, which takes minutes, and stored beside the runs."""
    own = runs_root(runs_dir) / "bench.json"
    for file in (own, *([RESULTS / own.name] if use_shipped() else [])):
        if file.is_file():
            return json.loads(file.read_text("utf-8"))
    found = bench(Backbone(), batch_size=64, repeats=10)
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(own, lambda file: file.write(text.encode()))
    return found


def row_title(name: str) -> str:
    """A row's name for readers: `FM-LoRA, task 20`."""
    method, _, task = name.rpartition("-")
    if task.isdigit():
        return f"{title_of(method)}, task {task}"
    return {"peft-lora": "PEFT's LoRA", "floor": "frozen backbone"}.get(name, title_of(name))


def to_text(found: dict[str, Any]) -> str:
    """The measurements as a table."""
    lines = [
        f"{found['backbone']}, {found['image_size']} px, batch {found['batch_size']}, "
        f"{found['device']}, {found['precision']}, {found['threads']} threads, "
        f"{found['repeats']} rounds",
        f"{'':<19} {'step/floor':>10} {'quartiles':>13} {'train img/s':>11} "
        f"{'infer img/s':>11} {'peak MB':>8}",
    ]
    for row in found["rows"]:
        low, high = row["train_ratio_spread"]
        memory = "–" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:.0f}"
        lines.append(
            f"{row['name']:<19} {row['train_ratio']:>10.2f} {low:>6.2f}–{high:<6.2f} "
            f"{row['train_images_per_second']:>11.0f} "
            f"{row['inference_images_per_second']:>11.0f} {memory:>8}"
        )
    return "\n".join(lines)


def _timed(
    rows: list[tuple[Row, float | None]], batch_size: int, repeats: int, device: torch.device
) -> list[dict[str, Any]]:
    """What is measured of each row with its peak memory, the first of which is the floor."""
    training = _interleaved("training", {row.name: row.step for row, _ in rows}, repeats, device)
    inference = _interleaved("inference", {row.name: row.infer for row, _ in rows}, repeats, device)
    found = []
    for row, memory in rows:
        ratios = [t / f for t, f in zip(training[row.name], training["floor"], strict=True)]
        found.append(
            {
                "name": row.name,
                "train_ratio": statistics.median(ratios),
                "train_ratio_spread": np.percentile(ratios, [25, 75]).tolist(),
                "train_images_per_second": batch_size / statistics.median(training[row.name]),
                "inference_images_per_second": batch_size / statistics.median(inference[row.name]),
                "peak_memory_mb": memory,
            }
        )
    return found


def _interleaved(
    label: str, calls: dict[str, Callable[[], None]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each call, round after round, after two rounds that are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in progress.bar(range(repeats + 2), desc=label, unit="round", leave=False):
        for name, call in calls.items():
            needed = timed(call, device)
            if number >= 2:
                seconds[name].append(needed)
    return seconds


def _has_peft() -> bool:
    try:
        import peft  # noqa: F401
    except ImportError:
        return False
    return True


def _built(name: str, backbone: Backbone, batch_size: int, pool: Any) -> tuple[Row, float | None]:
    """A row, and the MB that building it and its first steps need at their peak: on a CUDA device,
    where records share `pool`, what is allocated there, the recorded step's among it."""
    if pool is None:
        return Row(name, backbone, batch_size), _peak_memory(name, backbone, batch_size)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    row = Row(name, backbone, batch_size, pool)
    for _ in range(BEFORE + 2):
        row.step()
    return row, (torch.cuda.max_memory_allocated() - before) / 2**20


def _peak_memory(name: str, backbone: Backbone, batch_size: int) -> float | None:
    """MB that building a row and two steps need at their peak on a CPU; None where it cannot be
    read."""
    if not Path("/proc/self/status").exists():
        return None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_peak_in_this_process, name, backbone, batch_size).result()


def _peak_in_this_process(name: str, backbone: Backbone, batch_size: int) -> float:
    if name == "peft-lora":
        _has_peft()  # imported before the count begins: its code is not its step's memory
    _loaded(backbone.model_dump_json())  # what rows are copies of is no part of one either
    before = _status("VmRSS")
    row = Row(name, backbone, batch_size)
    row.step()
    row.step()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    """A memory figure of this process in kB."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(key))
