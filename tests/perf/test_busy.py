"""`bench busy` begins runs at once and compares with its aims; how long they take is not tested."""

import json
import os

import pytest

from fmlora_lab.perf import busy
from fmlora_lab.profiles import configure


@pytest.mark.process
@pytest.mark.train
def test_runs_are_measured_alone_and_beside_one_another(call, monkeypatch):
    tiny = {"benchmark.tasks": 2, "benchmark.train_images": 2, "benchmark.test_images": 1}
    monkeypatch.setattr(busy, "work", lambda: configure("prototypes", "glyphs", "smoke", tiny))
    asked, seconds = [], busy.seconds

    def counting(count, repeats, environment=os.environ):
        asked.append((count, repeats, environment.get("GOMP_SPINCOUNT")))
        return seconds(count, repeats, environment)

    monkeypatch.setattr(busy, "seconds", counting)
    monkeypatch.setattr(busy, "AT_ONCE", {"two": 2})
    monkeypatch.setattr(busy, "TURNS", 1)
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    code, out, err = call("bench", "busy", "--repeats", 1, "--json", "--quiet")
    assert code == 0, err
    found = json.loads(out)
    assert err == ""
    assert asked == [(1, 1, "300000"), (1, 1, "1000"), (2, 1, "1000")]
    assert found["alone_ratio"] == pytest.approx(
        found["alone_seconds"] / found["unbounded_seconds"], rel=0.05
    )
    assert found["two_ratio"] == pytest.approx(
        found["two_seconds"] / found["alone_seconds"], rel=0.05
    )
    assert not os.path.exists(os.environ["FMLORA_RUNS"])


@pytest.mark.unit
def test_numbers_stand_beside_their_aims():
    found = {
        "repeats": 3,
        "cores": 2,
        "threads": 2,
        "spin": {"GOMP_SPINCOUNT": "1000"},
        "unbounded_seconds": 1.0,
        **{"alone_seconds": 1.02, "two_seconds": 2.04, "four_seconds": 5.1},
        **{"alone_ratio": 1.02, "two_ratio": 2.0, "four_ratio": 5.0},
        "aims": busy.AIMS,
    }
    lines = busy.to_text(found).splitlines()
    assert [line.split()[-3:] for line in lines[3:6]] == [
        ["1.02", "1.02", "1.05"],
        ["2.04", "2.00", "3.00"],
        ["5.10", "5.00", "6.00"],
    ]
    assert "GOMP_SPINCOUNT 1000" in lines[0]
