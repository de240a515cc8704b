"""A person's kernel: a cell that was interrupted says where, and is run again; a wrong word gets
one sentence."""

import io
import re

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from fmlora_lab import configure
from fmlora_lab.perf.kernel import kernel
from fmlora_lab.render.notebooks import OwnPython, execute

pytestmark = pytest.mark.process

BEGIN = """
import os, signal
from fmlora_lab import RunConfig, run, sweep
from fmlora_lab.runs import run as module
from fmlora_lab.runs.folder import FolderKeeper

config = RunConfig.model_validate_json({config!r})

class Interrupted(FolderKeeper):
    def log(self, line):
        super().log(line)
        if line["task"] == 2:
            os.kill(os.getpid(), signal.SIGINT)  # as the button does

module.FolderKeeper = Interrupted
"""
LATER = "module.FolderKeeper = FolderKeeper"


def executed(*codes: str, **how) -> list:
    """The cells of a notebook of this code, in a kernel as a person has it."""
    notebook = new_notebook(cells=[new_code_cell(code) for code in codes])
    NotebookClient(notebook, kernel_manager_class=OwnPython, allow_errors=True, **how).execute()
    return notebook.cells


def errors(cells: list) -> list[list[str]]:
    """The lines that are shown of each cell's error; none for a cell without."""
    return [
        [line for out in cell.outputs if out.output_type == "error" for line in out.traceback]
        for cell in cells
    ]


def printed(cell) -> list[str]:
    return [out.text for out in cell.outputs if out.get("name") == "stdout"]


@pytest.mark.parametrize(
    ("ask", "where"),
    [
        ("run(config, {runs!r})", "after task 2 of 5"),
        ("sweep([config], {runs!r}).run[0]", "in run 1 of 1, after task 2 of 5"),
    ],
)
def test_an_interrupted_cell_goes_on_when_it_is_run_again(ask, where, tmp_path):
    config = configure("lora", profile="smoke", overrides={"benchmark.train_images": 2})
    ask = f"print({ask.format(runs=str(tmp_path / 'runs'))}.result['task_files'])"
    cells = executed(BEGIN.format(config=config.model_dump_json()), ask, ask, LATER, ask)
    said = [f"stopped {where}; run again to go on"]
    assert errors(cells) == [[], said, said, [], []]
    assert printed(cells[-1]) == ["5\n"]


def test_no_cell_after_an_interrupted_one_is_run(tmp_path):
    config = configure("lora", profile="smoke", overrides={"benchmark.train_images": 2})
    begin = BEGIN.format(config=config.model_dump_json())
    codes = [begin, f"run(config, {str(tmp_path / 'runs')!r})", "print('as if nothing were')"]
    notebook = new_notebook(cells=[new_code_cell(code) for code in codes])
    with pytest.raises(CellExecutionError, match="stopped after task 2 of 5"):
        NotebookClient(notebook, kernel_manager_class=OwnPython).execute()
    assert notebook.cells[-1].execution_count is None


WORKERS = """
import os, signal, threading, time
from pathlib import Path
from fmlora_lab import grid, sweep

root = Path({runs!r})
asked = grid("smoke", method="lora", seed=range(3), overrides={{"benchmark.train_images": 2}})

def when_one_is_being_trained():
    while not list(root.glob("*/progress.jsonl")):
        time.sleep(0.05)  # leaves the processor to the workers
    os.killpg(os.getpgrp(), signal.SIGINT)  # as the button does
"""
WATCHED = "threading.Thread(target=when_one_is_being_trained, daemon=True).start()"
ASKED = "print([r.result['task_files'] for r in sweep(asked, root, workers=2).run])"


def test_workers_are_stopped_with_the_cell_and_go_on_with_it(tmp_path):
    begin = WORKERS.format(runs=str(tmp_path / "runs"))
    cells = executed(begin, f"{WATCHED}\n{ASKED}", ASKED)
    assert errors(cells) == [[], ["stopped after 0 of 3 runs; run again to go on"], []]
    assert printed(cells[-1]) == ["[5, 5, 5]\n"]
    assert [out for out in cells[1].outputs if "Traceback" in out.get("text", "")] == []


BUTTONS = """
from fmlora_lab import grid, sweep

how = {{"training.epochs": 2, "benchmark.train_images": 2, "benchmark.test_images": 2}}
asked = grid("smoke", method="lora", seed=range(2), overrides=how)
ask = lambda: sweep(asked, {runs!r})
"""
LATER_RUNS = "print([r.config['seed'] for r in ask().run])"


def clicking(person, words, subshell=None, when="<td>running</td><td>"):
    """Watches the panel, and presses a button, once, when that stands there."""
    clicked = []

    def watch():
        if not clicked and when in person.page() and (button := person.button(words)):
            clicked.append(person.click(button, subshell))

    return watch


