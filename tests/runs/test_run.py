"""`run`: stored, resumed or computed; the same to the last bit however often it was stopped."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fmlora_lab import restore, run
from fmlora_lab.analysis.overlap import related
from fmlora_lab.config import BadInput
from fmlora_lab.explorers.examples import prepare
from fmlora_lab.files import TEMPORARY
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.runs import run as run_module
from fmlora_lab.runs.archive import ship
from fmlora_lab.runs.folder import DamagedFile, FolderKeeper, RunFolder
from fmlora_lab.runs.frame import frame
from fmlora_lab.runs.identity import identity
from fmlora_lab.runs.stored import Run, load_runs
from fmlora_lab.training import loop

pytestmark = pytest.mark.train


def command(images, runs_dir, *more):
    fixed = ["--method", "fm-lora", "--benchmark", "folder", "--data", images, "--tasks", "2"]
    fixed += ["--profile", "smoke", "--set", "training.epochs=3", "--runs-dir", runs_dir, "--json"]
    return [sys.executable, "-m", "fmlora_lab", "run", *map(str, (*fixed, *more))]


def start(arguments):
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=heed_interrupts,
    )


def heed_interrupts():
    """Tests that run in a shell's background would hand down that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def epochs_stored(runs_dir):
    return sum(len(p.read_bytes().splitlines()) for p in runs_dir.glob("*/progress.jsonl"))


def wait_for_epochs(process, runs_dir, count):
    """Until that many epochs are on disk (a process that ends first fails the test)."""
    while epochs_stored(runs_dir) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)  # leaves the processor to the process that is waited for


def same_state(a: Run, b: Run):
    """Bit for bit: the matrix, and every tensor of the trained state."""
    assert a.result["accuracy_matrix"] == b.result["accuracy_matrix"]
    assert a.result["heads"] == b.result["heads"]
    left, right = (r.folder.read_arrays("checkpoint.safetensors")[0] for r in (a, b))
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].tobytes() == right[name].tobytes(), name
    losses = [[line["loss"] for line in r.progress()] for r in (a, b)]
    assert losses[0] == losses[1]


def test_a_stored_run_is_loaded(small, tmp_path, monkeypatch):
    first = run(small(), tmp_path)
    monkeypatch.setattr(run_module, "Trainer", None)
    again = run(small(), tmp_path)
    assert again.id == first.id and again.result == first.result
    with pytest.raises(TypeError):  # another seed would have to be trained
        run(small(seed=1), tmp_path)


CARRIED = ("means-carried", "lda-carried", "ridge-carried")
TRAINED = sorted(name for name, method in METHODS.items() if method.ranked_by == "trained")


@pytest.mark.parametrize("method", TRAINED)
def test_stopped_at_any_epoch_and_resumed_is_the_same(small, tmp_path, monkeypatch, method):
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", float("inf"))
    more = {"joint": {"method.epochs": 3}, "hide-prompt": {"method.inference_epochs": 2}}
    more = more.get(method, {"training.epochs": 2})
    whole = run(small(method, **more), tmp_path / "whole")

    class Stopped(Exception):
        pass

    class StoppingKeeper(FolderKeeper):
        """Stops once after each epoch's line, before what follows it."""

        def log(self, line):
            super().log(line)
            key = (line["task"], line["stage"], line["epoch"])
            if key not in seen:
                seen.add(key)
                raise Stopped

    seen = set()
    monkeypatch.setattr(run_module, "FolderKeeper", StoppingKeeper)
    stops = 0
    while True:
        try:
            stopped = run(small(method, **more), tmp_path / "stopped")
            break
        except Stopped:
            stops += 1
    assert stops == len(whole.progress()) >= 4
    same_state(whole, stopped)


