"""`bench sweep-panel` and `bench runs-table`: what they print; how long it takes is not tested."""

import json

import pytest

from fmlora_lab.perf import runs_table, sweep_panel


@pytest.mark.process
def test_a_sweeps_panel_is_measured_at_a_kernel(call):
    code, out, _ = call("bench", "sweep-panel", "--repeats", 1, "--json")
    found = json.loads(out)
    assert code == 0 and [row["what"] for row in found] == list(sweep_panel.AIMS)
    counts = {row["what"]: row["times"] for row in found}
    assert (counts["goes on"], counts["Skip"], counts["Stop"]) == (1, 2, 2)
    assert counts["update"] and all(0 < row["median_s"] <= row["max_s"] for row in found)
    assert all(row["what"] in sweep_panel.to_text(found) for row in found)


@pytest.mark.unit
def test_the_table_of_runs_is_measured(call, monkeypatch):
    monkeypatch.setattr(runs_table, "COUNTS", (20, 40))
    code, out, _ = call("bench", "runs-table", "--repeats", 1, "--json")
    found = json.loads(out)
    assert code == 0 and [row["runs"] for row in found][1:] == [20, 40]
    assert "with the libraries" in runs_table.to_text(found)
