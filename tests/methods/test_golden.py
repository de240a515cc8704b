"""Golden losses: mean training loss of each epoch on two tasks, as logged, in float64 on a CPU.

Two steps an epoch; some methods begin a task with epochs of their own. A change that moves them
changes every result: see first that it is meant. `tests/losses.py` prints a method's, and compares
two revisions to the last bit.
"""

import json
from pathlib import Path

import pytest
import torch

from fmlora_lab.methods.registry import METHODS

pytestmark = pytest.mark.train

FILE = Path(__file__).parent / "golden.json"
GOLDEN = json.loads(FILE.read_text("utf-8"))
OF_THE_PACKAGE = sorted(n for n, m in METHODS.items() if m.__module__.startswith("fmlora_lab."))


@pytest.mark.parametrize("name", OF_THE_PACKAGE)
def test_golden_losses(trainer, tiny_stream, tiny_vit, memory_keeper, quick, float64, name):
    keeper = memory_keeper()
    settings = {"epochs": 5, "batch_size": 16, "augmentation": "shift"}
    run = trainer(quick(name), tiny_stream(), tiny_vit().double(), keeper, **settings)
    run.run()
    assert not [key for key, a in run.learner.state().items() if a.dtype == torch.float32]
    losses = [line["loss"] for line in keeper.lines if line["loss"] is not None]
    assert name in GOLDEN, (
        f"{name!r} has no golden losses: `python tests/losses.py {name}` prints them for "
        f"tests/methods/{FILE.name}"
    )
    assert losses == pytest.approx(GOLDEN[name], rel=1e-8)


def test_every_golden_loss_is_of_a_method_that_there_is():
    assert GOLDEN.keys() <= METHODS.keys()
