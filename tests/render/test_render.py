"""Rendering: what is unknown is refused beforehand, what fails leaves its traceback."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from threading import Barrier, Thread, current_thread

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from fmlora_lab.config import BadInput
from fmlora_lab.render.notebooks import OwnPython, closing_lines, prepare, select, short_name
from fmlora_lab.render.render import render

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


@pytest.mark.unit
def test_an_unknown_notebook_is_refused_with_the_known_ones(notebooks, tmp_path):
    with pytest.raises(BadInput, match=r"'nonsense'; known: 00_good, 10_bad, 15_dead, 20_good_too"):
        render(["good", "nonsense"], {}, figures_dir=tmp_path / "out", notebooks_dir=notebooks)
    assert not (tmp_path / "out").exists()


@pytest.mark.unit
@pytest.mark.parametrize("content", [b"", b"x", b"\xff\xfe{", b"[]", b"{}", b'{"nbformat": 4}'])
def test_a_file_that_is_no_notebook_is_named(content, notebooks, tmp_path):
    (notebooks / "30_none.ipynb").write_bytes(content)
    with pytest.raises(BadInput, match=r"30_none\.ipynb is no notebook that can be read \(.+\)"):
        render(["good", "none"], {}, figures_dir=tmp_path / "out", notebooks_dir=notebooks)
    assert not (tmp_path / "out").exists()


@pytest.mark.unit
def test_an_unknown_parameter_is_refused_with_the_known_ones(notebooks, tmp_path):
    with pytest.raises(BadInput, match=r"no parameter 'wrod'; known: word, runs_dir, figures_dir"):
        render(["good"], {"wrod": 1}, figures_dir=tmp_path / "out", notebooks_dir=notebooks)
    assert not (tmp_path / "out").exists()


@pytest.mark.unit
def test_of_several_notebooks_each_takes_the_parameters_it_has(notebooks, tmp_path):
    other = nbformat.read(notebooks / "00_good.ipynb", 4)
    other.cells[0].source = "static = False\nfigures_dir = '.'"
    nbformat.write(other, notebooks / "40_page.ipynb")
    good, page = prepare(["good", "page"], {"word": "given"}, tmp_path / "copies", notebooks)
    assert 'word = "given"' in good.read_text().replace("\\", "")
    assert "static" not in good.read_text()
    assert "static = True" in page.read_text() and "given" not in page.read_text()
    with pytest.raises(BadInput, match=r"00_good.ipynb, 40_page.ipynb has no parameter 'wrod'"):
        prepare(["good", "page"], {"wrod": 1}, tmp_path / "none", notebooks)
    assert not (tmp_path / "none").exists()


@pytest.mark.unit
@pytest.mark.parametrize("name", ["good", "00_good", "00_good.ipynb", "notebooks/00_good.ipynb"])
def test_a_notebook_goes_by_any_of_its_names(notebooks, tmp_path, name):
    assert [p.name for p in prepare([name], {}, tmp_path, notebooks)] == ["00_good.ipynb"]


@pytest.mark.unit
def test_a_file_of_ones_own_is_that_file_and_no_other_of_its_name(notebooks, tmp_path):
    own = tmp_path / "mine" / "00_good.ipynb"
    own.parent.mkdir()
    own.write_bytes((notebooks / "00_good.ipynb").read_bytes())
    assert select([str(own)], notebooks) == [own]
    with pytest.raises(BadInput, match=r"there is no notebook '.*none\.ipynb'; known: 00_good"):
        select([str(own.with_name("none.ipynb"))], notebooks)
    with pytest.raises(BadInput, match=r"there is no notebook 'other/00_good\.ipynb'"):
        select(["other/00_good.ipynb"], notebooks)
    with pytest.raises(BadInput, match=r"notebooks/00_good\.ipynb and .*mine/00_good\.ipynb would"):
        select(["good", str(own)], notebooks)


@pytest.mark.unit
def test_two_notebooks_of_one_name_are_told_apart(notebooks, tmp_path):
    (notebooks / "30_good.ipynb").write_bytes((notebooks / "00_good.ipynb").read_bytes())
    with pytest.raises(BadInput, match="'good' is 00_good and 30_good; give its number"):
        select(["good"], notebooks)
    assert [path.stem for path in select(["30_good"], notebooks)] == ["30_good"]
    with pytest.raises(BadInput, match="would go to one folder, good; render one, or give it"):
        render(["all"], {}, figures_dir=tmp_path / "out", notebooks_dir=notebooks)
    assert not (tmp_path / "out").exists()


@pytest.mark.unit
def test_all_leaves_out_lessons_which_take_no_parameters(notebooks, tmp_path):
    lesson = new_notebook(cells=[new_code_cell("1 + 1")])
    nbformat.write(lesson, notebooks / "11_lesson.ipynb")
    named = ["00_good", "10_bad", "15_dead", "20_good_too"]
    assert [path.stem for path in select(["all"], notebooks)] == named
    assert [path.stem for path in select(["lesson"], notebooks)] == ["11_lesson"]


@pytest.mark.unit
def test_short_names():
    assert short_name("notebooks/00_quickstart.ipynb") == "quickstart"
    assert short_name("plain_name.ipynb") == "plain_name"


@pytest.mark.process
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
        (out / name / f"{name}.csv").write_text("method,acc\nstale,1\n")
        assert "stale" not in closing_lines(out / name)
    assert closing_lines(out / "good").splitlines() == [
        str(out / "good" / name) for name in ("00_good.ipynb", "facts.json")
    ]


@pytest.mark.unit
def test_a_prepared_copy_has_its_parameters_and_no_outputs(notebooks, tmp_path):
    (copy,) = prepare(["good"], {"word": "smoke"}, tmp_path / "copies", notebooks)
    notebook = nbformat.read(copy, 4)
    injected = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert len(injected) == 1 and 'word = "smoke"' in injected[0].source
    assert str(tmp_path) not in copy.read_text() and "'default'" not in str(notebook.metadata)
    assert not any(cell.get("outputs") for cell in notebook.cells)


STUDY = """
import pathlib

