"""What two towers know before, during and after a stream: Transfer, Average, Last.

a[i, j] in percent on domain j after learning domain i, every cell measured; with the task given an
image is told apart from its own domain's classes, unknown from those of all domains. After Zheng et
al. 2023, ICCV, arXiv 2303.06628 (ZSCL), as `metrics.transfer` has them.
"""

from typing import Literal

import numpy as np
import pandas as pd

from fmlora_lab.config import BadInput
from fmlora_lab.metrics import Matrix
from fmlora_lab.runs.stored import Run

TaskIs = Literal["given", "unknown"]
MEASURES = ("transfer", "average", "last")


def transfers(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs of two towers with columns such as `transfer_given` and `last_unknown`, in
    percent; NaN where undefined. BadInput names a run that reads no texts."""
    rows = []
    for run in found.run:
        by_texts = _of(run)
        rows.append({
            f"{name}_{task}": np.nan if of[name] is None else of[name]
            for task, of in by_texts.items()
            for name in MEASURES
        })  # fmt: skip
    return found.drop(columns="run").join(pd.DataFrame(rows, found.index)).join(found.run)


def zero_shot(run: Run, task: TaskIs) -> dict[str, float]:
    """Accuracy in percent on each domain before anything is learned, by its name, as they come."""
    return dict(zip(run.environment["tasks"], _of(run)[task]["zero_shot"], strict=True))


def matrix(run: Run, task: TaskIs) -> Matrix:
    """a (N + 1, N) in percent: zero-shot, then after each domain."""
    kind = {"given": "within_task_matrix", "unknown": "accuracy_matrix"}[task]
    a = np.array(run.result["heads"]["trained"][kind], float)
    return np.vstack([_of(run)[task]["zero_shot"], a])


def ahead(a: Matrix) -> Matrix:
    """Mean accuracy (N,) on the domains yet to come, of a (N + 1, N): before the first, after it,
    and so on to that before the last."""
    return np.array([a[i, i:].mean() for i in range(a.shape[1])])


def _of(run: Run) -> dict[str, dict]:
    if "by_texts" not in run.result:
        raise BadInput(f"run {run.id} has one tower: its classes were not told by texts")
    return run.result["by_texts"]
