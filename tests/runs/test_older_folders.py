"""Runs that an older version wrote are found under their names, opened, restored and resumed.

`data/of_version_0_1.zip` was written by revision 3c37873, whose environments say nothing of methods
and whose configurations lack younger options: tiny images, a runs folder with a complete run each
of fm-lora and lora, and a folder `half` with the former ended in its second task.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fmlora_lab import configure, identity, restore, run, sweep
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.runs import run as run_module
from fmlora_lab.runs.archive import ship
from fmlora_lab.runs.folder import RunFolder
from fmlora_lab.runs.stored import Run, find_run, load_runs

pytestmark = pytest.mark.train

WRITTEN = Path(__file__).parent / "data" / "of_version_0_1.zip"
NAMES = {"fm-lora": "a8e18c26567d5b14", "lora": "561fe5eec1fa8209"}


@pytest.fixture
def old(tmp_path):
    with zipfile.ZipFile(WRITTEN) as content:
        content.extractall(tmp_path / "old")
    return tmp_path / "old"


def asked(old, method):
    """What was asked for then, of images that lie elsewhere now."""
    fixed = {"benchmark.data": old / "images", "benchmark.tasks": 2, "training.batch_size": 4}
    fixed |= {"training.epochs": 2, "training.precision": "float32"}
    fixed |= {"method.blocks": (5,), "method.layers": ("attn.proj",)}
    own = {
        "fm-lora": {
            "method.basis_rank": 4,
            "method.drs.candidates": (1, 2),
            "method.prompt.tokens": 2,
        },
        "lora": {"method.rank": 1},
    }
    return configure(method, "folder", "smoke", {**fixed, **own[method]})


@pytest.mark.parametrize("method", NAMES)
def test_a_run_is_found_under_its_name_and_nothing_is_trained(old, monkeypatch, method):
    monkeypatch.setattr(run_module, "Trainer", None)
    config = asked(old, method)
    found = run(config, old / "runs")
    assert identity(config) == found.id == NAMES[method]
    assert found.result == RunFolder(old / "runs", found.id).read_json("result.json")
    assert found.config["training"]["loss_over"] == "task"  # an option of today, as it was then
    (row,) = sweep([config], old / "runs").itertuples()
    assert row.acc == found.result["acc"] and row.method == method


def test_all_are_opened_and_say_what_they_are(old):
    found = {stored.method_name: stored for stored in load_runs(old / "runs")}
    assert {name: stored.id for name, stored in found.items()} == NAMES
    for name, stored in found.items():
        stored.check()
        assert "method" not in stored.environment
        assert stored.label.title == METHODS[name].record.title
        assert stored.label.family == METHODS[name].record.family
        assert stored.accuracy_matrix.shape == (2, 2)
        assert {line["stage"] for line in stored.progress()} >= {"train"}
    assert found["fm-lora"].task(1)["prompts"].shape == (2, 128)
    assert found["lora"].task(0)["U.blocks.5.attn.proj"].shape == (128, 1)
    assert find_run(NAMES["lora"][:5], old / "runs").run_id == NAMES["lora"]


@pytest.mark.process
def test_a_process_that_knows_no_method_yet_learns_what_an_old_run_is_of(old):
    code = (
        "from fmlora_lab import load_runs\n"
        f"print(sorted(run.label.title for run in load_runs({str(old / 'runs')!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{sorted(METHODS[name].record.title for name in NAMES)}\n"


@pytest.mark.parametrize("method", NAMES)
def test_a_trained_model_is_restored(old, method):
    config = asked(old, method)
    stored = run(config, old / "runs")
    learner, (_, stream) = restore(stored), run_module.parts(config)
    for i, task in enumerate(stream.tasks):
        right = 100 * learner.correct(task.test) / len(task.test)
        assert right == pytest.approx(stored.accuracy_matrix[-1, i], abs=1e-3)


def test_a_half_done_run_goes_on_where_it_was(old):
    config, folder = asked(old, "fm-lora"), RunFolder(old / "half", NAMES["fm-lora"])
    whole, begun = Run(RunFolder(old / "runs", folder.run_id)), folder.read_progress()
    first = (folder.path / "tasks" / "00.safetensors").read_bytes()
    assert not folder.complete and [line["task"] for line in begun] == [0, 0, 0, 1, 1]

    resumed = run(config, old / "half")

    assert resumed.id == folder.run_id
    assert resumed.progress()[:3] == begun[:3]  # to the seconds that it took then
    assert (folder.path / "tasks" / "00.safetensors").read_bytes() == first
    losses = [[line["loss"] for line in r.progress()] for r in (whole, resumed)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert resumed.result["accuracy_matrix"] == whole.result["accuracy_matrix"]


def test_what_is_shipped_of_it_says_its_method(old, tmp_path):
    path = ship(load_runs(old / "runs"), tmp_path / "few.zip", {"fm-lora": ("H", "rank")})
    for there in load_runs(path):
        assert there.environment["method"]["title"] == METHODS[there.method_name].record.title
        assert there.id == NAMES[there.method_name]