from fmlora_lab import grid, sweep

found = sweep(grid(profile, method=methods, tasks=[2, 5], seed=seeds), runs_dir)
folder = pathlib.Path(figures_dir)
folder.mkdir(parents=True, exist_ok=True)
found.assign(run=found.run.map(str)).to_csv(folder / "runs.csv")
"""
ASKED = {"profile": "smoke", "methods": ["linear-probe", "prototypes"]}


@pytest.fixture
def study(tmp_path):
    """A folder with one notebook of a study, and where its runs and figures go."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    parameters = new_code_cell(
        'profile = "demo"\nmethods = "lora"\nseeds = 0\nruns_dir = None\nfigures_dir = "."'
    )
    parameters.metadata["tags"] = ["parameters"]
    notebook = new_notebook(cells=[parameters, new_code_cell(STUDY)])
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["kernelspec"] = kernel
    nbformat.write(notebook, folder / "22_stream_length.ipynb")
    return folder, tmp_path / "runs", tmp_path / "figures"


@pytest.mark.train
@pytest.mark.process
def test_what_will_be_computed_is_said_before_and_what_was_rendered_can_be_left(study, capfd):
    folder, runs_dir, figures = study
    assert render(["stream_length"], ASKED, runs_dir, figures, folder) == 0
    assert re.search(r"stream_length +0 +4 +about \d+ s", capfd.readouterr().err)
    copy = figures / "stream_length" / "22_stream_length.ipynb"
    first = (copy.read_bytes(), (figures / "stream_length" / "runs.csv").read_bytes())

    assert render(["all"], ASKED, runs_dir, figures, folder, missing_only=True) == 0
    assert "was rendered before; left as it is" in capfd.readouterr().err
    assert copy.read_bytes() == first[0]

    assert render(["all"], ASKED, runs_dir, figures, folder) == 0
    assert re.search(r"stream_length +4 +0", capfd.readouterr().err)
    assert (figures / "stream_length" / "runs.csv").read_bytes() == first[1]


@pytest.mark.process
def test_a_value_that_a_study_does_not_take_is_refused_before_anything_is_executed(study):
    folder, runs_dir, figures = study
    with pytest.raises(BadInput, match=r"method\.name is 'ewc'; allowed: block-lora"):
        render(["all"], {"methods": ["ewc"]}, runs_dir, figures, folder)
    assert not figures.exists() and not runs_dir.exists()


@pytest.mark.train
@pytest.mark.process
def test_a_killed_rendering_is_finished_by_a_second_call(study):
    folder, runs_dir, figures = study
    words = [
        "render",
        "all",
        "-p",
        "profile",
        "smoke",
        "-p",
        "methods",
        json.dumps(ASKED["methods"]),
    ]
    places = ["--runs-dir", runs_dir, "--figures-dir", figures, "--notebooks-dir", folder]
    command = [sys.executable, "-m", "fmlora_lab", *words, *map(str, places)]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True)
    for _ in started.stderr:  # until the first run is there
        if list(runs_dir.glob("*/result.json")):
            break
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    done = {path.parent.name: path.stat().st_mtime_ns for path in runs_dir.glob("*/result.json")}
    assert 1 <= len(done) < 4 and not (figures / "stream_length").exists()

    subprocess.run([*command, "--missing-only"], check=True, capture_output=True)
    assert (figures / "stream_length" / "runs.csv").exists()
    finished = {
        path.parent.name: path.stat().st_mtime_ns for path in runs_dir.glob("*/result.json")
    }
    assert len(finished) == 4 and done.items() <= finished.items()  # what was done was kept


