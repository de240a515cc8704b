"""Bars are for whoever watches: a control, a bar, few plain lines, or nothing; never on stdout."""

import json
import os
import pty
import subprocess
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient

from fmlora_lab import grid, progress, sweep
from fmlora_lab.progress import Lines
from fmlora_lab.render.notebooks import OwnPython
from fmlora_lab.runs import index
from fmlora_lab.runs.pool import begin
from fmlora_lab.runs.watch import State, Watch

TASKS = 5
"""Of the smoke profile."""


@pytest.fixture(autouse=True)
def in_a_file(monkeypatch):
    """Nobody watches, and no line has been said."""
    monkeypatch.delenv(progress.TOLD, raising=False)
    for name, value in {"shown": [], "spoke": None, "inner": False}.items():
        monkeypatch.setattr(Lines, name, value)


@pytest.fixture
def clock(monkeypatch):
    """`clock.now` is what time it is."""
    now = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.now)
    return now


class Terminal(StringIO):
    def isatty(self):
        return True


def lines_of(file: StringIO) -> list[str]:
    assert "\r" not in file.getvalue() and file.getvalue()[-1:] in ("", "\n")
    return file.getvalue().splitlines()


def lab(*words: str, stderr) -> subprocess.Popen:
    """The command line in a process of its own, its results in a pipe."""
    command = [sys.executable, "-m", "fmlora_lab", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)


def run_words(seed: int) -> list[str]:
    return ["run", "--profile", "smoke", "--method", "lora", "--seed", str(seed)]


# --- what a bar is -----------------------------------------------------------------------------


def test_what_a_bar_is_depends_on_where_it_goes_and_on_what_was_said(monkeypatch):
    kernels = type("OutStream", (Terminal,), {"__module__": "ipykernel.iostream"})
    for stream, kind in ((StringIO(), "lines"), (Terminal(), "terminal"), (kernels(), "notebook")):
        with redirect_stderr(stream):
            assert progress.kind() == kind
    with redirect_stderr(None):
        assert progress.kind() == "none"
    monkeypatch.setenv(progress.TOLD, "terminal")
    with redirect_stderr(StringIO()):
        assert progress.kind() == "terminal"


