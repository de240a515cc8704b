"""A person's kernel: a cell that was interrupted is run again."""

import io

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from fmlora_lab import configure
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
        os.kill(os.getpid(), signal.SIGINT)  # as the button does

module.FolderKeeper = Interrupted
"""
LATER = "module.FolderKeeper = FolderKeeper"


@pytest.mark.parametrize("ask", ["run(config, {runs!r})", "sweep([config], {runs!r}).run[0]"])
def test_an_interrupted_cell_goes_on_when_it_is_run_again(ask, tmp_path):
    config = configure("lora", profile="smoke", overrides={"benchmark.train_images": 2})
    ask = f"print({ask.format(runs=str(tmp_path / 'runs'))}.result['task_files'])"
    codes = [BEGIN.format(config=config.model_dump_json()), ask, ask, LATER, ask]
    notebook = new_notebook(cells=[new_code_cell(code) for code in codes])
    NotebookClient(notebook, kernel_manager_class=OwnPython, allow_errors=True).execute()
    ended = [
        [out.ename for out in cell.outputs if out.output_type == "error"] for cell in notebook.cells
    ]
    assert ended == [[], ["KeyboardInterrupt"], ["KeyboardInterrupt"], [], []]
    said = [out.text for out in notebook.cells[-1].outputs if out.get("name") == "stdout"]
    assert said == ["5\n"]


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
