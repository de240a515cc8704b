"""Threads do not wait in a loop for long, are as many as pay, and stay as the user has set them."""

import os
import subprocess
import sys

import pytest
import torch

from fmlora_lab import run, threads
from fmlora_lab.lessons.watched import Trained, first_tasks, small
from fmlora_lab.profiles import configure
from fmlora_lab.render.notebooks import OneOfTwo
from fmlora_lab.runs import run as run_module
from fmlora_lab.runs.folder import FolderKeeper

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SAID = f"import os; print([os.environ.get(n) for n in {NAMES}])"


def python(code: str, **given: str) -> subprocess.CompletedProcess:
    """Run code in a process whose environment has of these names only what is given."""
    unset = {*NAMES, "OMP_NUM_THREADS", "MKL_NUM_THREADS"}
    env = {k: v for k, v in os.environ.items() if k not in unset} | given
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )


@pytest.fixture
def two(monkeypatch):
    """Torch has two threads, which nobody has set, and read how long they wait in time."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_unset", lambda: {2})
    monkeypatch.setattr(threads, "_state", {"spins": False, "ours": 0})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.process
@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, [None, "1600", "1"]),
        ({"GOMP_SPINCOUNT": "7"}, [None, "7", "1"]),
        ({"KMP_BLOCKTIME": "0"}, [None, "1600", "0"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", None, None]),
    ],
)
def test_waiting_is_bounded_where_the_user_has_not_said_how_long(given, found):
    assert python(f"import fmlora_lab; {SAID}", **given).stdout == f"{found}\n"


@pytest.mark.process
def test_torch_reads_it_when_it_is_loaded_after_the_lab_and_so_do_processes_it_starts():
    code = """
import subprocess, sys
import fmlora_lab, torch
code = "import torch, fmlora_lab.threads as t; print(t._state['spins'])"
print(subprocess.check_output([sys.executable, "-c", code], text=True))
"""
    said = python(code, OMP_DISPLAY_ENV="verbose")
    if "GOMP_SPINCOUNT" not in said.stderr:
        pytest.skip("torch has another OpenMP here")
    assert said.stderr.count("GOMP_SPINCOUNT = '1600'") == 2
    assert said.stdout == "False\n\n"


@pytest.mark.process
def test_where_torch_was_there_first_one_thread_is_for_more_work():
    said = python(
        "import torch, fmlora_lab.threads as t\n"
        "print(t._state['spins'], t.paying(10 * t.WORK), t.paying(2 * t.SPINNING_WORK))"
    )
    assert said.stdout == "True 1 2\n"


def test_another_thread_is_for_so_much_work_and_no_more_than_a_container_has(two, monkeypatch):
    assert [threads.paying(n * threads.WORK) for n in (0, 0.9, 1.9, 2, 7.5)] == [1, 1, 1, 2, 7]
    monkeypatch.setattr(threads, "_quota", lambda: 2.5)
    assert threads.paying(7 * threads.WORK) == 2


def test_cores_are_those_that_a_job_or_a_container_has(monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda who: {0, 3, 5}, raising=False)
    assert threads.cores() == 3
    monkeypatch.setattr(threads, "_quota", lambda: 2.5)
    assert threads.cores() == 2


def test_what_the_lab_sets_is_given_back_and_bounded_again_inside(two):
    with threads.at_most(1):
        assert torch.get_num_threads() == 1
        with threads.at_most(5):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(ValueError), threads.at_most(1):
        raise ValueError
    assert torch.get_num_threads() == 2


def test_what_the_user_has_set_stays(two, monkeypatch):
    torch.set_num_threads(3)
    with threads.at_most(1):
        assert torch.get_num_threads() == 3
    torch.set_num_threads(2)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        with monkeypatch.context() as patch, threads.at_most(2):
            patch.setenv(name, "2")
            with threads.at_most(1):
                assert torch.get_num_threads() == 2


def test_two_kernels_share_the_cores_unless_the_user_has_shared_them(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert OneOfTwo().kernel_spec.env["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert "OMP_NUM_THREADS" not in OneOfTwo().kernel_spec.env


def ask(batch_size: int, seed: int = 0):
    given = {"training.batch_size": batch_size, "seed": seed, "benchmark.tasks": 2}
    return configure("lora", "glyphs", "smoke", given)


@pytest.mark.train
def test_a_run_has_as_many_as_pay_for_its_batches_and_says_how_many(two, tmp_path):
    few, many = (run(ask(size), tmp_path) for size in (4, 32))
    assert [r.environment["threads"] for r in (few, many)] == [1, 2]
    assert torch.get_num_threads() == 2
    threads._state["spins"] = True
    assert run(ask(32, seed=1), tmp_path).environment["threads"] == 1


@pytest.mark.train
def test_a_run_goes_on_with_another_number_of_threads(two, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    class Stopping(FolderKeeper):
        def save_checkpoint(self, tensors, position):
            super().save_checkpoint(tensors, position)
            raise Stopped

    whole = run(ask(32), tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(run_module, "FolderKeeper", Stopping)
        run(ask(32), tmp_path / "parts")
    torch.set_num_threads(1)
    parts = run(ask(32), tmp_path / "parts")
    assert [r.environment["threads"] for r in (whole, parts)] == [2, 1]
    assert parts.result["acc"] == pytest.approx(whole.result["acc"], abs=1)
    first, second = (r.folder.read_arrays("checkpoint.safetensors")[0] for r in (whole, parts))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            torch.from_numpy(first[name]), torch.from_numpy(second[name]), rtol=1e-2, atol=1e-3
        )


@pytest.mark.train
def test_a_lesson_trains_with_one_thread(two):
    config, seen = small("lora"), []
    trained = Trained(config, lambda _: seen.append(torch.get_num_threads()))
    model, stream = first_tasks(config)
    trained.train(stream, model)
    assert set(seen) == {1} and torch.get_num_threads() == 2