@pytest.mark.process
def test_killed_at_random_and_resumed_is_the_same(images, tmp_path):
    whole = start(command(images, tmp_path / "whole"))
    out, err = whole.communicate()
    assert whole.returncode == 0, err
    expected = Run(RunFolder(tmp_path / "whole", json.loads(out)["run_id"]))
    stages = [line["stage"] for line in expected.progress()]
    in_the_probe = stages.index("preliminary")  # after task 1's training
    moments = sorted({in_the_probe, *random.Random(0).sample(range(1, len(stages)), 3)})
    for count in moments:
        process = start(command(images, tmp_path / "killed"))
        wait_for_epochs(process, tmp_path / "killed", count)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not list((tmp_path / "killed").glob("*/result.json"))
    last = start(command(images, tmp_path / "killed"))
    out, err = last.communicate()
    assert last.returncode == 0, err
    same_state(expected, Run(RunFolder(tmp_path / "killed", json.loads(out)["run_id"])))


@pytest.mark.process
def test_interrupt_stops_cleanly_and_resumes(images, small, tmp_path):
    long = ("--set", "training.epochs=20")  # so that it cannot end before the signal comes
    process = start(command(images, tmp_path / "stopped", *long))
    wait_for_epochs(process, tmp_path / "stopped", 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    *_, last = err.splitlines()
    assert re.fullmatch(r"stopped (in task 1|after task 1) of 2; run again to go on", last)
    assert "Traceback" not in err
    again = start(command(images, tmp_path / "stopped", *long))
    out, err = again.communicate()
    assert again.returncode == 0, err
    whole = start(command(images, tmp_path / "whole", *long))
    whole.communicate()
    run_id = json.loads(out)["run_id"]
    folders = (RunFolder(tmp_path / place, run_id) for place in ("stopped", "whole"))
    same_state(*map(Run, folders))


@pytest.mark.process
def test_four_processes_train_a_run_once(images, tmp_path):
    processes = [start(command(images, tmp_path / "shared")) for _ in range(4)]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, answers
    results = [json.loads(out) for out, _ in answers]
    # One training: the seconds that it took, and every other figure, are the same in all four.
    assert all(result == results[0] for result in results)
    assert len(list((tmp_path / "shared").glob("*/result.json"))) == 1


def test_a_damaged_file_is_named_and_not_recomputed(small, tmp_path):
    stored = run(small(), tmp_path)
    file = stored.folder.path / "tasks" / "01.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DamagedFile, match=r"01\.safetensors is damaged"):
        run(small(), tmp_path)
    assert len(file.read_bytes()) == 100


def test_a_damaged_checkpoint_of_a_half_done_run_is_named(small, tmp_path):
    stored = run(small(), tmp_path)
    (stored.folder.path / "result.json").unlink()
    file = stored.folder.path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DamagedFile, match=r"checkpoint\.safetensors"):
        run(small(), tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_ends_a_training_gives_the_run_back_to_this_process(
    small, tmp_path, monkeypatch, error
):
    whole = run(small("lora"), tmp_path / "whole")

    class Failing(FolderKeeper):
        def log(self, line):
            super().log(line)
            raise error("at the end of an epoch")

    with monkeypatch.context() as patch, pytest.raises(error) as kept:  # its frames stay alive
        patch.setattr(run_module, "FolderKeeper", Failing)
        run(small("lora"), tmp_path / "failed")
    with RunFolder(tmp_path / "failed", whole.id).lock().acquire(timeout=0):
        assert kept.tb is not None
    same_state(whole, run(small("lora"), tmp_path / "failed"))


def test_who_waits_for_a_run_is_told_and_can_be_interrupted(small, tmp_path, monkeypatch, capsys):
    """The lock is held elsewhere; in the place of time passing, something happens."""
    whole = run(small("lora"), tmp_path / "whole")
    held, give_back = threading.Event(), threading.Event()
    lock = RunFolder(tmp_path / "waited", whole.id).lock()

    def hold():
        with lock.acquire(timeout=0):
            held.set()
            give_back.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)

    def interrupt(seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(time, "sleep", interrupt)
        run(small("lora"), tmp_path / "waited")
    assert f"another process is computing run {whole.id}; waiting" in capsys.readouterr().err

    def end(seconds):
        give_back.set()
        holder.join()

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", end)
        same_state(whole, run(small("lora"), tmp_path / "waited"))
    assert "another process is computing" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["fm-lora", "sd-lora", "inflora", "ranpac", "joint"])
