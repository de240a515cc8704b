"""How a sweep goes, for someone at a notebook: the panel says what the folders of its runs say."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from fmlora_lab import grid, identity, progress, sweep
from fmlora_lab.config import RunConfig
from fmlora_lab.interrupts import Stopped
from fmlora_lab.runs import panel as module
from fmlora_lab.runs import run as run_module
from fmlora_lab.runs.folder import FolderKeeper, RunFolder
from fmlora_lab.runs.launch import Failed
from fmlora_lab.runs.panel import SHOWN, Panel, accuracies, losses
from fmlora_lab.runs.run import run
from fmlora_lab.runs.watch import Skipped, State, current, words


@pytest.fixture
def notebook(monkeypatch):
    """Someone at a notebook: `notebook.left` is what stays of the displays."""
    found = SimpleNamespace(left={})
    handle = SimpleNamespace(update=lambda data, raw: found.left.update(data))
    monkeypatch.setattr(module, "display", lambda widget, display_id: handle)
    monkeypatch.setattr(progress, "kind", lambda: "notebook" if not progress._hears else "heard")
    return found


def words_of(asked):
    return words([a.labels for a in asked], [a.config for a in asked])


def a_panel(count, tmp_path):
    configs = [RunConfig(method="lora", seed=seed) for seed in range(count)]
    return Panel([{"seed": str(k)} for k in range(count)], configs, tmp_path)


def cells(html: str) -> list[list[str]]:
    """The words of the table's rows."""
    rows = re.findall("<tr><td>.*?</tr>", html)
    return [[re.sub("<.*?>", "", c) for c in re.findall("<td.*?</td>", row)] for row in rows]


# --- which words -------------------------------------------------------------------------------


@pytest.mark.unit
def test_a_row_has_the_labels_that_differ():
    asked = grid("smoke", method=["lora", "full"], tasks=5, seed=[0, 1])
    assert words_of(asked)[1] == {"method": "lora", "seed": "1"}


@pytest.mark.unit
def test_settings_tell_apart_what_labels_do_not():
    configs = [RunConfig(method={"name": "lora", "rank": rank}) for rank in (4, 8)]
    assert words([{"method": "lora", "seed": 0}] * 2, configs) == [
        {"method.rank": "4"},
        {"method.rank": "8"},
    ]
    assert words([{"method": "lora", "seed": 0}], configs[:1]) == [{"method": "lora"}]


# --- what is drawn -----------------------------------------------------------------------------


@pytest.mark.train
def test_the_curves_are_those_of_the_run(tiny_config, tmp_path):
    stored = run(tiny_config("lora"), tmp_path)
    config, folder = RunConfig.model_validate(stored.config), stored.folder
    along, accs = zip(*accuracies(folder, config), strict=True)
    counts = stored.result["test_images"]
    assert along == (0.5, 1.0)
    assert np.isclose(accs[-1], stored.result["acc"]) and counts == [6, 6]
    assert losses(folder, config) == [
        (share, line["loss"])
        for share, line in zip((0.25, 0.5, 0.75, 1), stored.progress(), strict=True)
    ]


@pytest.mark.train
def test_a_run_at_work_is_drawn_as_far_as_it_is(tiny_config, tmp_path, notebook, monkeypatch):
    seen = []

    class Watched(FolderKeeper):
        def log(self, line):
            super().log(line)
            current().draw()
            seen.append(cells(current().page.value)[0])

    monkeypatch.setattr(run_module, "FolderKeeper", Watched)
    found = sweep([tiny_config("lora")], tmp_path)
    assert [row[1:3] for row in seen] == [["running", "1/2"]] * 2 + [["running", "2/2"]] * 2
    lost = [f"{line['loss']:.3g}" for line in found.run[0].progress()]
    assert [row[4] for row in seen] == lost
    first = found.run[0].accuracy_matrix[0, 0]
    assert [row[5] for row in seen] == ["", "", f"{first:.1f}", f"{first:.1f}"]
    assert notebook.left["text/plain"] == "1 run: 1 done"
    assert "<td" not in notebook.left["text/html"]


@pytest.mark.unit
def test_of_many_runs_those_that_go_on_or_went_wrong_are_shown(tmp_path, notebook):
    panel = a_panel(200, tmp_path)
    panel.over = 100
    for row in panel.rows[:100]:
        row.stands("done")
    panel.rows[0].stands("failed", "KeyError: <x>")
    panel.rows[199].stands("running")
    shown = cells(panel.html())
    assert len(shown) == SHOWN and shown[0][:3] == ["0", "failed", "KeyError: &lt;x&gt;"]
    assert shown[-1][:2] == ["199", "running"]
    assert {row[0] for row in shown[1:-1]} < {str(k) for k in range(85, 115)}
    assert "200 runs: 1 failed, 99 done, 99 queued, 1 running" in panel.html()