def test_a_terminal_has_a_bar_and_a_quiet_one_has_not(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with redirect_stderr(Terminal()) as shown:
        assert list(progress.bar(range(3), desc="three")) == [0, 1, 2]
        assert "three: 100%" in shown.getvalue() and "\r" in shown.getvalue()
        before = shown.getvalue()
        progress.quieten()
        assert list(progress.bar(range(3))) == [0, 1, 2]
        with progress.bar(total=3) as bar:
            bar.set_description("task 1")
            bar.update()
        progress.say("by the way")
        assert shown.getvalue() == before


# --- lines -------------------------------------------------------------------------------------


def test_a_line_where_a_task_begins_and_one_a_minute(clock):
    how = {"desc": "lora", "unit": "img", "unit_scale": True, "leave": False}
    with redirect_stderr(StringIO()) as file, progress.bar(**how) as bar:
        bar.total = 1200
        for task in range(2):
            bar.set_description(f"lora · task {task + 1}/2")
            for _ in range(600):
                clock.now += 0.25
                bar.update()
    assert lines_of(file) == [
        "lora · task 1/2: 0/1,200 img (0%)",
        "lora · task 1/2: 240/1,200 img (20%), 04:00 left",
        "lora · task 1/2: 480/1,200 img (40%), 03:00 left",
        "lora · task 2/2: 600/1,200 img (50%), 02:30 left",
        "lora · task 2/2: 840/1,200 img (70%), 01:30 left",
        "lora · task 2/2: 1,080/1,200 img (90%), 00:30 left",
    ]


def test_what_was_done_before_says_nothing_of_what_is_left(clock):
    with redirect_stderr(StringIO()), progress.bar(total=100, initial=80) as bar:
        clock.now += 10
        bar.update(10)
        assert "00:10 left" in str(bar)


def test_a_bar_that_stays_ends_with_a_line_unless_it_was_quick(clock):
    with redirect_stderr(StringIO()) as file:
        list(progress.bar([1, 2], desc="stays", unit="file"))
        list(progress.bar([1, 2], desc="goes", leave=False))
        list(progress.bar([1, 2], desc="quick", delay=2))
        for _ in progress.bar(iter([1, 2]), desc="long", delay=2, unit="image"):
            clock.now += 2
    assert lines_of(file) == ["stays: 2/2 file (100%)", "long: 2 image"]


def test_a_last_line_that_stands_there_is_not_said_again(clock):
    with redirect_stderr(StringIO()) as file:
        for _ in progress.bar(range(2), desc="runs", unit="run"):
            clock.now += 100
    assert lines_of(file) == ["runs: 1/2 run (50%), 01:40 left", "runs: 2/2 run (100%)"]


def test_a_bar_inside_another_tells_of_its_first_task_and_shares_its_minute(clock):
    with redirect_stderr(StringIO()) as file:
        for _ in progress.bar(range(3), desc="runs", unit="run", leave=False):
            with progress.bar(desc="lora", total=4, unit="img", leave=False) as bar:
                for task in range(4):
                    bar.set_description(f"task {task + 1}")
                    clock.now += 8
                    bar.update()
    said = lines_of(file)
    assert [line for line in said if "task 1: 0" in line] == [
        "runs: 0/3 run (0%) | task 1: 0/4 img (0%)",
        "runs: 1/3 run (33%), 01:04 left | task 1: 0/4 img (0%)",
        "runs: 2/3 run (67%), 00:32 left | task 1: 0/4 img (0%)",
    ]
    assert len(said) == 3  # a line within every minute: none was due between


def test_a_bar_that_failed_is_not_in_the_lines_of_the_next():
    with redirect_stderr(StringIO()) as file:
        with pytest.raises(ValueError), progress.bar(desc="failed", leave=False):
            raise ValueError
        with progress.bar(desc="next") as bar:
            bar.set_description("next")
    assert "failed" not in file.getvalue()


def test_a_worker_has_lines_even_in_a_terminal_a_line_for_each_run(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with redirect_stderr(Terminal()) as shown:
        begin(1)
        for _ in range(2):
            with progress.bar(desc="lora", leave=False) as bar:
                bar.set_description("task 1")
                bar.set_description("task 2")
    assert lines_of(shown) == ["task 1: 0 it"] * 2
    progress.quieten()
    begin(1)
    assert progress.kind() == "none"


@pytest.mark.train
def test_a_sweep_says_a_line_for_each_run_that_is_computed(tmp_path):
    asked = grid("smoke", method="prototypes", seed=range(3))
    with redirect_stderr(StringIO()) as file:
        sweep(asked, tmp_path)
    first = lines_of(file)
    assert len(first) == 4 and first[-1] == "runs: 3/3 run (100%)"
    assert all(f"runs: {k}/3" in first[k] and "task 1/5" in first[k] for k in range(3))
    with redirect_stderr(StringIO()) as file:
        sweep(asked, tmp_path)
    assert lines_of(file) == ["runs: 3/3 run (100%)"]


def test_how_runs_stand_elsewhere_is_a_line_a_minute_where_it_has_changed(clock):
    queued, failed = State("queued"), State("failed", "KeyError")
    with redirect_stderr(StringIO()) as file:
        watch = Watch()
        for states in ([queued], [queued, failed], [queued, failed], [failed]):
            clock.now += 40
            watch.stand("ab", dict(zip("ab", states, strict=False)))
    assert lines_of(file) == ["2 runs: 1 queued, 1 failed", "1 run: 1 failed"]


def test_a_folder_of_many_runs_says_how_far_it_is_read(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "MANY", 2)
    for k in range(4):
        (tmp_path / f"{k:016x}").mkdir()
        (tmp_path / f"{k:016x}" / "result.json").touch()

    def read(name):
        clock.now += 40
        return {}

    with redirect_stderr(StringIO()) as file:
        assert len(index.briefs(tmp_path, read)) == 4
        assert len(index.briefs(tmp_path, read)) == 4  # at once
    assert lines_of(file) == ["runs read: 2/4 run (50%), 01:20 left", "runs read: 4/4 run (100%)"]


def test_why_runs_wait_is_said_once_for_all_that_wait_so(clock):
    waits = [State("queued", why) for why in ("Priority", "Priority", "PartitionTimeLimit")]
    with redirect_stderr(StringIO()) as file:
        watch = Watch()
        for states in (waits, [*waits[:2], State("running", "lora · task 1/2")]):
            clock.now += 61
            watch.stand("abc", dict(zip("abc", states, strict=True)))
    assert lines_of(file) == [
        "3 runs: 3 queued; waiting: Priority, PartitionTimeLimit",
        "3 runs: 2 queued, 1 running; waiting: Priority",
    ]


def test_what_a_notebook_shows_otherwise_is_counted_and_told():
    kernels = type("OutStream", (Terminal,), {"__module__": "ipykernel.iostream"})
    told = []
    with redirect_stderr(kernels()) as shown, progress.heard_by(told.append):
        for _ in progress.bar(range(2), desc="runs", unit="run"):
            with progress.bar(desc="lora", total=4, unit="img") as bar:
                bar.set_description("lora · task 1/2")
                bar.update()
                progress.say("by the way")
                standing = progress.standing()
    assert standing.startswith("runs: 1/2 run (50%), ") and "lora · task 1/2: 1/4 img" in standing
    assert told == ["by the way"] * 2 and not shown.getvalue() and not progress.standing()


def test_a_librarys_own_bars_are_for_whoever_watches():
    calls = []
    library = SimpleNamespace(
        are_progress_bars_disabled=lambda: False,
        disable_progress_bars=lambda: calls.append("off"),
        enable_progress_bars=lambda: calls.append("on"),
    )
    with redirect_stderr(Terminal()) as shown, progress.of(library, "images"):
        pass
    assert not calls and not shown.getvalue()
    with (
        redirect_stderr(StringIO()) as file,
        pytest.raises(ValueError),
        progress.of(library, "images"),
    ):
        assert calls == ["off"]
        raise ValueError
    assert calls == ["off", "on"] and lines_of(file) == ["reading images"]


# --- the command line --------------------------------------------------------------------------


@pytest.mark.process
def test_a_log_has_a_line_a_task_and_stdout_the_result_alone(tmp_path):
    with Path(tmp_path, "log").open("w") as log:
        done = lab(*run_words(0), "--json", stderr=log)
        out, _ = done.communicate()
    said = Path(tmp_path, "log").read_text()
    assert done.returncode == 0 and "\r" not in said
    assert len(said.splitlines()) == TASKS
    assert all(f"task {k + 1}/{TASKS}" in line for k, line in enumerate(said.splitlines()))
    assert json.loads(out)["acc"] >= 0


@pytest.mark.process
def test_in_a_terminal_there_is_a_bar_and_stdout_has_the_result_alone():
    ours, theirs = pty.openpty()  # which says no size of its own, as containers' do
    done = lab(*run_words(1), "--json", stderr=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            said += (read := os.read(ours, 1 << 16))
        except OSError:  # its other end is closed
            break
        if not read:
            break
    out, _ = done.communicate()
    os.close(ours)
    assert done.returncode == 0 and json.loads(out)["acc"] >= 0
    assert "task 5/5:" in said.decode() and said.count(b"\r") > TASKS


@pytest.mark.process
def test_a_quiet_command_says_nothing_but_its_result():
    done = lab(*run_words(2), "--quiet", stderr=subprocess.PIPE)
    out, err = done.communicate()
    assert done.returncode == 0 and err == ""
    assert out.startswith("lora: Acc ") and len(out.splitlines()) == 2


@pytest.mark.parametrize("command", ["run", "tune", "compare", "render", "bench", "examples"])
def test_commands_take_it_after_their_name(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0 and "--quiet" in out


def test_every_command_takes_it_before_and_errors_are_said_all_the_same(call, tmp_path):
    assert call("data", "get", "--help")[1].count("--quiet") == 1
    assert call("--quiet", "methods", "--json")[2] == ""
    code, out, err = call("--quiet", "run", "--method", "none of them")
    assert code == 2 and out == "" and err.count("\n") == 1 and "method" in err


@pytest.mark.train
def test_tuning_says_its_trials_on_stdout_and_how_far_it_is_on_stderr(call, tmp_path):
    words = ("tune", tmp_path / "log.json", "--method", "linear-probe", "--profile", "smoke")
    code, out, err = call(*words, "--trials", 2)
    assert code == 0 and len(out.splitlines()) == 2 and "validation Acc" in out
    begun = [line for line in err.splitlines() if "task 1/" in line]
    assert len(err.splitlines()) == len(begun) == 2
    assert begun[1].startswith("tuning linear-probe: 1/2 trial")


# --- notebooks ---------------------------------------------------------------------------------

CODE = """
from fmlora_lab import grid, progress, sweep
sweep(grid("smoke", method="prototypes", seed=range(2)))
for _ in progress.bar(range(3), desc="goes", leave=False): pass
progress.kind()
"""


@pytest.mark.process
def test_a_notebook_has_controls_that_leave_text():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    NotebookClient(notebook).execute()
    runs, goes, kind = (out["data"] for out in notebook.cells[0].outputs)  # and no lines besides
    assert runs["text/plain"] == "2 runs: 2 done" and "<table>" not in runs["text/html"]
    assert goes == {"text/plain": ""}
    assert kind["text/plain"] == "'notebook'"
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    shown = [state["state"].get("value") for state in states.values()]
    assert any("running" in str(value) and "task" in str(value) for value in shown)


@pytest.mark.process
def test_a_notebook_that_is_rendered_says_it_where_the_rendering_does(monkeypatch):
    for told, kind in (("none", "none"), ("lines", "lines"), ("notebook", "terminal")):
        monkeypatch.setenv(progress.TOLD, told)
        assert OwnPython().kernel_spec.env[progress.TOLD] == kind


def test_no_other_module_draws_bars():
    package = Path(progress.__file__).parent
    drawing = [p.name for p in package.rglob("*.py") if "tqdm" in p.read_text("utf-8")]
    assert drawing == ["progress.py"]


@pytest.mark.unit
def test_who_shows_it_otherwise_is_called_wherever_a_bar_would_move():
    moved, others = [], []
    with progress.instead(lambda: moved.append(1)):
        with progress.bar(desc="runs", total=3, leave=False) as bar:
            bar.set_description("task 1")
            bar.update(2)
        thread = Thread(target=lambda: others.append(progress.bar(total=1)))
        thread.start()
        thread.join()
    others.append(progress.bar(total=1))
    others[-1].update()
    assert moved == [1] and [type(other) for other in others] == [Lines, Lines]


@pytest.mark.unit
def test_who_shows_it_otherwise_may_end_it():
    def enough():
        raise KeyError

    with pytest.raises(KeyError), progress.instead(enough):
        progress.bar(total=3).update()
    assert type(progress.bar(total=3)) is Lines
