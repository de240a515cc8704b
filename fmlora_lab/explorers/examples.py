"""What the explorers show of a run and cannot compute at once: evaluated ahead, kept with the run.

`fmlora-lab examples` calls this. The explorers read what is kept and need no torch. A run that is
shipped afterwards (`fmlora-lab ship`) is offered by them wherever the lab is installed.
"""

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fmlora_lab.analysis.collision import collision_rates
from fmlora_lab.analysis.experts import experts_of, of_two_towers
from fmlora_lab.analysis.overlap import related
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.explorers.features import kept_of
from fmlora_lab.files import check_writable
from fmlora_lab.heads import TrainedHead
from fmlora_lab.methods.fm_lora.fm_lora import FMLoRA
from fmlora_lab.runs.run import restore, stream_of_run
from fmlora_lab.runs.stored import Run

FLIPPED = 2
"""Test images that may be answered otherwise than when they were measured: rounding."""


def prepare(run: Run) -> None:
    """Keep with a run all that the explorers show of it.

    Needs the test images of a run of FM-LoRA. BadInput for a run that no explorer shows, of two
    towers any but the expert pool's; OSError for a disk on which nothing can be kept.
    """
    if not run.shipped:
        check_writable(run.folder.path)
    if of_two_towers(run):
        experts_of(run)
        return
    related(run)
    if not run.shipped:
        collision_rates(run)
    if run.label.updates == "cores":
        run.derived("truncated", lambda: truncated(run))
    with suppress(BadInput):  # of a method whose network is not the sum of what it records
        kept_of(run)


@torch.no_grad()
def truncated(run: Run) -> dict[str, Any]:
    """Accuracy on each task just after it was learned, had its update been of smaller rank.

    ΔC_t is replaced by its best approximation of rank k (the leading singular directions of
    M_t N_tᵀ), in the network as it was then: the core of before, the prompt and the classes of
    then. Nothing is trained again. `accuracy` has a row a task and a column for each of `ranks`,
    in percent of the trained head, None beyond the task's rank; the column of the full rank must
    be what the run recorded. BadInput where it is not: in a stream whose classes come again the
    head has changed since.
    """
    learner, config = restore(run), RunConfig.model_validate(run.config)
    stream = stream_of_run(config, learner.model.image_size)
    method, records = learner.method, [run.task(t) for t in range(run.result["task_files"])]
    assert isinstance(method, FMLoRA) and isinstance(learner.head, TrainedHead)
    chosen = [int(record["rank"].max()) for record in records]
    ranks = sorted({0, 1, *chosen, *(int(r) for r in records[0]["candidates"])})
    ranks = [k for k in ranks if k <= max(chosen)]
    measured = run.result["heads"]["trained"]["accuracy_matrix"]
    table: list[list[float | None]] = []
    for t, (task, record) in enumerate(zip(stream.tasks, records, strict=True)):
        learner.head.known[:] = torch.arange(len(learner.head.known)) < task.classes.stop
        method.P.copy_(torch.from_numpy(record["prompts"]))
        before, images = record["core"] - record["own_core"], len(task.test)
        row = []
        for k in (k for k in ranks if k <= chosen[t]):
            own = best_approximation(record["own_core"], k)
            method.latest = torch.from_numpy(own)
            method.factorized.core.copy_(torch.from_numpy(before + own))
            row.append(100 * learner.correct(task.test) / images)
        if abs(row[-1] - measured[t][t]) > 100 * FLIPPED / images + 1e-3:
            raise BadInput(
                f"run {run.id} cannot be evaluated at smaller ranks: with all of task {t + 1}'s "
                f"update it has {row[-1]:.1f}% where {measured[t][t]:.1f}% were measured, so its "
                "head has changed since"
            )
        table.append([*row, *[None] * (len(ranks) - len(row))])
    return {"ranks": ranks, "accuracy": table, "rank": chosen}


def best_approximation(C: NDArray, k: int) -> NDArray:
    """The best approximation of rank k to each of C (S, R, R), in its own type."""
    left, sigma, right = np.linalg.svd(C.astype(float), full_matrices=False)
    return ((left[..., :k] * sigma[..., None, :k]) @ right[..., :k, :]).astype(C.dtype)
