"""A notebook's step times: those stored beside the runs, else those that came, else measured."""

import json

import pytest

from fmlora_lab.perf import steps
from fmlora_lab.perf.steps import ROWS, row_title, stored_or_measured
from fmlora_lab.runs.archive import RESULTS

pytestmark = pytest.mark.unit


@pytest.fixture
def measured(monkeypatch):
    """How often the bench was run; it gives its number."""
    asked = []

    def bench(*_, **__):
        asked.append("once more")
        return {"rows": [], "number": len(asked)}

    monkeypatch.setattr(steps, "bench", bench)
    monkeypatch.delenv("FMLORA_FRESH", raising=False)
    return asked


def test_what_came_with_the_lab_is_taken_and_nothing_is_written(measured, tmp_path):
    assert stored_or_measured(tmp_path) == json.loads((RESULTS / "bench.json").read_text())
    assert not measured and not list(tmp_path.iterdir())


def test_a_fresh_rendering_measures_once(measured, tmp_path, monkeypatch):
    monkeypatch.setenv("FMLORA_FRESH", "1")
    assert stored_or_measured(tmp_path)["number"] == 1
    assert stored_or_measured(tmp_path)["number"] == 1
    assert measured == ["once more"]


def test_what_lies_beside_the_runs_comes_before_what_came(measured, tmp_path):
    (tmp_path / "bench.json").write_text('{"rows": [], "number": 9}')
    assert stored_or_measured(tmp_path)["number"] == 9


def test_every_row_has_a_title_of_its_own():
    titles = [row_title(name) for name in ROWS]
    assert len(set(titles)) == len(ROWS) and row_title("fm-lora-20") == "FM-LoRA, task 20"
    assert row_title("floor") == "frozen backbone"
