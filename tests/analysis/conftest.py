"""What the tests of tables and sentences share: runs on disk with the numbers that they need."""

import numpy as np
import pytest

from fmlora_lab.metrics import summary
from fmlora_lab.runs.folder import RunFolder
from fmlora_lab.runs.stored import Run

COUNTS = [400, 400]
"""Test images a task."""


@pytest.fixture
def stored_run(tmp_path):
    """`stored_run(method, first, then, new)`: a run of two tasks on disk: task 1 at `first`, then
    at `then` percent, task 2 at `new`; `heads` are further ones, with their numbers; further
    keywords are training settings."""

    def make(method, first, then, new, seed=0, joint=False, order=0, heads=None, **training) -> Run:
        a = np.array([[first, np.nan], [then, new]], float)
        if joint:
            a[0] = np.nan
        of_run = summary(a, COUNTS)
        folder = RunFolder(tmp_path, f"{len(list(tmp_path.glob('*'))):016x}")
        folder.write_json(
            "config.json",
            {
                "benchmark": {"name": "glyphs", "tasks": 2},
                "backbone": {"weights": None},
                "method": {"name": method},
                "training": {"head": "linear", **training},
                "seed": seed,
                "order_seed": order,
                "data_seed": 0,
            },
        )
        folder.write_json(
            "result.json",
            {
                **of_run,
                "ranked_by": "trained",
                "accuracy_matrix": [[None if np.isnan(v) else v for v in row] for row in a],
                "heads": {"trained": of_run, "means": {"acc": 55.5}, **(heads or {})},
                "test_images": COUNTS,
                "seconds": 12.0,
                "trainable_parameters": 1234,
                "kept_parameters": 56,
                "inference_flops": 2_500_000,
                "passes": 8.0,
            },
        )
        return Run(folder)

    return make
