"""Runs on Slurm: what is asked of it, what becomes of jobs that end early, and a real cluster."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from cluster import cluster, missing
from nbformat.v4 import new_code_cell, new_notebook

from fmlora_lab import grid, identity, signals, sweep
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.profiles import profiles
from fmlora_lab.runs import job, launch
from fmlora_lab.runs import slurm as slurm_module
from fmlora_lab.runs.folder import FolderKeeper, RunFolder
from fmlora_lab.runs.launch import Failed
from fmlora_lab.runs.run import run
from fmlora_lab.runs.slurm import IN_VAIN, slurm
from fmlora_lab.runs.stored import load_runs
from fmlora_lab.runs.watch import Skipped, State, Watch

CONFIGS = [RunConfig(method="lora", seed=seed) for seed in range(3)]
NAMES = [identity(config) for config in CONFIGS]


@pytest.fixture
def queue(monkeypatch, tmp_path):
    """In Slurm's place: `queue.arrays` are the options of each sbatch, `queue.jobs` what squeue
    says of each job; each look at it comes after the next of `queue.events`."""
    found = SimpleNamespace(arrays=[], jobs={}, events=[], refuses="", root=tmp_path / "runs")
    found.cancelled, found.silent, found.site, found.limit = [], "", "", 100
    found.begun = lambda listed: None  # jobs that begin before sbatch has returned

    def answer(asked, **how):
        if asked[0] == "scancel":
            found.cancelled += asked[1:]
            return
        if asked[0] == "scontrol":
            return SimpleNamespace(returncode=0, stdout=found.site, stderr="")
        if asked[0] == "squeue" and found.silent:
            return SimpleNamespace(returncode=1, stdout="", stderr=found.silent)
        if asked[0] == "squeue":
            rows = [f"{job}|{state}|None" for job, state in found.jobs.items()]
            return SimpleNamespace(returncode=0, stdout="\n".join(rows), stderr="")
        if found.refuses:
            return SimpleNamespace(returncode=1, stdout="", stderr=found.refuses)
        options = dict(word[2:].partition("=")[::2] for word in asked[1:-1])
        listed = json.loads((Path(asked[-1]).parent / "runs.json").read_text())
        if len(found.jobs) + len(listed["runs"]) > found.limit:
            why = "sbatch: error: QOSMaxSubmitJobPerUserLimit"
            return SimpleNamespace(returncode=1, stdout="", stderr=why)
        found.arrays.append(options | {"runs": [own["run"] for own in listed["runs"]]})
        found.sent = [json.loads(own["config"]) for own in listed["runs"]]
        number = 10 + len(found.arrays)
        found.jobs |= {f"{number}_{k}": "PENDING" for k in range(len(listed["runs"]))}
        found.begun(Path(asked[-1]).parent / "runs.json")
        return SimpleNamespace(returncode=0, stdout=f"{number};cluster\n", stderr="")

    monkeypatch.setattr(slurm_module.subprocess, "run", answer)
    monkeypatch.setattr(slurm_module.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(slurm_module.time, "sleep", lambda seconds: found.events.pop(0)())
    stored = lambda config, *_: None  # noqa: E731
    monkeypatch.setattr(launch, "find_stored", stored)
    monkeypatch.setattr(launch, "run", lambda config, *_: f"run {config.seed}")
    found.done = lambda name: RunFolder(found.root, name).write_json("result.json", {})
    found.note = lambda name, **says: RunFolder(found.root, name).write_json("job.json", says)
    found.error = lambda name, **says: RunFolder(found.root, name).write_json(
        "job-error.json", says
    )
    return found


def end(queue, *names):
    """All jobs are over, and these runs done."""
    queue.jobs.clear()
    for name in names:
        queue.done(name)


@pytest.mark.unit
def test_one_array_of_all_that_is_missing_with_the_options_given(queue):
    queue.events = [lambda: end(queue, *NAMES)]
    given = {"partition": "gpu", "time": "4:00:00", "gpus": 1, "exclusive": True, "signal": "USR2"}
    assert list(slurm(given)(CONFIGS, queue.root, False)) == ["run 0", "run 1", "run 2"]
    (array,) = queue.arrays
    assert array["runs"] == NAMES and array["array"] == "0-2"
    expected = {"partition": "gpu", "time": "4:00:00", "gpus": "1", "exclusive": "", "requeue": ""}
    assert expected.items() <= array.items() and array["signal"] == "USR2"


@pytest.mark.unit
def test_arrays_are_no_longer_than_a_site_allows(queue, monkeypatch):
    monkeypatch.setattr(slurm_module, "ARRAY", 2)
    queue.events = [lambda: end(queue, *NAMES)]
    list(slurm()(CONFIGS, queue.root, False))
    assert [array["array"] for array in queue.arrays] == ["0-1", "0-0"]


@pytest.mark.unit
def test_a_user_without_a_name_is_a_number(monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(slurm_module.getpass, "getuser", nameless)
    assert slurm_module._user() == str(os.getuid())


@pytest.mark.unit
def test_an_array_without_a_throttle_is_false(queue):
    queue.events = [lambda: end(queue, *NAMES)]
    list(slurm({"array": False})(CONFIGS, queue.root, False))
    assert [array["array"] for array in queue.arrays] == ["0-2"]


@pytest.mark.unit
def test_a_site_says_itself_how_long_arrays_are(queue):
    queue.site = "MaxJobCount             = 10000\nMaxArraySize            = 3\n"
    queue.events = [lambda: end(queue, *NAMES)]
    list(slurm()(CONFIGS, queue.root, False))
    assert [array["array"] for array in queue.arrays] == ["0-1", "0-0"]


@pytest.mark.unit
def test_options_are_left_out_by_false_and_arrays_have_a_throttle(queue):
    queue.events = [lambda: end(queue, *NAMES)]
    given = {"array": "%8", "requeue": False, "mem": None, "nice": 0}
    list(slurm(given)(CONFIGS, queue.root, False))
    (array,) = queue.arrays
    assert (
        array["array"] == "0-2%8" and array["nice"] == "0" and not {"requeue", "mem"} & array.keys()
    )
    for text in ("3-5", "%0", 4):
        with pytest.raises(BadInput, match=r"array is '.*'; allowed: %N, how many jobs"):
            list(slurm({"array": text})(CONFIGS, queue.root, False))


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_a_job_computes_the_type_that_its_run_is_named_by(queue, monkeypatch, capsys, kind):
    for module in (sys.modules["fmlora_lab.runs.identity"], slurm_module):
        monkeypatch.setattr(module, "resolved", lambda said, device: kind)
    queue.events = [lambda: end(queue, *queue.arrays[0]["runs"])]
    list(slurm()(CONFIGS, queue.root, False))
    assert {config["training"]["precision"] for config in queue.sent} == {kind}
    named = [identity(RunConfig.model_validate(config)) for config in queue.sent]
    assert queue.arrays[0]["runs"] == named == [*map(identity, CONFIGS)]
    told = "training.precision is 'auto', which is float32 on this machine"
    assert (told in capsys.readouterr().err) == (kind == "float32")


@pytest.mark.unit
def test_what_slurm_does_not_take_now_it_is_given_later(queue, monkeypatch, capsys):
    """Limits of jobs, and a controller that is busy: others of the sweep are at work meanwhile."""
    monkeypatch.setattr(slurm_module, "ARRAY", 2)
    submit = slurm_module.Jobs._submit

    def only_two(jobs, names):
        queue.refuses = "QOSMaxSubmitJobPerUserLimit" if queue.jobs else ""
        submit(jobs, names)

    monkeypatch.setattr(slurm_module.Jobs, "_submit", only_two)
    looks = [lambda: None] * (2 * IN_VAIN)  # it is not given up however long that takes
    queue.events = [*looks, lambda: end(queue, *NAMES[:2]), lambda: end(queue, *NAMES)]
    assert list(slurm()(CONFIGS, queue.root, False)) == ["run 0", "run 1", "run 2"]
    assert [array["runs"] for array in queue.arrays] == [NAMES[:2], NAMES[2:]]
    told = "sbatch refused: QOSMaxSubmitJobPerUserLimit; 1 runs are given to Slurm later"
    assert told in capsys.readouterr().err


@pytest.mark.unit
def test_of_an_array_over_a_limit_as_many_jobs_are_given_as_slurm_takes(queue):
    """Though nothing of the sweep is at work when the first, of them all, is refused."""
    configs = [RunConfig(method="lora", seed=seed) for seed in range(8)]
    names, queue.limit = [identity(config) for config in configs], 5
    looks = [lambda: None] * (2 * IN_VAIN)
    queue.events = [*looks, lambda: end(queue, *names[:5]), lambda: end(queue, *names)]
    assert len(list(slurm()(configs, queue.root, False))) == 8 and not queue.events
    given = [array["runs"] for array in queue.arrays]
    assert given[:2] == [names[:4], names[4:5]] and [*chain(*given)] == names
    queue.limit = 0
    with pytest.raises(BadInput, match=r"^sbatch refused: sbatch: error: QOSMaxSubmitJob"):
        list(slurm()(CONFIGS, queue.root / "other", False))


@pytest.mark.unit
def test_what_slurm_never_takes_again_ends_the_sweep_in_one_sentence(queue, capsys):
    def lose():
        end(queue, *NAMES[:2])
        queue.refuses = "Invalid account"

    queue.events = [lose, *[lambda: None] * (IN_VAIN - 1)]
    with pytest.raises(BadInput, match=r"^sbatch refused: Invalid account$"):
        list(slurm()(CONFIGS, queue.root, False))
    assert not queue.events and "stay with Slurm" not in capsys.readouterr().err


@pytest.mark.unit
def test_a_job_that_is_found_again_and_fails_is_given_again(queue):
    def interrupt():
        raise KeyboardInterrupt

    def fail():
        end(queue, *NAMES[1:])
        queue.error(NAMES[0], job="11_0", error="KeyError: 'x'")

    queue.events = [interrupt, fail, lambda: end(queue, *NAMES)]
    with pytest.raises(KeyboardInterrupt):
        list(slurm()(CONFIGS, queue.root, False))
    assert list(slurm(retry=1)(CONFIGS, queue.root, False)) == ["run 0", "run 1", "run 2"]
    assert [array["runs"] for array in queue.arrays] == [NAMES, NAMES[:1]]


@pytest.mark.unit
def test_why_slurm_ended_a_job_is_said_where_the_run_never_began(queue):
    def kill():
        queue.jobs.clear()
        file = json.loads((queue.root / NAMES[0] / "job.json").read_text())["output"]
        Path(file).write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch\n")

    queue.events = [lambda: end(queue, *NAMES[1:]), *[kill] * IN_VAIN]
    (failed,) = slurm()(CONFIGS[:1], queue.root, False)
    said = "3 jobs ended without an epoch stored: slurmstepd: error: Detected 1 oom_kill event"
    assert failed.why.startswith(said) and failed.why.endswith("/0.txt)")


@pytest.mark.unit
def test_a_sweep_that_was_interrupted_finds_its_jobs(queue, capsys):
    def interrupt():
        raise KeyboardInterrupt

    queue.events = [interrupt, lambda: end(queue, *NAMES)]
    with pytest.raises(KeyboardInterrupt):
        list(slurm()(CONFIGS, queue.root, False))
    assert "3 runs stay with Slurm" in capsys.readouterr().err
    assert len(list(slurm()(CONFIGS, queue.root, False))) == 3
    assert len(queue.arrays) == 1


def submissions(queue) -> list[list[str]]:
    """The runs of each submission that left something in the runs folder."""
    listed = (json.loads(file.read_text()) for file in queue.root.glob(".slurm/*/runs.json"))
    return sorted([own["run"] for own in one["runs"]] for one in listed)


@pytest.mark.unit
def test_a_job_finds_the_sweeps_modules_and_no_file_beside_it_is_taken_for_a_package(
    queue, monkeypatch, tmp_path
):
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "own")])
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the user was executed')")
    said = []

    def look():
        (place,) = queue.root.glob(".slurm/*")
        assert str(tmp_path / "own") in json.loads((place / "runs.json").read_text())["path"]
        how = {"cwd": tmp_path, "stderr": subprocess.PIPE, "text": True}
        said.append(subprocess.Popen(["sh", place / "job.sh"], **how).communicate()[1])
        end(queue, *NAMES)

    queue.events = [look]
    list(slurm()(CONFIGS, queue.root, False))
    assert "SLURM_ARRAY_JOB_ID" in said[0] and "of the user" not in said[0]


@pytest.mark.unit
def test_what_was_written_for_a_submission_goes_when_its_runs_are_done(queue, monkeypatch):
    """Not before: its jobs read it, and one that failed has left there what it said."""

    def fail():
        end(queue, *NAMES[:2])
        assert submissions(queue) == sorted([NAMES[:2], NAMES[2:]])
        queue.error(NAMES[2], job="12_0", error="KeyError: 'x'")

    monkeypatch.setattr(slurm_module, "ARRAY", 2)
    queue.events = [fail]
    list(slurm()(CONFIGS, queue.root, False))
    assert submissions(queue) == [NAMES[2:]]
    queue.refuses = "no"
    with pytest.raises(BadInput):
        list(slurm()(CONFIGS, queue.root, False))
    assert submissions(queue) == [NAMES[2:]]
    queue.refuses, queue.events = "", [lambda: end(queue, *NAMES)]
    list(slurm()(CONFIGS, queue.root, False))
    assert not [*queue.root.glob(".slurm/*")]


@pytest.mark.unit
def test_a_skipped_run_is_cancelled_and_not_given_again(queue, monkeypatch):
    to_skip = [{NAMES[1]}, set()]
    monkeypatch.setattr(Watch, "to_skip", lambda watch: to_skip.pop(0))
    queue.events = [lambda: None, lambda: end(queue, NAMES[0], NAMES[2])]
    found = list(slurm()(CONFIGS, queue.root, False))
    assert found == ["run 0", Skipped(NAMES[1]), "run 2"]
    assert queue.cancelled == ["11_1"] and len(queue.arrays) == 1


@pytest.mark.unit
def test_jobs_that_ended_too_early_are_given_again_while_they_get_further(queue):
    """Time, preemption or a node; one that gets no further has failed."""
    checkpoint = queue.root / NAMES[0] / "checkpoint.safetensors"

    def cut(epoch):
        queue.jobs.clear()
        checkpoint.write_bytes(b"")
        os.utime(checkpoint, (epoch, epoch))

    further = [lambda epoch=epoch: cut(epoch) for epoch in range(1, 2 * IN_VAIN)]
    stuck = [lambda: end(queue)] * IN_VAIN
    queue.events = [lambda: end(queue, *NAMES[1:]), *further, *stuck]
    failed, *others = slurm()(CONFIGS, queue.root, False)
    assert others == ["run 1", "run 2"] and not queue.events
    assert isinstance(failed, Failed) and failed.why == "3 jobs ended without an epoch stored"
    given = [array["runs"] for array in queue.arrays]
    assert given == [NAMES, *[NAMES[:1]] * (len(further) + len(stuck))]


@pytest.mark.unit
@pytest.mark.parametrize("retry", [0, 1])
def test_a_run_that_failed_by_itself_is_given_again_if_that_is_asked_for(queue, retry):
    def fail(array):
        end(queue, *NAMES[1:])
        queue.error(NAMES[0], job=f"{array}_0", error="KeyError: 'x'")

    queue.events = [lambda: fail(11), lambda: fail(12)]
    found = list(slurm(retry=retry)(CONFIGS, queue.root, False))
    assert (found[0].why, found[0].log) == ("KeyError: 'x'", queue.root / NAMES[0] / "log.txt")
    assert found[1:] == ["run 1", "run 2"] and len(queue.arrays) == 1 + retry
    queue.events = [lambda: end(queue, *NAMES)]  # asked for again, it is given to Slurm again
    assert next(slurm()(CONFIGS, queue.root, False)) == "run 0"
    assert queue.arrays[-1]["runs"] == NAMES[:1]


@pytest.mark.unit
def test_a_job_that_fails_before_the_sweep_knows_it_is_not_given_again(queue, monkeypatch):
    """It begins, and says why it failed, before sbatch has returned."""
    monkeypatch.setattr(signals, "heed", lambda *numbers: None)
    monkeypatch.setattr("fmlora_lab.threads.use", lambda count: None)
    monkeypatch.setattr("fmlora_lab.runs.workers.compute", lambda *how: "KeyError: 'x'")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")

    def begin(listed):
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", str(10 + len(queue.arrays)))
        assert job.main(listed) == 1

    queue.begun, queue.events = begin, [lambda: end(queue, *NAMES[1:])]
    failed, *others = slurm()(CONFIGS, queue.root, False)
    assert failed.why == "KeyError: 'x'" and others == ["run 1", "run 2"]
    assert len(queue.arrays) == 1


@pytest.mark.unit
def test_one_failure_counts_once_however_long_slurm_takes_no_other_job(queue):
    def fail():
        del queue.jobs["11_0"]
        queue.error(NAMES[0], job="11_0", error="KeyError: 'x'")
        queue.limit = 2

    looks = [lambda: None] * 2
    queue.events = [fail, *looks, lambda: end(queue, *NAMES[1:]), lambda: end(queue, *NAMES)]
    assert next(slurm(retry=1)(CONFIGS, queue.root, False)) == "run 0"
    assert [array["runs"] for array in queue.arrays] == [NAMES, NAMES[:1]]


@pytest.mark.unit
@pytest.mark.parametrize("theirs", [{"user": "bert"}, {"user": "ann", "cluster": "other"}])
def test_what_another_user_or_cluster_was_given_is_left_to_it_for_a_day(queue, monkeypatch, theirs):
    """Its jobs are in no queue that is seen here, and it replaces this sweep's notes."""
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    queue.site, said = "ClusterName             = cluster\n", []
    monkeypatch.setattr(Watch, "stand", lambda watch, names, states: said.append({**states}))
    queue.note(NAMES[0], job="7_0", **theirs)

    def replace():
        end(queue, NAMES[2])
        queue.note(NAMES[1], job="7_1", **theirs)

    def forget():
        yesterday = time.time() - 25 * 3600
        os.utime(queue.root / NAMES[0] / "job.json", (yesterday, yesterday))
        queue.error(NAMES[1], job="7_1", error="KeyError: 'x'")

    looks = [replace] * (2 * IN_VAIN)
    queue.events = [*looks, forget, lambda: end(queue, *NAMES)]
    found = list(slurm(retry=1)(CONFIGS, queue.root, False))
    assert found == ["run 0", "run 1", "run 2"] and not queue.events
    assert [array["runs"] for array in queue.arrays] == [NAMES[1:], NAMES[:2]]
    whose = "bert" if theirs["user"] == "bert" else "ann on other"
    assert said[0][NAMES[0]] == said[-2][NAMES[1]] == State("queued", f"given to Slurm by {whose}")
    assert RunFolder(queue.root, NAMES[0]).read_json("job.json").items() >= {
        ("job", "12_0"),
        ("user", "ann"),
        ("cluster", "cluster"),
    }


