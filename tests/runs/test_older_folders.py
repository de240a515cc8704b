"""Runs that an older version wrote are found under their names, opened and restored.

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

from fmlora_lab import configure, identity, restore
from fmlora_lab.config import BadInput
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.runs.archive import ship
from fmlora_lab.runs.folder import RunFolder
from fmlora_lab.runs.frame import frame
from fmlora_lab.runs.stored import Run, find_run, load_runs, stored_run

pytestmark = pytest.mark.train

WRITTEN = Path(__file__).parent / "data" / "of_version_0_1.zip"
NAMES = {"fm-lora": "a8e18c26567d5b14", "lora": "561fe5eec1fa8209"}


@pytest.fixture
def old(tmp_path):
    with zipfile.ZipFile(WRITTEN) as content:
        content.extractall(tmp_path / "old")
    return tmp_path / "old"


def stored(old, method) -> Run:
    return stored_run(find_run(NAMES[method], old / "runs"))


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
def test_a_run_is_opened_under_its_name_and_answers_nothing_that_is_asked_today(old, method):
    """Today's runs have more heads and other numbers, so they have other names."""
    found = stored(old, method)
    assert found.id == NAMES[method] != identity(asked(old, method))
    as_written = RunFolder(old / "runs", found.id).read_json("result.json")
    assert found.result["acc"] == as_written["acc"]
    assert found.result["ranked_by"] == "trained" and as_written["ranked_by"] == "head"
    assert found.result["heads"] == {
        "trained": as_written["heads"]["head"],
        "means": as_written["heads"]["prototype"],
    }
    row = frame([({"method": method}, found)]).iloc[0]
    assert row.acc == row.acc_trained == found.result["acc"] and np.isnan(row.within_task)


def test_all_are_opened_and_say_what_they_are(old):
    found = {one.method_name: one for one in load_runs(old / "runs")}
    assert {name: one.id for name, one in found.items()} == NAMES
    for name, one in found.items():
        one.check()
        assert "method" not in one.environment
        assert one.label.title == METHODS[name].record.title
        assert one.label.family == METHODS[name].record.family
        assert one.accuracy_matrix.shape == (2, 2)
        assert {line["stage"] for line in one.progress()} >= {"train"}
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
def test_a_model_on_other_weights_is_not_restored(old, method):
    """The backbone that came with the lab then is not today's of that name."""
    found = stored(old, method)
    found.config["benchmark"]["data"] = str(old / "images")  # which lie elsewhere now
    with pytest.raises(BadInput, match="other weights of 'glyphs-vit' than there are today"):
        restore(found)


def test_what_is_shipped_of_it_says_its_method(old, tmp_path):
    path = ship(load_runs(old / "runs"), tmp_path / "few.zip", {"fm-lora": ("H", "rank")})
    for there in load_runs(path):
        assert there.environment["method"]["title"] == METHODS[there.method_name].record.title
        assert there.id == NAMES[there.method_name]