@pytest.mark.parametrize("beside", [False, True])
def test_stop_ends_a_sweep_at_work_whatever_shell_a_front_end_speaks_to(beside, tmp_path):
    with kernel() as person:
        person.run(BUTTONS.format(runs=str(tmp_path / "runs")))
        subshell = person.subshell() if beside else None
        stopped = person.run("ask()", clicking(person, "Stop", subshell))
        again = person.run(LATER_RUNS)
    (said,) = stopped.error
    assert re.fullmatch("stopped in run 1 of 2, .*; run again to go on", said)
    assert stopped.said == "" and again.said == ""  # no line on stderr
    assert again.printed == "[0, 1]\n" and not again.error


@pytest.mark.parametrize("workers", [None, 2])
def test_skip_leaves_one_run_and_goes_on_with_the_others(workers, tmp_path):
    with kernel() as person:
        person.run(BUTTONS.format(runs=str(tmp_path / "runs")))
        ask = f"print([r.config['seed'] for r in sweep(asked, {str(tmp_path / 'runs')!r}, "
        click, shown = clicking(person, "Skip seed 0"), []

        def watch():
            click()
            shown.append(person.page())

        skipped = person.run(f"{ask}workers={workers}).run])", watch)
        again = person.run(LATER_RUNS)
    assert skipped.printed == "[1]\n" and not skipped.error
    assert any("<td>0</td><td>skipped</td>" in page for page in shown)
    assert skipped.left == "2 runs: 1 skipped, 1 done\nseed 0: skipped\n" + SKIPPED
    assert again.printed == "[0, 1]\n"


SKIPPED = "skipped: seed 0; asked for again, it goes on where it stopped"


def test_no_cell_after_a_sweep_that_was_stopped_by_its_button_is_run(tmp_path):
    """Cells that a person has asked for meanwhile wait in the same shell as a click does."""
    with kernel() as person:
        person.run(BUTTONS.format(runs=str(tmp_path / "runs")))
        watch, asked = clicking(person, "Stop"), []

        def ask_for_more():
            asked.extend([] if asked else [person.client.execute("print('as if nothing were')")])
            watch()

        assert person.run("ask()", ask_for_more).error
        replies = iter(lambda: person.client.get_shell_msg(timeout=60), None)
        status = next(
            r["content"]["status"] for r in replies if r["parent_header"]["msg_id"] in asked
        )
    assert status == "aborted"


LESSON = """
import os, signal
from fmlora_lab.lessons import retrain, small, watched

log = watched.Trained.log

def interrupted(trained, line):
    log(trained, line)
    if line["task"] == 1:
        os.kill(os.getpid(), signal.SIGINT)
        trained.cancelled.wait(60)

def make(rank):
    return small("lora", {"method.rank": rank, "training.epochs": 1})

watched.Trained.log = interrupted
"""
RETRAIN = "retrain(make, [1, 8], 8, 'rank')"


def test_a_lesson_that_was_interrupted_trains_anew():
    cells = executed(LESSON, RETRAIN, "watched.Trained.log = log", RETRAIN)
    said = ["stopped after task 1 of 3; run the cell again to train anew"]
    assert errors(cells) == [[], said, [], []]
    assert any("image/png" in out.get("data", {}) for out in cells[-1].outputs)


EXPLORER = """
import os, signal
from fmlora_lab.explorers import offer
from fmlora_lab.explorers.rank_choice import rank_choice

prepared = offer.prepared

def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    return prepared()

offer.prepared = interrupted
"""


def test_an_explorer_that_was_interrupted_opens(tmp_path):
    ask = f"rank_choice({str(tmp_path)!r})"
    cells = executed(EXPLORER, ask, "offer.prepared = prepared", ask)
    said = ["stopped before the explorer was open; run again to go on"]
    assert errors(cells) == [[], said, [], []]
    assert cells[-1].outputs


def test_what_cannot_be_used_is_one_line_without_a_traceback():
    ask = 'from fmlora_lab import grid\ngrid(method=["lora", "full"], **{"method.rank": [4]})'
    assert errors(executed(ask)) == [["method.rank is no setting of full; its settings: lr, keep"]]


def test_what_a_notebooks_processes_say_comes_once(tmp_path, capfd, monkeypatch):
    child = "import sys; print('of a child', file=sys.stderr)"
    cell = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbformat.write(notebook, tmp_path / "child.ipynb")
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # in tests a kernel does not listen to its children
    said = io.StringIO()
    _, error = execute(tmp_path / "child.ipynb", {}, kernel_manager_class=OwnPython,
                       stderr_file=said)  # fmt: skip
    assert error is None and said.getvalue() + capfd.readouterr().err == "of a child\n"