@pytest.mark.unit
def test_a_job_of_the_sweeps_own_is_followed_though_another_user_was_given_its_run(
    queue, monkeypatch
):
    to_skip = [set(), {NAMES[0]}, set()]
    monkeypatch.setattr(Watch, "to_skip", lambda watch: to_skip.pop(0))
    queue.events = [
        lambda: queue.note(NAMES[0], job="7_0", user="somebody else"),
        lambda: None,
        lambda: end(queue, *NAMES[1:]),
    ]
    assert next(slurm()(CONFIGS, queue.root, False)) == Skipped(NAMES[0])
    assert queue.cancelled == ["11_0"] and len(queue.arrays) == 1


@pytest.mark.unit
@pytest.mark.parametrize("key", ["clusters", "cluster", "M"])
def test_jobs_on_a_cluster_whose_queue_is_not_seen_are_refused(queue, key):
    with pytest.raises(BadInput, match=f"{key} is 'big', and a sweep sees one cluster's queue"):
        list(slurm({key: "big"})(CONFIGS, queue.root, False))
    assert not queue.arrays


@pytest.mark.unit
def test_what_another_process_computes_is_not_given_to_slurm(queue):
    def stop():
        claim.release()
        end(queue, *NAMES)

    claim = RunFolder(queue.root, NAMES[0]).lock().acquire()
    queue.events = [stop]
    assert len(list(slurm()(CONFIGS, queue.root, False))) == 3
    assert [array["runs"] for array in queue.arrays] == [NAMES[1:]]


