"""Lists of many runs: what was read once is not read again, and no list is of yesterday."""

import json

import pytest

from fmlora_lab import load_runs
from fmlora_lab.perf.stored import many
from fmlora_lab.runs import index
from fmlora_lab.runs.folder import DamagedFile, RunFolder
from fmlora_lab.runs.frame import frame
from fmlora_lab.runs.index import INDEX
from fmlora_lab.runs.stored import Run, delete, find_run

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Eight runs, as if they were many."""
    monkeypatch.setattr(index, "MANY", 4)
    many(tmp_path, 8)
    return tmp_path


@pytest.fixture
def opened(monkeypatch):
    """Files of runs that were opened, in order."""
    found, read = [], RunFolder._bytes

    def noting(self, name):
        found.append(f"{self.run_id}/{name}")
        return read(self, name)

    monkeypatch.setattr(RunFolder, "_bytes", noting)
    return found


def test_what_was_read_once_is_not_read_again_and_says_the_same(folder, opened):
    first = load_runs(folder)
    assert (folder / INDEX).is_file() and len(opened) == 16
    opened.clear()
    again = load_runs(folder)
    alone = [Run(RunFolder(folder, run.id)) for run in first]
    opened.clear()
    assert [run.id for run in again] == [run.id for run in first] == [run.id for run in alone]
    assert [run.config for run in again] == [run.config for run in alone]
    assert [run.label for run in again] == [run.label for run in alone]
    assert [run.shipped for run in again] == [False] * 8
    tables = [frame([({}, run) for run in runs]).drop(columns="run") for runs in (again, alone)]
    assert tables[0].equals(tables[1])
    assert not opened
    n = len(alone[3].result["test_images"])
    assert again[3].result == alone[3].result and again[3].accuracy_matrix.shape == (n, n)
    assert opened == [f"{again[3].id}/result.json"]


def test_a_run_that_finished_or_was_deleted_since_is_seen(folder, opened):
    runs = load_runs(folder)
    delete(find_run(runs[0].id, folder))
    half = folder / runs[1].id / "result.json"
    text = half.read_bytes()
    half.unlink()
    assert [run.id for run in load_runs(folder)] == [run.id for run in runs[2:]]
    half.write_bytes(text)
    opened.clear()
    assert [run.id for run in load_runs(folder)] == [run.id for run in runs[1:]]
    assert opened in ([], [f"{runs[1].id}/config.json", f"{runs[1].id}/result.json"])


def test_a_result_that_changed_is_read_and_checked_anew(folder):
    run = load_runs(folder)[2]
    file = folder / run.id / "result.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps(result | {"acc": 1.0}))
    with pytest.raises(DamagedFile, match=run.id):
        load_runs(folder)
    result.pop("sha256"), result.pop("file_of_run")
    RunFolder(folder, run.id).write_json("result.json", result | {"acc": 1.0})
    assert load_runs(folder)[2].numbers["acc"] == 1.0


@pytest.mark.parametrize("spoilt", [b"", b"x", b"[]", None], ids=str)
def test_notes_that_cannot_be_used_are_made_anew(folder, opened, monkeypatch, spoilt):
    before = load_runs(folder)
    whole = (folder / INDEX).read_bytes()
    if spoilt is None:
        monkeypatch.setattr(index, "VERSION", index.VERSION + 1)
    else:
        (folder / INDEX).write_bytes(whole[:-10] + spoilt)
    opened.clear()
    assert [run.numbers for run in load_runs(folder)] == [run.numbers for run in before]
    assert len(opened) == 16
    if spoilt is not None:
        assert (folder / INDEX).read_bytes() == whole


def test_a_folder_of_few_has_no_notes_and_one_that_cannot_be_written_is_read(folder, monkeypatch):
    monkeypatch.setattr(index, "write_atomically", _refuse)
    assert len(load_runs(folder)) == 8
    monkeypatch.setattr(index, "MANY", 9)
    assert len(load_runs(folder)) == 8
    assert not (folder / INDEX).exists()


def _refuse(path, write):
    raise PermissionError(13, "Permission denied", str(path))