@pytest.mark.unit
def test_time_left_counts_down_from_when_it_was_said(tmp_path, monkeypatch):
    now = SimpleNamespace(now=10.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now.now)
    row = a_panel(1, tmp_path).rows[0]
    row.stands("running", "lora · task 2/5: 240/1,200 img (20%), 01:02:04 left")
    now.now += 5
    row.stands("running", row.state.said)
    assert (row.task(), row.left()) == ("2/5", "61:59")
    row.stands("done")
    assert row.left() == ""


@pytest.mark.unit
def test_what_others_compute_stands_as_they_say(tmp_path):
    panel = a_panel(3, tmp_path)
    states = {"b": State("running", "lora · task 1/5: 0/9 img (0%)"), "c": State("queued", "why")}
    panel.stand(["a", "b", "c"], states)
    assert [row.state.what for row in panel.rows] == ["done", "running", "queued"]
    assert [row.folder.run_id for row in panel.rows] == ["a", "b", "c"]
    assert cells(panel.html())[2][:3] == ["2", "queued", "why"]


# --- Stop and Skip -----------------------------------------------------------------------------


@pytest.fixture
def at_the_second_epoch(monkeypatch):
    """`at_the_second_epoch(do)`: `do(panel, run's name)` once, in a run's second epoch."""

    def of(do):
        done = []

        class Clicked(FolderKeeper):
            def log(self, line):
                super().log(line)
                if len(self.lines) == 2 and not done:
                    done.append(self.folder.run_id)
                    do(current(), self.folder.run_id)

        monkeypatch.setattr(run_module, "FolderKeeper", Clicked)

    return of


@pytest.mark.train
def test_a_skipped_run_is_named_and_the_next_is_computed(
    tiny_config, tmp_path, notebook, at_the_second_epoch
):
    configs = [tiny_config("lora", seed=seed) for seed in range(2)]
    at_the_second_epoch(lambda panel, name: panel.skip(name))
    found = sweep(configs, tmp_path)
    assert [r.config["seed"] for r in found.run] == [1]
    assert notebook.left["text/plain"].splitlines() == [
        "2 runs: 1 skipped, 1 done",
        "seed 0: skipped",
        "skipped: seed 0; asked for again, it goes on where it stopped",
    ]
    assert cells(notebook.left["text/html"])[0][:2] == ["0", "skipped"]
    assert RunFolder(tmp_path, identity(configs[0])).has("checkpoint.safetensors")
    assert [r.config["seed"] for r in sweep(configs, tmp_path).run] == [0, 1]


@pytest.mark.train
def test_skipping_another_run_than_the_one_at_work_stops_nothing(
    tiny_config, tmp_path, notebook, at_the_second_epoch
):
    at_the_second_epoch(lambda panel, name: panel.skip("another"))
    assert len(sweep([tiny_config("lora")], tmp_path)) == 1


@pytest.mark.train
def test_a_sweep_of_which_every_run_was_skipped_has_stopped(
    tiny_config, tmp_path, notebook, at_the_second_epoch
):
    at_the_second_epoch(lambda panel, name: panel.skip(name))
    with pytest.raises(Stopped, match="stopped since every run was skipped; run again to go on"):
        sweep([tiny_config("lora")], tmp_path)


@pytest.mark.train
def test_stop_ends_the_sweep_even_of_a_run_to_be_skipped(
    tiny_config, tmp_path, notebook, at_the_second_epoch
):
    def both(panel, name):
        panel.skips.add(name)
        panel.stop()

    at_the_second_epoch(both)
    with pytest.raises(Stopped, match=r"stopped in run 1 of 2, .* of 2; run again to go on"):
        sweep([tiny_config("lora", seed=seed) for seed in range(2)], tmp_path)
    assert notebook.left["text/plain"].startswith("2 runs: 1 stopped, 1 queued\nseed 0: stopped")


@pytest.mark.unit
def test_a_click_that_comes_when_the_sweep_is_over_interrupts_nothing(tmp_path, notebook):
    with a_panel(1, tmp_path) as panel:
        panel.ended(Failed("a", "KeyError", tmp_path))
    panel.stop()
    panel.skip("a")
    assert "seed 0: failed" in notebook.left["text/plain"]


@pytest.mark.unit
def test_what_is_said_meanwhile_stands_below_the_table(tmp_path, notebook):
    with a_panel(2, tmp_path) as panel:
        progress.say("run a failed: <KeyError>")
        panel.ended(Skipped("a"))
    assert "run a failed: <KeyError>" in notebook.left["text/plain"]
    assert "<div>run a failed: &lt;KeyError&gt;</div>" in notebook.left["text/html"]