@pytest.mark.unit
def test_without_a_cluster_nothing_is_waited_for(queue):
    queue.silent = "slurm_load_jobs error: Unable to contact slurm controller"
    refused = "on is 'slurm', and no cluster answers: squeue: slurm_load_jobs error: Unable"
    with pytest.raises(BadInput, match=refused):
        list(slurm()(CONFIGS, queue.root, False))
    assert not queue.arrays and not queue.root.exists()


@pytest.mark.unit
def test_a_controller_that_is_away_for_a_moment_is_waited_for(queue, capsys):
    queue.events = [
        lambda: setattr(queue, "silent", "Unable to contact slurm controller"),
        lambda: setattr(queue, "silent", ""),
        lambda: end(queue, *NAMES),
    ]
    assert len(list(slurm()(CONFIGS, queue.root, False))) == 3
    assert len(queue.arrays) == 1  # what is queued is not given again
    assert "squeue: Unable to contact slurm controller" in capsys.readouterr().err


@pytest.mark.unit
def test_what_sbatch_refuses_is_said(queue, monkeypatch):
    queue.refuses = "sbatch: error: invalid partition specified: gpus"
    with pytest.raises(BadInput, match="sbatch refused: sbatch: error: invalid partition"):
        list(slurm()(CONFIGS, queue.root, False))
    monkeypatch.setattr(slurm_module.shutil, "which", lambda tool: None)
    with pytest.raises(BadInput, match="this machine has no sbatch"):
        sweep(CONFIGS, queue.root, on="slurm")