def test_a_run_whose_result_alone_is_missing_has_the_same_when_it_is_asked_for(
    small, tmp_path, method
):
    """As when the disk refused the last file: no task is left, and what is kept is counted all
    the same."""
    stored = run(small(method, **{"training.epochs": 1}), tmp_path)
    (stored.folder.path / "result.json").unlink()
    assert run(small(method, **{"training.epochs": 1}), tmp_path).result == stored.result


def test_what_a_killed_process_had_begun_to_write_is_gone_when_the_run_goes_on(small, tmp_path):
    stored = run(small("lora"), tmp_path)
    (stored.folder.path / "result.json").unlink()
    for place in (".", "tasks"):
        (stored.folder.path / place / f"{TEMPORARY}abc").write_bytes(b"half")
    run(small("lora"), tmp_path)
    assert not list(tmp_path.rglob(f"{TEMPORARY}*"))


def test_result_and_environment_say_what_was_done(small, tmp_path):
    stored = run(small(), tmp_path)
    result, environment = stored.result, stored.environment
    assert result["run_id"] == stored.id and result["test_images"] == [6, 6]
    assert result["acc"] == pytest.approx(np.mean(stored.accuracy_matrix[1]), abs=1e-3)
    assert np.isnan(stored.accuracy_matrix[0, 1])
    assert len(result["trainable_parameters_by_task"]) == 2
    assert result["images_per_second"] > 0
    assert set(result["heads"]) == {"trained", "means", "lda", "ridge", *CARRIED}
    assert {"torch", "timm", "fmlora-lab"} <= set(environment["packages"])
    assert len(environment["class_names"]) == 4
    stages = [line["stage"] for line in stored.progress()]
    assert stages == [*["train"] * 3, "preliminary", "preliminary", *["train"] * 3]
    assert stored.task(1)["M"].shape[1] == 16


SCORES = ("acc", "aaa", "forgetting")


@pytest.mark.parametrize("method", ["lora", "linear-probe", "slda", "ranpac"])
def test_every_head_is_in_the_result_under_its_name(small, tmp_path, method):
    stored = run(small(method), tmp_path)
    heads, result = stored.result["heads"], stored.result
    for name, by in heads.items():
        undefined = name == "trained" and method in ("slda", "ranpac")
        assert {by[score] is None for score in SCORES} == {undefined}
    assert {result[name] is None for name in ("within_task", "confusion")} == {False}
    assert result["within_task"] - result["acc"] == pytest.approx(result["confusion"])
    ranked_by = {"slda": "lda", "ranpac": "ridge"}.get(method, "trained")
    assert result["ranked_by"] == ranked_by and result["acc"] == heads[ranked_by]["acc"]
    drifted = method == "lora"
    assert (result["drift"][1][0] > 1e-6) == drifted
    assert (result["drift_explained"][1][0] is not None) == drifted
    assert result["drift"][0] == [None, None] and result["drift"][1][1] is None
    for name in ("means", "lda", "ridge"):
        same = heads[name]["accuracy_matrix"] == heads[f"{name}-carried"]["accuracy_matrix"]
        assert same or drifted
    assert result["passes"] == {"slda": 0, "ranpac": 1.5}.get(method, 3)
    assert 0 < result["heads_seconds"] < result["seconds"]


