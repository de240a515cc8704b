"""`bench stored` lists as many runs as it says; how long that takes is not tested."""

import json

import pytest

from fmlora_lab import load_runs
from fmlora_lab.perf.stored import LISTS, many


@pytest.mark.process
def test_every_list_is_measured_in_a_process_of_its_own(call):
    code, out, err = call("bench", "stored", "--runs", 3, "--json", "--quiet")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["runs"] == 3 and found["lists"].keys() == {"first", "list", *LISTS}
    assert all(own["seconds"] > 0 and own["memory_mb"] >= 0 for own in found["lists"].values())


@pytest.mark.unit
def test_many_are_different_runs_that_can_be_read(tmp_path):
    many(tmp_path, 100)
    runs = load_runs(tmp_path)
    assert len({run.id for run in runs}) == 100
    for run in runs[::30]:
        assert run.environment["class_names"] and run.result["run_id"] == run.id