@pytest.mark.unit
def test_options_are_the_profiles_and_flags_go_beyond_them(monkeypatch):
    asked = []
    monkeypatch.setattr("fmlora_lab.runs.sweep.slurm", lambda *how: asked.append(how) or list)
    monkeypatch.setitem(profiles()["smoke"], "slurm", {"partition": "cpu", "time": 5})
    launcher = sys.modules["fmlora_lab.runs.sweep"].launcher
    launcher("slurm", None, 2, grid("smoke"))
    monkeypatch.setenv("FMLORA_SLURM", '{"time": 9, "mem": "2G"}')
    launcher("slurm", None, 0, grid("smoke", seed=range(2)))
    launcher("slurm", None, 0, CONFIGS and [])
    table = {"partition": "cpu", "time": 5}
    assert asked[0] == (table, 2)
    assert asked[1] == (table | {"time": 9, "mem": "2G"}, 0)
    assert asked[2] == ({"time": 9, "mem": "2G"}, 0)
    with pytest.raises(BadInput, match=r"profiles smoke, demo differ in \[slurm\]"):
        launcher("slurm", None, 0, grid("smoke") + grid("demo"))


def test_a_run_that_is_asked_to_stop_ends_where_it_goes_on_from(
    tiny_config, tmp_path, monkeypatch, same_run
):
    """Between two epochs or tasks, at each once; no epoch is computed twice."""
    config = tiny_config("fm-lora", **{"training.epochs": 3})
    whole = run(config, tmp_path / "whole")
    monkeypatch.setitem(signals._asked, "by", signal.SIGTERM)
    logged = []

    class Counting(FolderKeeper):
        def log(self, line):
            super().log(line)
            logged.append((line["task"], line["stage"], line["epoch"]))

    monkeypatch.setattr("fmlora_lab.runs.run.FolderKeeper", Counting)
    stops = 0
    while True:
        try:
            stopped = run(config, tmp_path / "stopped")
            break
        except signals.AskedToStop:
            stops += 1
    assert stops >= 4 and len(logged) == len({*logged}) == len(whole.progress())
    same_run(whole, stopped)