def test_what_every_head_said_is_stored_and_makes_its_matrix(small, tmp_path):
    config = small("lora")
    stored = run(config, tmp_path)
    labels = [task.test.labels.numpy() for task in run_module.parts(config)[1].tasks]
    for t in range(2):
        said = stored.said(t)
        assert said.keys() == stored.result["heads"].keys()
        for name, classes in said.items():
            assert classes.dtype == np.int16 and len(classes) == 6 * (t + 1)
            right = [100 * (part == own).mean() for part, own in
                     zip(np.split(classes, t + 1), labels[: t + 1], strict=True)]  # fmt: skip
            matrix = stored.result["heads"][name]["accuracy_matrix"][t][: t + 1]
            assert matrix == pytest.approx(right, abs=1e-3)


def test_features_are_kept_where_that_is_asked_for(small, tmp_path):
    config = small("lora", **{"training.precision": "float32"})
    kept = run(config, tmp_path / "kept", keep_features=True)
    first, second = kept.features(0), kept.features(1)
    assert [f.shape[0] for f in first] == [6] and [f.shape[0] for f in second] == [6, 6]
    assert first[0].dtype == np.float16 and (first[0] != second[0]).any()
    learner, (_, stream) = restore(kept), run_module.parts(config)
    again = learner.features_of(stream.tasks[0].test).numpy()
    np.testing.assert_allclose(second[0].astype(float), again, atol=2e-2)
    without = run(config, tmp_path / "without")
    assert without.id == kept.id
    with pytest.raises(BadInput, match="without keep_features"):
        without.features(0)
    with pytest.raises(BadInput, match="stored without its features"):
        run(config, tmp_path / "without", keep_features=True)


def test_a_run_that_kept_its_features_is_loaded(small, tmp_path):
    """Of all methods' joint training, which learns one task and keeps features of the last."""
    config = small("joint")
    kept = run(config, tmp_path, keep_features=True)
    assert run(config, tmp_path, keep_features=True) == kept


def test_a_file_half_written_is_no_task_without_its_features(small, tmp_path):
    """Of a process that was killed; the next one clears it away."""
    config = small("lora")

    def end(curves):
        (tmp_path / identity(config) / "tasks" / ".writing-1234").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, keep_features=True, watch=end)
    assert run(config, tmp_path, keep_features=True).result["acc"]


@pytest.mark.parametrize("first", [False, True])
def test_features_of_a_part_of_the_tasks_are_not_taken_for_all(small, tmp_path, first):
    class Ended(Exception):
        pass

    def end(curves):
        raise Ended

    config = small("lora")
    with pytest.raises(Ended):
        run(config, tmp_path, keep_features=first, watch=end)
    if first:
        run(config, tmp_path)
    with pytest.raises(BadInput, match="without its features, or those of some tasks; compute it"):
        run(config, tmp_path, keep_features=True)
    assert run(config, tmp_path).result["acc"]


def test_inference_cost_counts_the_query(small, tmp_path):
    """A prompt method runs the frozen backbone first: over twice the operations of a probe."""
    configs = small("l2p", **{"method.length": 1}), small("linear-probe")
    prompted, plain = (run(config, tmp_path).result["inference_flops"] for config in configs)
    assert 2 * plain < prompted < 3 * plain


def test_restored_model_answers_as_the_run_did(small, tmp_path):
    config = small("lora")
    stored = run(config, tmp_path)
    learner = restore(stored)
    _, stream = run_module.parts(config)
    for i, task in enumerate(stream.tasks):
        right = learner.correct(task.test)
        expected = pytest.approx(stored.accuracy_matrix[-1, i], abs=1e-3)
        assert 100 * right / len(task.test) == expected


def test_a_shipped_run_cannot_be_restored(small, tmp_path):
    stored = run(small("linear-probe"), tmp_path)
    path = ship([stored], tmp_path / "few.zip", {})
    with pytest.raises(BadInput, match="without its trained factors, which 'restore' needs"):
        restore(load_runs(path)[0])


def test_a_cosine_head_is_not_merged_into_a_linear_one(small, tmp_path):
    given = {"training.head": "cosine", "training.epochs": 1}
    stored = run(small("linear-probe", **given), tmp_path)
    with pytest.raises(BadInput, match="'cosine'"):
        restore(stored).merge()


