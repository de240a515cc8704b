"""One of two processes that compute runs together, as torchrun would begin it: `two.py FOLDER`.

FOLDER has what is computed, as `ask` left it there; the first process leaves what came of it.
"""

import os
import socket
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from small_clip import small_clip, towers

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.config import RunConfig
from fmlora_lab.training import distributed, learner, loop
from fmlora_lab.training.loop import Nowhere, Trainer

Case = dict[str, Any]
"""`config`; `stored`, if any, a checkpoint to go on from; `stop`, if any, the last epoch's line;
`towers` for a model of two."""


class Stopped(Exception):
    """As by a kill, after an epoch's line."""


class Keeper(Nowhere):
    """Has the latest checkpoint."""

    def __init__(self, case: Case):
        self.latest, self.stop = case.get("stored"), case.get("stop")

    def load_checkpoint(self):
        return self.latest

    def save_checkpoint(self, tensors, position):
        self.latest = {name: array.copy() for name, array in tensors.items()}, position

    def log(self, line):
        if (line["task"], line["stage"], line["epoch"]) == self.stop:
            raise Stopped


def found(case: Case, stream, vit) -> tuple[dict, dict]:
    """Arrays and position of the last checkpoint of a run, which is made after every epoch."""
    loop.CHECKPOINT_SHARE, learner.EVALUATION_BATCH = float("inf"), 6  # so that each has some
    keeper = Keeper(case)
    model = towers(small_clip().double()) if case.get("towers") else ViT(deepcopy(vit))
    try:
        Trainer(RunConfig.model_validate(case["config"]), stream, model, keeper).run()
    except Stopped:
        assert keeper.stop
    return keeper.latest


def ask(folder: Path, cases: dict[str, Case], stream, vit) -> dict[str, tuple[dict, dict]]:
    """What two processes find."""
    torch.save((cases, stream, vit), folder / "asked.pt")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    ranked = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    ranked |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    both = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env={**os.environ, **ranked, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    assert not any(process.returncode for process in both), "\n".join(said)
    return torch.load(folder / "found.pt", weights_only=False)


def main(folder: Path) -> None:
    torch.Tensor.float = torch.Tensor.double  # as the fixture float64
    torch.set_default_dtype(torch.float64)
    ranks = distributed.join()
    cases, stream, vit = torch.load(folder / "asked.pt", weights_only=False)
    came = {name: found(case, stream, vit) for name, case in cases.items()}
    if ranks.first:
        torch.save(came, folder / "found.pt")
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