# --- a real cluster -------------------------------------------------------------------------------

GATE = """
import os

if "SLURM_JOB_ID" in os.environ:
    import time
    from pathlib import Path

    from fmlora_lab import signals
    from fmlora_lab.runs import folder

    gates, log = Path(os.environ["GATES"]), folder.FolderKeeper.log

    def logged(self, line):
        log(self, line)
        with open(gates / "epochs.txt", "a") as file:
            file.write(f"{self.folder.run_id} {line['task']}\\n")
        gate, first = gates / self.folder.run_id, gates / "array"
        if not first.exists():
            first.write_text(os.environ["SLURM_ARRAY_JOB_ID"])
        if gate.exists() and first.read_text() == os.environ["SLURM_ARRAY_JOB_ID"]:
            gate.unlink()
            while not signals.asked():
                time.sleep(0.05)  # until the test's turn

    folder.FolderKeeper.log = logged
"""

NOTEBOOK = """
from fmlora_lab import grid, sweep
asked = grid("smoke", benchmark="folder", method="lora", seed=range(12), overrides={overrides})
found = sweep(asked, runs_dir)
"""


@pytest.fixture(scope="module")
def slurmed(tmp_path_factory):
    if lacking := missing():
        pytest.skip(f"no Slurm here ({', '.join(lacking)} not found): apt-get install slurm-wlm")
    with cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.mark.cluster
