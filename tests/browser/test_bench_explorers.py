"""`fmlora-lab bench explorers` moves every explorer; how long that takes is not tested."""

import json

import pytest

from fmlora_lab import bench_explorers, explorers
from fmlora_lab.cli import main


def test_every_explorer_is_measured():
    assert sorted(bench_explorers.EXPLORERS) == sorted(explorers.__all__)


def test_the_command_prints_what_it_measured(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fmlora-lab", "bench", "explorers", "--moves", "4", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    assert [row["explorer"] for row in found] == list(bench_explorers.EXPLORERS)
    for row in found:
        assert list(row) == ["explorer", "moves", "median_ms", "p95_ms", "open_ms"]
        assert row["moves"] == 4 and 0 < row["median_ms"] <= row["p95_ms"] and row["open_ms"] > 0
        assert row["explorer"] in bench_explorers.to_text(found)


def test_without_a_browser_it_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr("fmlora_lab.browser.found", lambda: None)
    monkeypatch.setattr("sys.argv", ["fmlora-lab", "bench", "explorers"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "no browser: none of chromium" in capsys.readouterr().err
