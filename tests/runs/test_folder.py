"""A run's folder: whole or absent, checked on reading, read without torch."""

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fmlora_lab.config import METHOD_LABELS, BadInput, MethodLabel, title_of
from fmlora_lab.runs.folder import DamagedFile, FolderKeeper, RunFolder, runs_root, task_file
from fmlora_lab.runs.stored import Run, delete, find_run, load_runs

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path):
    """A complete small run, written by the store itself."""
    folder = RunFolder(tmp_path, "abc123")
    folder.write_json("config.json", {"method": {"name": "lora"}})
    label = {"title": "LoRA", "family": "low-rank", "updates": "factors", "one_task": False}
    folder.write_json("environment.json", {"device": "cpu", "method": label})
    keeper = FolderKeeper(folder)
    keeper.log({"task": 0, "epoch": 0, "loss": 1.5})
    keeper.save_task(0, {"U": np.arange(6.0).reshape(2, 3), "rank": np.array([4])})
    keeper.save_checkpoint({"x": np.ones(3, np.float32)}, {"task": 1})
    folder.write_json(
        "result.json", {"acc": 50.0, "task_files": 1, "accuracy_matrix": [[50.0, None]]}
    )
    return folder


FILES = [
    "config.json",
    "environment.json",
    "progress.jsonl",
    "result.json",
    "checkpoint.safetensors",
    task_file(0),
]


def test_what_was_written_is_read(folder):
    run = Run(folder)
    run.check()
    assert run.config == {"method": {"name": "lora"}}
    assert run.progress() == [{"task": 0, "epoch": 0, "loss": 1.5}]
    np.testing.assert_array_equal(run.task(0)["U"], np.arange(6.0).reshape(2, 3))
    assert np.isnan(run.accuracy_matrix[0, 1]) and run.accuracy_matrix[0, 0] == 50.0


@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_named(folder, name):
    file = folder.path / name
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(DamagedFile, match=str(file)):
        Run(folder).check()


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_named(folder, name):
    file = folder.path / name
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.choice(len(whole), size=min(60, len(whole)), replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        with pytest.raises(DamagedFile, match=str(file)):
            Run(folder).check()
    file.write_bytes(whole)
    Run(folder).check()


@pytest.mark.parametrize("name", [n for n in FILES if n != "progress.jsonl"])
def test_missing_file_is_named(folder, name):
    (folder.path / name).unlink()
    with pytest.raises(DamagedFile, match=name):
        Run(folder).check()


def test_failed_write_leaves_the_old_file_and_no_other(folder, monkeypatch):
    before = sorted(p.name for p in folder.path.iterdir())

    def full_disk(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        folder.write_json("config.json", {"method": {"name": "other"}})
    assert folder.read_json("config.json") == {"method": {"name": "lora"}}
    assert sorted(p.name for p in folder.path.iterdir()) == before


def test_progress_after_the_checkpoint_is_forgotten_on_resuming(folder):
    keeper = FolderKeeper(folder)
    keeper.load_checkpoint()
    keeper.log({"task": 1, "epoch": 0, "loss": 0.5})
    again = FolderKeeper(folder)
    arrays, position = again.load_checkpoint()
    assert position == {"task": 1} and arrays["x"].tolist() == [1, 1, 1]
    again.log({"task": 1, "epoch": 0, "loss": 0.25})
    assert [line["loss"] for line in folder.read_progress()] == [1.5, 0.25]


def test_load_runs_lists_complete_ones_only(folder, tmp_path):
    half = RunFolder(tmp_path, "def456")
    half.write_json("config.json", {"method": {"name": "full"}})
    assert [run.id for run in load_runs(tmp_path)] == ["abc123"]
    assert find_run("de", tmp_path).run_id == "def456"
    with pytest.raises(BadInput, match="'zz'"):
        find_run("zz", tmp_path)
    with pytest.raises(BadInput, match="abc123, def456"):
        find_run("", tmp_path)
    delete(half)
    assert not half.path.exists() and folder.path.exists()
    with pytest.raises(BadInput, match=r"run '' in .*: it could be abc123;"):
        find_run("", tmp_path)  # though it is the only one


def test_a_run_without_its_configuration_is_damaged_found_and_deleted(tmp_path):
    RunFolder(tmp_path, "0123456789abcdef").write_json("result.json", {"acc": 1.0})
    with pytest.raises(DamagedFile, match=r"0123456789abcdef/config\.json is damaged.*runs delete"):
        load_runs(tmp_path)
    delete(find_run("01", tmp_path))
    assert not [*tmp_path.iterdir()]


def test_a_folder_of_another_kind_is_no_run_though_it_has_a_result(folder, tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "result.json").write_text("{}")
    assert [run.id for run in load_runs(tmp_path)] == ["abc123"]


def test_a_killed_removal_leaves_no_run_and_stops_no_other(folder, tmp_path, monkeypatch):
    whole = shutil.copytree(folder.path, tmp_path / "kept")
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *what, **how: None)
        delete(folder)
    assert len([*tmp_path.iterdir()]) == 2  # what is left of it, and the copy
    shutil.move(whole, folder.path)
    assert [run.id for run in load_runs(tmp_path)] == ["abc123"]
    delete(folder)
    assert not [*tmp_path.iterdir()]


def test_root_is_the_argument_then_the_environment_then_here(monkeypatch, tmp_path):
    monkeypatch.setenv("FMLORA_RUNS", str(tmp_path / "env"))
    assert runs_root(tmp_path / "given") == tmp_path / "given"
    assert runs_root() == tmp_path / "env"
    monkeypatch.delenv("FMLORA_RUNS")
    assert str(runs_root()) == "runs"
    with pytest.raises(BadInput, match="a runs folder is a path; this is a int: 3"):
        runs_root(3)


def test_stored_runs_are_read_without_torch(folder, tmp_path):
    code = (
        "import sys, json; from fmlora_lab import load_runs; import fmlora_lab.metrics\n"
        f"found = load_runs({str(tmp_path)!r}); found[0].task(0); found[0].progress()\n"
        "print(json.dumps([len(found), 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [1, False]


def test_derived_arrays_are_computed_once_and_checked(folder):
    run, kept = Run(folder), {"x": np.arange(3.0)}
    for compute in (lambda: kept, lambda: 1 / 0):
        np.testing.assert_array_equal(run.derived_arrays("few", compute)["x"], kept["x"])
    file = folder.path / "derived" / "few.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedFile, match=r"few\.safetensors is damaged"):
        run.derived_arrays("few", lambda: kept)
    folder.write_arrays("records.safetensors", {}, {})
    with pytest.raises(BadInput, match="without its trained factors, which 'other' needs"):
        run.derived_arrays("other", lambda: kept)


def test_a_damaged_file_is_named_by_another_process_too(folder):
    damaged = DamagedFile(folder.path / "result.json", "it is cut")
    again = pickle.loads(pickle.dumps(damaged))
    assert type(again) is DamagedFile and str(again) == str(damaged)


def test_an_unknown_methods_label_is_what_its_run_says(folder, monkeypatch):
    monkeypatch.delitem(METHOD_LABELS, "from-elsewhere", raising=False)  # and afterwards
    label = {"title": "Elsewhere", "family": "prompts", "updates": None, "one_task": True}
    folder.write_json("config.json", {"method": {"name": "from-elsewhere"}})
    folder.write_json("environment.json", {"method": label})
    assert Run(folder).label == MethodLabel(**label)
    assert title_of("from-elsewhere") == "Elsewhere"