def test_twelve_runs_come_to_their_end_whatever_becomes_of_their_jobs(
    slurmed, images, tmp_path, same_run, request
):
    """After their first epoch six of the runs wait for what befalls them: a signal that warns and
    one that kills, the loss of their node, and, three of them, the end of their time."""
    overrides = {"benchmark.data": str(images), "benchmark.tasks": 2}
    asked = grid("smoke", benchmark="folder", method="lora", seed=range(12), overrides=overrides)
    names = [identity(one.config) for one in asked]
    gates = tmp_path / "gates"
    gates.mkdir()
    (gates / "sitecustomize.py").write_text(GATE)
    for name in names[:6]:
        (gates / name).touch()
    parameters = new_code_cell("runs_dir = None")
    parameters.metadata["tags"] = ["parameters"]
    code = new_code_cell(NOTEBOOK.format(overrides=overrides))
    nbformat.write(new_notebook(cells=[parameters, code]), tmp_path / "mine.ipynb")
    environment = slurmed | {
        "OMP_NUM_THREADS": "1",
        "GATES": str(gates),
        "PYTHONPATH": os.pathsep.join([str(gates), os.environ.get("PYTHONPATH", "")]),
    }
    words = ["sweep", tmp_path / "mine.ipynb", "--on", "slurm", "--slurm", "time=30"]
    words += ["--slurm", "signal=B:USR2@75"]  # within its first minute, where a job has two
    words += ["--slurm", f"cpus-per-task={os.cpu_count()}", "--runs-dir", tmp_path / "runs"]
    sweeping = subprocess.Popen(
        [sys.executable, "-m", "fmlora_lab", *map(str, words), "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    request.addfinalizer(sweeping.kill)

    def tell(*command, check=True):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def send(*words):
        # Not waited for: it tries again for minutes where the job has gone by then.
        request.addfinalizer(subprocess.Popen(["scancel", *words], env=environment).kill)

    def waiting(name):
        """The job of a run that waits for its turn, and its node."""
        while (gates / name).exists():
            assert sweeping.poll() is None, sweeping.communicate()
            time.sleep(0.1)  # leaves the processor to the jobs
        job = RunFolder(tmp_path / "runs", name).read_json("job.json")["job"]
        return job, tell("squeue", "--noheader", "--array", "--jobs", job, "--format=%N").strip()

    job, _ = waiting(names[0])
    array = job.partition("_")[0]
    for k in (3, 4, 5):
        tell("scontrol", "update", f"JobId={array}_{k}", "TimeLimit=2")
    send("--batch", "--signal=USR2", job)
    send("--full", "--signal=KILL", waiting(names[1])[0])
    _, node = waiting(names[2])
    tell("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    tell("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)  # if it is not
    out, err = sweeping.communicate()
    assert sweeping.returncode == 0, err
    assert json.loads(out) == {"runs": [{"run": name, "state": "done"} for name in names]}
    said = [(tmp_path / "runs" / name / "log.txt").read_text() for name in names]
    processes = [text.count("-- process") for text in said]
    assert all(count > 1 for count in processes[:3]) and processes[6:] == [1] * 6
    assert "asked to stop" in said[0]
    # Where the warning comes before Python is there it ends the job, and the sweep gives another.
    jobs = [RunFolder(tmp_path / "runs", name).read_json("job.json")["job"] for name in names[3:6]]
    cut = ["asked to stop" in text for text in said[3:6]]
    assert any(cut) and all(
        c or not j.startswith(f"{array}_") for c, j in zip(cut, jobs, strict=True)
    )
    epochs = (gates / "epochs.txt").read_text().splitlines()
    for k in (0, *range(3, 12)):  # nor was an epoch computed twice, but by those that were killed
        assert [line for line in epochs if names[k] in line] == [f"{names[k]} {t}" for t in (0, 1)]
    found = {stored.id: stored for stored in load_runs(tmp_path / "runs")}
    assert sorted(found) == sorted(names)
    for alone in sweep(asked, tmp_path / "alone").run:
        same_run(found[alone.id], alone)
