"""Where a run's time goes, from the start of the process to the last file.

The loop is not written for it: for the time of one run, what it calls is called through a clock.
Each part's time is without what is measured inside it.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch

from fmlora_lab.backbone.device import pick_device
from fmlora_lab.benchmarks import augment
from fmlora_lab.benchmarks.stream import Images
from fmlora_lab.config import RunConfig, title_of
from fmlora_lab.files import check_writable
from fmlora_lab.plots.sheet import save
from fmlora_lab.plots.stacks import stacks
from fmlora_lab.runs.folder import FolderKeeper
from fmlora_lab.runs.run import run
from fmlora_lab.training import stage
from fmlora_lab.training.learner import Learner
from fmlora_lab.training.loop import Trainer
from fmlora_lab.training.stage import StageRun

STARTING, METHOD, KEEPING = "start-up", "method", "checkpoints"
PARTS: tuple[str, ...] = (
    STARTING,
    "data",
    "augmentation",
    "step",
    METHOD,
    "evaluation",
    "heads",
    KEEPING,
)
"""`step` is forward, backward and update, and what else an epoch does; `method` what a method does
around its epochs; `evaluation` to find the features of test images; `heads` to fill those that keep
statistics, and what all of them say; `checkpoints` whatever is written."""
CLOCKED = (
    (augment, "augmented", "augmentation"),
    (stage, "draw", "augmentation"),
    (StageRun, "epoch", "step"),
    (Trainer, "_fill_rows", "evaluation"),
    (Learner, "begin_banks", "heads"),
    (Learner, "fill_banks", "heads"),
    (Learner, "_said", "heads"),
    (Trainer, "_checkpoint", KEEPING),
    (FolderKeeper, "save_task", KEEPING),
    (FolderKeeper, "log", KEEPING),
    (Trainer, "run", METHOD),
)
"""Which part's time a call is, inside a run's training."""
AIM = 1.3
"""At most this many times its steps may a run take, with all heads."""


class Clock:
    """Seconds of each part, of parts inside one another the innermost."""

    def __init__(self, began: float):
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.inside, self.since = [STARTING], began

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        if self.inside == [STARTING] and part != METHOD:  # training has not begun
            yield
            return
        self.note()
        self.inside.append(part)
        try:
            yield
        finally:
            self.note()
            self.inside.pop()
            if part == METHOD:
                self.inside = [KEEPING]

    def note(self) -> None:
        now = time.perf_counter()
        self.seconds[self.inside[-1]] += now - self.since
        self.since = now

    def through(self, call: Callable, part: str) -> Callable:
        @wraps(call)
        def clocked(*given: Any, **named: Any) -> Any:
            with self.during(part):
                return call(*given, **named)

        return clocked


def bench(config: RunConfig, figures: Path | None = None) -> dict[str, Any]:
    """Compute a run, which is not kept; returns the object that `--json` prints, and draws it into
    the folder `figures`, as PNG and SVG.

    `whole_by_steps` is what a run says of itself, its seconds by those of its epochs. On a GPU the
    times are the host's: what the device has to do counts where it is waited for.
    """
    if figures is not None:
        check_writable(figures)
    clock = Clock(time.perf_counter() - since_the_process_began())
    with ExitStack() as patched, TemporaryDirectory() as folder:
        for owner, name, part in CLOCKED:
            clocked = clock.through(getattr(owner, name), part)
            patched.enter_context(patch.object(owner, name, clocked))
        assert Images.pixels.fget is not None
        read = property(clock.through(Images.pixels.fget, "data"))
        patched.enter_context(patch.object(Images, "pixels", read))
        stored = run(config, folder)
        clock.note()
        threads = stored.environment["threads"]
    result = stored.result
    found = {
        "method": stored.method_name,
        "benchmark": config.benchmark.name,
        "backbone": config.backbone.name,
        "device": torch.cuda.get_device_name() if pick_device().type == "cuda" else "cpu",
        "precision": stored.config["training"]["precision"],
        "threads": threads,
        "images": round(result["images_per_second"] * result["training_seconds"])
        if result["training_seconds"]
        else 0,
        "seconds": {part: round(value, 3) for part, value in clock.seconds.items()},
        "whole": round(sum(clock.seconds.values()), 3),
        "whole_by_steps": round(result["seconds"] / result["training_seconds"], 3)
        if result["training_seconds"]
        else None,
        "aim": AIM,
    }
    if figures is not None:
        drawn = stacks({"": {found["method"]: found["seconds"]}}, "seconds", heading(found))
        save(drawn, figures, f"run-{found['method']}")
    return found


def since_the_process_began() -> float:
    """Seconds, imports among them; 0 where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def heading(found: dict[str, Any]) -> str:
    return (
        f"Where a run's time goes: {title_of(found['method'])} on {found['benchmark']}, "
        f"{found['device']}, {found['precision']}, threads {found['threads']}"
    )


def to_text(found: dict[str, Any]) -> str:
    """A line a part."""
    whole = found["whole"]
    lines = [
        f"{part:<13} {value:>8.2f} s {value / whole:>6.0%}"
        for part, value in found["seconds"].items()
    ]
    ratio = found["whole_by_steps"]
    beside = "it has no steps" if ratio is None else f"{ratio:.2f} times its steps"
    return "\n".join(
        [
            heading(found),
            *lines,
            f"{'whole':<13} {whole:>8.2f} s",
            f"without start-up {beside} (aim {found['aim']:.2f}); {found['images']:,} images",
        ]
    )
