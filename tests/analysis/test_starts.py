"""What a run says of its updates' starts: by weight, in words and in a table."""

from types import SimpleNamespace

import numpy as np
import pytest

from fmlora_lab.analysis.starts import at_weight, said, starts, starts_table
from fmlora_lab.config import BadInput

pytestmark = pytest.mark.unit

WEIGHTS = [
    *(f"blocks.{b}.attn.{w}" for b in range(11) for w in ("q", "v")),
    *(f"blocks.{b}.mlp.fc1" for b in range(11)),
]
S, TASKS = 22, 3


class Stored(SimpleNamespace):
    __hash__ = object.__hash__


def stand_in(*records) -> Stored:
    return Stored(
        id="abc", method_name="lora", result={"task_files": len(records)},
        task=lambda t: records[t],
    )  # fmt: skip


@pytest.fixture
def run() -> Stored:
    """Site n of task t has 0.9 − n/100 − t/10 of what it reads from in its start; U was zero."""
    chance = np.tile([0.0, 0.125], (S, 1))
    shares = [0.9 - np.arange(S) / 100 - t / 10 for t in range(TASKS)]
    return stand_in(
        *(
            {"start_share": np.stack([np.zeros(S), own], 1), "start_chance": chance}
            for own in shares
        )
    )


def test_every_task_and_site_is_there(run):
    share, chance = starts(run)
    assert share.shape == chance.shape == (TASKS, S, 2)
    assert share[2, 4].tolist() == [0, pytest.approx(0.9 - 0.04 - 0.2)]


@pytest.mark.parametrize(
    ("weight", "site"),
    [("blocks.0.attn.q", 0), ("blocks.0.attn.v", 0), ("blocks.0.mlp.fc1", 1),
     ("blocks.2.attn.v", 4), ("blocks.10.mlp.fc1", 21)],
)  # fmt: skip
def test_a_weight_has_what_its_site_has(run, weight, site):
    """Sites count as the model does: block 10 comes after block 2."""
    share, chance = at_weight(run, weight, WEIGHTS)
    np.testing.assert_allclose(share[:, 1], 0.9 - site / 100 - np.arange(TASKS) / 10)
    assert chance.tolist() == [[0, 0.125]] * TASKS


def test_what_was_not_recorded_is_not_known():
    old = stand_in({"U": np.ones(1)}, {})
    with pytest.raises(BadInput, match=r"run abc does not say where its updates started: lora "):
        starts(old)
    share, chance = at_weight(old, "blocks.0.attn.q", WEIGHTS)
    assert share.shape == (2, 2) and np.isnan(share).all() and np.isnan(chance).all()
    assert said(share[0, 1], chance[0, 1]) == "–"


def test_in_words():
    assert said(0.9981, 0.125) == "99.8% (chance 12.5%)"
    assert said(0.0, 0.0) == "began at zero"
    assert said(float("nan"), 0.125) == said(float("nan"), 0.0) == "–"


def test_the_table_has_the_first_task_and_the_later_ones_apart(run):
    table = starts_table({"LoRA": [run, run]})
    assert list(table.index) == ["LoRA, task 1", "LoRA, later tasks"]
    assert table.share_outputs.isna().all() and table.chance_outputs.isna().all()
    mean = 90 - np.mean(np.arange(S))
    assert table.share_inputs.tolist() == pytest.approx([mean, mean - 15])
    assert table.chance_inputs.tolist() == pytest.approx([12.5, 12.5])
