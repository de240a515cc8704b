"""`fmlora-lab bench explorers` moves every explorer; how long that takes is not tested."""

import json

import pytest

from fmlora_lab import explorers
from fmlora_lab.perf import explorers as bench_explorers

pytestmark = pytest.mark.browser


def test_every_explorer_is_measured():
    assert sorted(bench_explorers.EXPLORERS) == sorted(explorers.__all__)


def test_the_command_prints_what_it_measured(call, small_run, monkeypatch):
    monkeypatch.setenv("FMLORA_RUNS", str(small_run))
    code, out, _ = call("bench", "explorers", "--moves", 4, "--json")
    found = json.loads(out)
    assert code == 0 and [row["explorer"] for row in found] == list(bench_explorers.EXPLORERS)
    for row in found:
        assert list(row) == ["explorer", "moves", "median_ms", "p95_ms", "open_ms"]
        assert row["moves"] == 4 and 0 < row["median_ms"] <= row["p95_ms"] and row["open_ms"] > 0
        assert row["explorer"] in bench_explorers.to_text(found)


def test_without_a_browser_it_says_what_is_missing(call, monkeypatch):
    monkeypatch.setattr("fmlora_lab.perf.browser.found", lambda: None)
    code, _, err = call("bench", "explorers")
    assert code == 2 and "no browser: none of chromium" in err