def test_validation_never_reads_the_test_images(small, tmp_path):
    stored = run(small("linear-probe", evaluate_on="validation"), tmp_path)
    # a quarter of 10 images a class, two classes a task
    assert stored.result["test_images"] == [4, 4]


@pytest.mark.parametrize("why", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_whatever_file_a_disk_refuses_the_run_goes_on_when_the_cause_is_gone(
    tiny_config, tmp_path, monkeypatch, same_run, why
):
    """A disk that refuses every fourth file, at random, until eight runs have come to their end."""
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", float("inf"))
    whole = run(tiny_config("lora"), tmp_path / "whole")
    sync, draw, refused, done = os.fsync, random.Random(0), set(), 0

    def fsync(handle):
        if not draw.randrange(4):
            raise OSError(why, os.strerror(why))  # naming no path, as the system does
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    while done < 8:
        place = tmp_path / str(done)
        try:
            same_run(run(tiny_config("lora"), place), whole)
            done += 1
        except OSError as error:
            refused.add(os.path.relpath(error.filename, place / whole.id))
            assert os.strerror(why) in str(error) and error.errno == why
            assert not list(place.rglob(f"{TEMPORARY}*"))
    assert refused == {
        *("claim", "config.json", "environment.json", "result.json", "progress.jsonl"),
        *("checkpoint.safetensors", "tasks/00.safetensors", "tasks/01.safetensors"),
    }


def test_a_read_only_disk_is_read_and_what_is_computed_of_its_runs_is_not_kept(
    small, tmp_path, monkeypatch
):
    """A runs folder that was moved there, as the system answers whoever writes."""
    run(small("lora"), tmp_path / "here")
    moved = (tmp_path / "here").rename(tmp_path / "there")
    before = {p: p.read_bytes() for p in moved.rglob("*") if p.is_file()}

    def refuse(*args, dir, **more):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    found = run(small("lora"), moved)
    found.check()
    assert load_runs(moved) == [found] and restore(found).head.known.all()
    for computed in ({"of": 1}, {"of": 2}):
        assert found.derived("few", lambda computed=computed: computed) == computed
    assert related(found).keys() and not found.folder.derived_files()
    with pytest.raises(OSError, match="Read-only file system") as refused:
        prepare(found)  # which is there to keep it
    assert refused.value.filename == str(found.folder.path)
    assert {p: p.read_bytes() for p in moved.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("method", ["fm-lora", "lora"])
def test_a_run_is_read_restored_and_merged_without_its_images(
    small, images, tmp_path, monkeypatch, call, method
):
    lent = shutil.copytree(images, tmp_path / "images")
    config = small(method, **{"benchmark.data": lent})
    stored = run(config, tmp_path / "runs", keep_features=True)
    expected = restore(stored).merge()[0]
    shutil.rmtree(lent)
    monkeypatch.setenv("FMLORA_CACHE", str(tmp_path / "no cache"))
    (found,) = load_runs(tmp_path / "runs")
    found.check()
    assert sorted(found.environment["class_names"]) == [f"class{k}" for k in range(4)]
    assert frame([({"method": method}, found)]).acc[0] == stored.result["acc"]
    assert len(found.features(1)) == 2 and related(found)
    runs, out = ("--runs-dir", tmp_path / "runs"), tmp_path / "m.safetensors"
    assert call("runs", "show", found.id, *runs)[0] == 0
    code, _, err = call("runs", "merge", found.id, out, *runs)
    assert code == 0, err
    merged = load_file(out)
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    code, _, err = call("ship", "mine", "--into", tmp_path, *runs)
    assert code == 0 and [r.id for r in load_runs(tmp_path / "mine.zip")] == [found.id], err
    code, out, err = call("examples", found.id, *runs)
    if method == "fm-lora":  # whose smaller ranks are evaluated on the test images
        assert code == 2 and str(lent) in err
    else:
        assert code == 0, err