@pytest.mark.process
@pytest.mark.parametrize("name", ["my-env", "ir", None])
def test_a_notebook_is_executed_by_this_python_whatever_its_kernel_is_called(
    notebooks, tmp_path, name
):
    path = notebooks / "00_good.ipynb"
    notebook = nbformat.read(path, 4)
    spec = {"name": name, "display_name": f"{name} of someone", "language": "R"}
    notebook.metadata = {"kernelspec": spec} if name else {}
    nbformat.write(notebook, path)
    assert render(["good"], {}, None, tmp_path / "out", notebooks) == 0
    facts = json.loads((tmp_path / "out" / "good" / "facts.json").read_text())
    assert facts["python"] == sys.executable


@pytest.mark.process
def test_two_kernels_have_a_thread_each(notebooks, tmp_path):
    nbformat.write(
        new_notebook(cells=[new_code_cell("import os; print(os.environ['OMP_NUM_THREADS'])")]),
        notebooks / "11_threads.ipynb",
    )
    assert render(["threads", "good"], {}, figures_dir=tmp_path, notebooks_dir=notebooks) == 0
    executed = nbformat.read(tmp_path / "threads" / "11_threads.ipynb", 4)
    assert executed.cells[-1].outputs[0].text == "1\n"


SLEEP = """
import pathlib, time
folder = pathlib.Path(figures_dir)
folder.mkdir(parents=True, exist_ok=True)
(folder / "begun").touch()
time.sleep(60)
(folder / "ended").touch()
"""


@pytest.fixture
def asleep(notebooks):
    """Three notebooks that take their time."""
    (parameters,) = nbformat.read(notebooks / "00_good.ipynb", 4).cells[:1]
    for name in ("30_one", "31_two", "32_three"):
        own = new_notebook(cells=[parameters, new_code_cell(SLEEP)])
        nbformat.write(own, notebooks / f"{name}.ipynb")
    return notebooks


def test_an_interrupt_ends_the_notebooks_at_work_and_writes_none(asleep, tmp_path):
    def interrupt():
        until = time.monotonic() + 60
        while len([*tmp_path.glob("out/*/begun")]) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        render(["one", "two", "three"], {}, figures_dir=tmp_path / "out", notebooks_dir=asleep)
    assert not [*tmp_path.glob("out/*/*.ipynb"), *tmp_path.glob("out/*/ended")]
    assert len([*tmp_path.glob("out/*/begun")]) == 2


def test_an_interrupt_ends_a_notebook_whose_kernel_is_just_starting(asleep, tmp_path, monkeypatch):
    began, start_kernel = [], OwnPython.start_kernel

    def start(self, **how):
        began.append(self)
        if len(began) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return start_kernel(self, **how)

    monkeypatch.setattr(OwnPython, "start_kernel", start)
    with pytest.raises(KeyboardInterrupt):
        render(["one", "two", "three"], {}, figures_dir=tmp_path / "out", notebooks_dir=asleep)
    assert not [*tmp_path.glob("out/*/*.ipynb"), *tmp_path.glob("out/*/ended")]


def executing(monkeypatch, wait) -> None:
    """Instead of executing a notebook, `wait()`."""

    def execute(path, filled, **_):
        wait()
        return new_notebook(metadata={"papermill": {"parameters": filled}}), None

    monkeypatch.setattr("fmlora_lab.render.render.execute", execute)


@pytest.mark.unit
def test_what_was_rendered_is_left_unless_parameters_differ(notebooks, tmp_path, monkeypatch):
    executed = []
    executing(monkeypatch, lambda: executed.append(1))
    given = {"figures_dir": tmp_path / "out", "notebooks_dir": notebooks, "missing_only": True}
    render(["good", "good_too"], {}, **given)
    render(["good", "good_too"], {}, **given)
    assert len(executed) == 2
    render(["good"], {"word": "another"}, **given)
    assert len(executed) == 3
    render(["good"], {}, **given | {"missing_only": False})
    assert len(executed) == 4


@pytest.mark.unit
def test_without_trainings_two_are_executed_at_a_time(notebooks, tmp_path, monkeypatch):
    both = Barrier(2, timeout=60)
    executing(monkeypatch, both.wait)
    given = {"figures_dir": tmp_path / "out", "notebooks_dir": notebooks}
    assert render(["good", "good_too"], {}, **given) == 0
    assert len(list((tmp_path / "out").glob("*/*.ipynb"))) == 2


@pytest.mark.unit
def test_trainings_do_not_get_in_each_others_way(notebooks, tmp_path, monkeypatch):
    monkeypatch.setattr("fmlora_lab.render.render.plan", lambda planned: ("", 1))
    places = []
    executing(monkeypatch, lambda: places.append(current_thread()))
    render(["all"], {}, figures_dir=tmp_path / "out", notebooks_dir=notebooks)
    assert places == [current_thread()] * 4
