"""What the system refuses is one line that names its path, exit code 2, nothing half-written."""

import errno
import os
import resource
import subprocess
import sys

import pytest

from fmlora_lab.files import TEMPORARY
from fmlora_lab.runs.stored import load_runs

RUN = ("run", "--profile", "smoke", "--set", "benchmark.train_images=2", "--tasks", 2)
LONG = "x" * 300


@pytest.fixture
def stored(call, tmp_path):
    """A runs folder with a run of FM-LoRA, and its name."""
    code, _, err = call(*RUN, "--runs-dir", tmp_path / "runs")
    assert code == 0, err
    (run,) = load_runs(tmp_path / "runs")
    return tmp_path / "runs", run.id


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refused(answer, path, said) -> None:
    code, out, err = answer
    assert code == 2 and out == ""
    *_, last = err.splitlines()
    assert last == f"fmlora-lab: {path}: {said}" and "Traceback" not in err


@pytest.mark.train
def test_a_file_in_the_place_of_a_folder_is_named_by_every_command(
    call, stored, tmp_path, monkeypatch
):
    runs, name = stored
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.write_text("words")
    before = left(tmp_path)
    notebook = ("render", "stream_length", "-p", "profile", "smoke", "-p", "orders", 1)
    for words, path in [
        ((*RUN, "--seed", 1, "--runs-dir", file), file),
        ((*RUN, "--seed", 1, "--runs-dir", file / "sub"), file / "sub"),
        (("runs", "list", "--runs-dir", file), file),
        (("runs", "show", name, "--runs-dir", file), file),
        (("runs", "merge", name, file / "m.safetensors", "--runs-dir", runs), file),
        (("doctor", "--runs-dir", file), file),
        (("examples", name, "--runs-dir", file), file),
        (("ship", "mine", "--into", file, "--runs-dir", runs), file),
        (("tune", file / "log.json", "--trials", 1), file),
        (("compare", "--stored", file), file),
        ((*notebook, "--figures-dir", file), file),
        ((*notebook, "--runs-dir", file), file),
    ]:
        refused(call(*words), path, "Not a directory")
    assert left(tmp_path) == before and file.read_text() == "words"


@pytest.mark.train
def test_what_is_too_long_or_a_folder_is_named(call, stored, tmp_path):
    runs, name = stored
    for words, path, said in [
        (("runs", "list", "--runs-dir", tmp_path / LONG), None, "File name too long"),
        (("runs", "merge", name, tmp_path / LONG, "--runs-dir", runs), None, "File name too long"),
        (("runs", "merge", name, runs, "--runs-dir", runs), runs, "Is a directory"),
        (("tune", runs, "--trials", 1), runs, "Is a directory"),
    ]:
        refused(call(*words), path or tmp_path / LONG, said)
    assert not list(tmp_path.rglob(f"{TEMPORARY}*"))


@pytest.mark.unit
def test_a_file_that_is_no_log_is_not_written_over(call, tmp_path):
    file = tmp_path / "notes.json"
    for text in ("words", "[1]", '{"methods": 3}'):
        file.write_text(text)
        code, _, err = call("tune", file, "--trials", 1)
        assert code == 2 and f"{file} is no log of `fmlora-lab tune`" in err
        assert file.read_text() == text


@pytest.mark.train
def test_a_full_disk_leaves_neither_half_a_model_nor_half_a_collection(
    call, stored, tmp_path, monkeypatch
):
    """The second of two files that belong together finds no room."""
    runs, name = stored
    merged, shipped = tmp_path / "merged", tmp_path / "shipped"
    for words, second, files in [
        (("runs", "merge", name, merged / "m.safetensors"), merged / "m.prompts.safetensors", 1),
        (("ship", "mine", "--into", shipped), shipped / "mine.csv", 2),  # a claim is one
    ]:
        room, sync = [files], os.fsync

        def fsync(handle, room=room, sync=sync):
            if not room[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            room[0] -= 1
            sync(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            answer = call(*words, "--runs-dir", runs)
        refused(answer, second, "No space left on device")
        assert left(second.parent) == []
        assert call(*words, "--runs-dir", runs)[0] == 0 and len(left(second.parent)) == 2


@pytest.mark.process
def test_a_run_for_which_there_is_no_room_goes_on_when_there_is(tmp_path):
    """The system itself refuses: no file may grow beyond what a checkpoint takes."""

    def start(where, limit=None):
        def before():
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        words = [sys.executable, "-m", "fmlora_lab", *map(str, RUN), "--runs-dir", str(where)]
        done = subprocess.run(words, capture_output=True, text=True, preexec_fn=before)
        return done.returncode, done.stdout, done.stderr.replace("\r", "\n")

    assert start(tmp_path / "whole")[0] == 0
    (whole,) = load_runs(tmp_path / "whole")
    file = tmp_path / "some" / whole.id / "checkpoint.safetensors"
    size = (whole.folder.path / "checkpoint.safetensors").stat().st_size
    refused(start(tmp_path / "some", limit=size // 2), file, "File too large")
    assert not list(tmp_path.rglob(f"{TEMPORARY}*")) and not file.exists()
    code, _, err = start(tmp_path / "some")
    assert code == 0, err
    (again,) = load_runs(tmp_path / "some")
    assert again.result["heads"] == whole.result["heads"]


@pytest.mark.process
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_takes_nothing_is_said(unbuffered):
    words = [sys.executable, "-m", "fmlora_lab", "methods"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as out:
        done = subprocess.run(words, stdout=out, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr == "fmlora-lab: standard output: No space left on device\n"
