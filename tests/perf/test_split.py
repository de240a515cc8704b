"""`bench run` says where a run's time went; how much of it is not tested, but that all is told."""

import json
import time

import pytest

from fmlora_lab.benchmarks.stream import Images
from fmlora_lab.perf import split
from fmlora_lab.perf.split import CLOCKED, KEEPING, METHOD, PARTS, STARTING, Clock

pytestmark = pytest.mark.train


def test_a_run_is_told_part_by_part_and_drawn(call, tmp_path):
    """Of any method, and nothing of it stays: neither the run nor what it was called through."""
    before = [getattr(owner, name) for owner, name, _ in CLOCKED], Images.pixels
    tiny = ("--set", "benchmark.train_images=2", "--set", "benchmark.test_images=1")
    words = ("bench", "run", "--method", "lora", "--profile", "smoke", "--tasks", 2, *tiny)
    code, out, err = call(*words, "--figures-dir", tmp_path / "out", "--json", "--quiet")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert tuple(found["seconds"]) == PARTS and min(found["seconds"].values()) > 0
    assert found["whole"] == pytest.approx(sum(found["seconds"].values()), abs=0.01)
    assert found["images"] == 200 and found["whole_by_steps"] > 1
    assert [file.name for file in sorted((tmp_path / "out").iterdir())] == [
        "run-lora.pdf",
        "run-lora.png",
        "run-lora.svg",
    ]
    assert ([getattr(owner, name) for owner, name, _ in CLOCKED], Images.pixels) == before
    assert not (tmp_path / "runs").exists()
    text = split.to_text(found)
    assert all(part in text for part in PARTS) and "200 images" in text


@pytest.mark.unit
def test_where_it_is_drawn_is_looked_at_before_a_run_is_computed(call, tmp_path, monkeypatch):
    monkeypatch.setattr("fmlora_lab.perf.split.run", None)
    (file := tmp_path / "file").touch()
    code, out, err = call("bench", "run", "--profile", "smoke", "--figures-dir", file)
    assert (code, out) == (2, "") and str(file) in err


def test_of_parts_inside_one_another_the_innermost_counts(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def passing(seconds, inner=None):
        now[0] += seconds
        if inner is not None:
            inner()
        now[0] += seconds

    clock = Clock(8.0)
    data = clock.through(lambda: passing(1), "data")
    data()  # before training: it belongs to the start
    step = clock.through(lambda: passing(4, data), "step")
    clock.through(lambda: passing(16, step), METHOD)()
    passing(32)
    clock.note()
    told = {part: value for part, value in clock.seconds.items() if value}
    assert told == {STARTING: 4, "data": 2, "step": 8, METHOD: 32, KEEPING: 64}


@pytest.mark.unit
def test_a_method_without_steps_has_no_ratio():
    found = {
        "method": "slda", "benchmark": "glyphs", "device": "cpu", "precision": "float32",
        "threads": 1, "images": 0, "seconds": dict.fromkeys(PARTS, 1.0), "whole": 8.0,
        "whole_by_steps": None, "aim": 1.3,
    }  # fmt: skip
    assert "it has no steps" in split.to_text(found)
