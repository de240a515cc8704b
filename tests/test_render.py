"""Rendering: what is unknown is refused beforehand, what fails leaves its traceback."""

import json
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from fmlora_lab.config import BadInput
from fmlora_lab.render import closing_lines, prepare, render, short_name

PARAMETERS = "word = 'default'\nruns_dir = None\nfigures_dir = '.'"
PUBLISH = """
import json, os, pathlib, sys
print("a progress bar", file=sys.stderr)
print("a result")
folder = pathlib.Path(figures_dir)
folder.mkdir(parents=True, exist_ok=True)
facts = {"word": word, "runs_dir": runs_dir, "python": sys.executable}
_ = (folder / "facts.json").write_text(json.dumps(facts))
"""
DIE = "import os; os._exit(1)"


@pytest.fixture
def notebooks(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    codes = {"00_good": PUBLISH, "10_bad": "1 / 0", "15_dead": DIE, "20_good_too": PUBLISH}
    for name, code in codes.items():
        parameters = new_code_cell(PARAMETERS)
        parameters.metadata["tags"] = ["parameters"]
        notebook = new_notebook(cells=[parameters, new_code_cell(code)])
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


def test_an_unknown_notebook_is_refused_with_the_known_ones(notebooks, tmp_path):
    with pytest.raises(BadInput, match=r"'nonsense'; known: 00_good, 10_bad, 15_dead, 20_good_too"):
        render(["good", "nonsense"], {}, figures_dir=tmp_path / "out", notebooks_dir=notebooks)
    assert not (tmp_path / "out").exists()


def test_an_unknown_parameter_is_refused_with_the_known_ones(notebooks, tmp_path):
    with pytest.raises(BadInput, match=r"no parameter 'wrod'; known: word, runs_dir, figures_dir"):
        render(["good"], {"wrod": 1}, figures_dir=tmp_path / "out", notebooks_dir=notebooks)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["good", "00_good", "00_good.ipynb", "notebooks/00_good.ipynb"])
def test_a_notebook_goes_by_any_of_its_names(notebooks, tmp_path, name):
    assert [p.name for p in prepare([name], {}, tmp_path, notebooks)] == ["00_good.ipynb"]


def test_short_names():
    assert short_name("notebooks/00_quickstart.ipynb") == "quickstart"
    assert short_name("plain_name.ipynb") == "plain_name"


def test_all_are_rendered_though_one_fails(notebooks, tmp_path, capfd, monkeypatch):
    shadow = tmp_path / "jupyter" / "kernels" / "python3"  # a kernel of that name is not taken
    shadow.mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "wrong", "language": "python"}
    (shadow / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    out = tmp_path / "out {braces}"

    given = {"word": "given", "runs_dir": tmp_path / "r", "figures_dir": out}
    failures = render(
        ["all"], {"word": given["word"]}, given["runs_dir"], out, notebooks_dir=notebooks
    )

    assert failures == 2
    for name in ("good", "good_too"):
        facts = json.loads((out / name / "facts.json").read_text())
        assert facts == {
            "word": "given",
            "runs_dir": str(tmp_path / "r"),
            "python": sys.executable,
        }
    told = capfd.readouterr().err
    assert "a progress bar" in told
    assert "10_bad.ipynb failed: ZeroDivisionError: division by zero" in told
    assert "15_dead.ipynb failed: its Python process died" in told

    executed = nbformat.read(out / "good" / "00_good.ipynb", 4)
    outputs = [o for cell in executed.cells for o in cell.get("outputs", [])]
    assert [(o.name, o.text) for o in outputs] == [("stdout", "a result\n")]
    failed = (out / "bad" / "10_bad.ipynb").read_text()
    assert "ZeroDivisionError" in failed and '"traceback"' in failed

    for name in ("bad", "dead"):  # no table of an earlier time
        (out / name / "table.csv").write_text("method,acc\nstale,1\n")
        assert "stale" not in closing_lines(out / name)
    assert closing_lines(out / "good").splitlines() == [
        str(out / "good" / name) for name in ("00_good.ipynb", "facts.json")
    ]


def test_a_prepared_copy_has_its_parameters_and_no_outputs(notebooks, tmp_path):
    (copy,) = prepare(["good"], {"word": "smoke"}, tmp_path / "copies", notebooks)
    notebook = nbformat.read(copy, 4)
    injected = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert len(injected) == 1 and 'word = "smoke"' in injected[0].source
    assert str(tmp_path) not in copy.read_text() and "'default'" not in str(notebook.metadata)
    assert not any(cell.get("outputs") for cell in notebook.cells)
