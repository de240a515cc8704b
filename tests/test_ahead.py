"""What is evaluated ahead of the explorers: true to the stored network, and small when shipped."""

import numpy as np
import pytest
from PIL import Image

from fmlora_lab import configure, run
from fmlora_lab.ahead import truncated
from fmlora_lab.analysis.choices import smaller_ranks
from fmlora_lab.analysis.relations import related
from fmlora_lab.runs.store import EXAMPLES, runs

TASKS = 3


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """An FM-LoRA run of three tasks of two classes each, on a few coloured images."""
    root, draw = tmp_path_factory.mktemp("ahead"), np.random.default_rng(0)
    for k in range(2 * TASKS):
        base = draw.integers(60, 200, 3)
        for part, count in (("train", 6), ("test", 5)):
            folder = root / "images" / part / f"class{k}"
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = np.clip(base + draw.normal(0, 60, (32, 32, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")
    fixed = {"benchmark.data": root / "images", "benchmark.tasks": TASKS}
    fixed |= {"training.batch_size": 6, "training.epochs": 3, "training.precision": "float32"}
    fixed |= {"method.blocks": (1, 4), "method.basis_rank": 8, "method.lr": 0.02}
    fixed |= {"method.bases.lr": 0.01, "method.drs.candidates": (2, 4)}
    return run(configure("fm-lora", "folder", "smoke", fixed), root / "runs")


def test_the_command_makes_a_run_ready_for_the_explorers(stored, call, tmp_path):
    own = ("--runs-dir", stored.folder.path.parent, "--out", tmp_path)
    assert call("examples", stored.id, *own) == (0, f"{stored.id}: ready for the explorers\n", "")
    (shipped,) = runs(tmp_path)
    assert smaller_ranks(shipped) == truncated(stored)


def test_the_command_refuses_a_run_that_is_not_there(stored, call):
    code, _, err = call("examples", "0123abcd", "--runs-dir", stored.folder.path.parent)
    assert code == 2 and "0123abcd" in err


def test_the_examples_that_ship_are_whole_and_small():
    found = runs(EXAMPLES)
    for example in found:
        example.check()
        assert related(example)
    methods = [example.config["method"]["name"] for example in found]
    assert sorted(set(methods)) == ["fm-lora", "inflora", "lora", "sd-lora"]
    size = sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file())
    assert size < 3_000_000
