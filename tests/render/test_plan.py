"""A notebook's plan is what its sweep asks for, learned without computing or writing anything."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fmlora_lab import grid, identity, sweep
from fmlora_lab.config import BadInput
from fmlora_lab.render import plan as planning
from fmlora_lab.render.plan import grid_of, needed, plan
from fmlora_lab.runs.estimate import speeds

LAB = Path(__file__).parents[2] / "notebooks"
STUDIES = [path for path in sorted(LAB.glob("*.ipynb")) if planning._speaks_of_sweeps(path)]

PARAMETERS = "tasks = [5]\nruns_dir = None\nfigures_dir = '.'"
IMPORTS = "from fmlora_lab import grid, run, sweep"
GRID = "runs = grid('smoke', method='prototypes', tasks=tasks)"
SWEEP = "found = sweep(runs, runs_dir)"


@pytest.fixture
def write(tmp_path):
    """`write(name, *cells)`: a notebook of one's own with parameters before these cells."""

    def make(name, *cells, parameters=PARAMETERS):
        first = new_code_cell(parameters)
        first.metadata["tags"] = ["parameters"]
        page = new_notebook(cells=[new_markdown_cell("# sweep"), first, *map(new_code_cell, cells)])
        path = tmp_path / "own" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(page, path)
        return path

    return make


def names(tasks, **axes):
    return [identity(one.config) for one in grid("smoke", method="prototypes", tasks=tasks, **axes)]


@pytest.mark.unit
def test_a_notebook_of_ones_own_has_a_plan(write, tmp_path):
    path = write("23_mine", IMPORTS, GRID, SWEEP, "raise RuntimeError('after the sweep')")
    found = needed(str(path), {})
    assert [need.run_id for need in found] == names([5])
    assert not found[0].stored and found[0].seconds > 0
    given = needed(str(path), {"tasks": [5, 10], "runs_dir": str(tmp_path / "runs")})
    assert [need.run_id for need in given] == names([5, 10])
    assert not (tmp_path / "runs").exists()


@pytest.mark.train
def test_what_is_stored_takes_no_time(write, tmp_path):
    path = write("mine", IMPORTS, GRID, SWEEP)
    sweep(grid("smoke", method="prototypes", tasks=5), tmp_path / "runs")
    stored, new = needed(str(path), {"tasks": [5, 10], "runs_dir": str(tmp_path / "runs")})
    assert (stored.stored, stored.seconds) == (True, 0) and not new.stored and new.seconds > 0
    elsewhere = write("elsewhere", IMPORTS, GRID, f"sweep(runs, {str(tmp_path / 'runs')!r})")
    (there,) = needed(str(elsewhere), {})  # where the sweep itself looks
    assert there.stored


@pytest.mark.unit
def test_what_came_with_the_lab_is_stored_unless_all_is_to_be_fresh(write, monkeypatch):
    path = write("mine", IMPORTS, "sweep(grid('demo', method='prototypes'))")
    assert needed(str(path), {})[0].stored
    monkeypatch.setenv("FMLORA_FRESH", "1")
    assert not needed(str(path), {})[0].stored


MAGICS = [
    "%matplotlib inline\n%nonsense with words\n!false\nhome = !echo home\n%env X=1",
    "display('a table')\nget_ipython().run_line_magic('who', '')",
    "%%bash\nexit 1",
    "print('words')\ntasks?",
]


@pytest.mark.unit
@pytest.mark.parametrize("before", MAGICS)
def test_magics_and_displays_are_left_out(write, before, capfd):
    path = write("mine", IMPORTS, before, GRID, SWEEP)
    assert [need.run_id for need in needed(str(path), {})] == names([5])
    assert capfd.readouterr() == ("", "")


@pytest.mark.unit
@pytest.mark.parametrize("magic", ["%%time", "%%capture out"])
def test_a_sweep_under_a_magic_that_passes_code_on_is_found(write, magic):
    path = write("mine", IMPORTS, GRID, f"{magic}\n{SWEEP}")
    assert [need.run_id for need in needed(str(path), {})] == names([5])


@pytest.mark.unit
def test_cells_are_executed_in_order_each_seeing_what_was_before(write):
    path = write(
        "mine",
        IMPORTS,
        "def every(of):\n    return grid('smoke', method='prototypes', tasks=of, seed=seeds)",
        "seeds = [1]",
        "seeds = [*seeds, 2]",
        "def have():\n    return sweep(every(tasks), runs_dir)",
        "have()",
        "have = None",
    )
    assert [need.run_id for need in needed(str(path), {})] == names([5], seed=[1, 2])


@pytest.mark.unit
@pytest.mark.parametrize(
    "cell",
    [
        "1 / 0",
        "raise SystemExit(3)",
        "import no_such_module",
        "what is this",
        "run(grid('smoke')[0].config, runs_dir)",  # which would train
        "try:\n    run(grid('smoke')[0].config)\nexcept Exception:\n    pass",
    ],
)
def test_what_fails_or_computes_before_its_sweep_is_not_known(write, cell, tmp_path):
    path = write("mine", IMPORTS, cell, GRID, SWEEP)
    assert needed(str(path), {"runs_dir": str(tmp_path / "runs")}) is None
    assert not (tmp_path / "runs").exists()
    assert needed(str(write("whole", IMPORTS, GRID, SWEEP)), {})  # and does not last


@pytest.mark.unit
def test_a_notebooks_own_except_does_not_swallow_the_end(write):
    caught = f"try:\n    {SWEEP}\nexcept Exception:\n    raise SystemExit(1)"
    path = write("mine", IMPORTS, GRID, caught)
    assert [need.run_id for need in needed(str(path), {})] == names([5])


@pytest.mark.unit
def test_a_stored_run_before_the_sweep_is_loaded(write, tmp_path):
    """Of the lab's own, here; nothing is computed for it."""
    before = "first = run(grid('demo', method='prototypes')[0].config, use_shipped=True)"
    path = write("mine", IMPORTS, before, "sweep(grid('smoke', tasks=first.result['task_files']))")
    (found,) = needed(str(path), {})
    assert found.run_id == identity(grid("smoke", tasks=10)[0].config)


@pytest.mark.unit
def test_bad_input_is_refused_as_the_notebook_would(write):
    for cell in ("sweep(grid('smoke', rank=[4]))", "sweep(grid('smoke', method='ewc'))"):
        with pytest.raises(BadInput, match=r"a grid has no axis 'rank'|method\.name is 'ewc'"):
            needed(str(write("mine", IMPORTS, cell)), {})
    with pytest.raises(BadInput, match="allowed for 100 classes"):  # of what has no name
        needed(str(write("mine", IMPORTS, GRID, SWEEP)), {"tasks": [700]})


@pytest.mark.unit
def test_a_notebook_that_speaks_of_no_sweep_is_not_executed(write, tmp_path):
    mark = tmp_path / "mark"
    path = write("mine", f"open({str(mark)!r}, 'w')  # no sweep", "words = 'sweep(runs)'")
    assert plan([(path, {})]) == ("", 0)
    assert not mark.exists()
    unused = write("unused", IMPORTS, "if False:\n    sweep([])")
    assert needed(str(unused), {}) == []


@pytest.mark.process
def test_several_are_planned_together_and_one_that_dies_does_not_take_the_others(
    write, tmp_path, monkeypatch
):
    """In the order given, from the folder where one works, where modules of one's own may lie."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("METHOD = 'prototypes'\n")
    helped = "import mine\nruns = grid('smoke', method=mine.METHOD, tasks=tasks)"
    asked = [
        (write("10_first", IMPORTS, helped, SWEEP), {}),
        (write("20_dies", IMPORTS, "import os; os._exit(1)", GRID, SWEEP), {}),
        (write("30_no_runs", "import os; os._exit(1)"), {}),
        (write("40_second", IMPORTS, GRID, SWEEP), {"tasks": [5, 10]}),
    ]
    before = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
    text, missing = plan(asked)
    lines = text.splitlines()
    assert len(lines) == 5 and missing == 3
    assert re.match(r"first +0 +1 +about", lines[1])
    assert re.match(r"dies +\? +\? +not known before it runs", lines[2])
    assert re.match(r"second +0 +1 +about", lines[3])  # the other was counted with the first
    assert re.match(r"all +0 +3 +about .*, one after another", lines[4])
    after = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
    assert after == before  # neither runs nor figures


@pytest.mark.unit
def test_a_damaged_run_beside_it_is_named(write, tmp_path):
    speeds.cache_clear()
    damaged = tmp_path / "runs" / "0123456789abcdef"
    damaged.mkdir(parents=True)
    for name in ("config.json", "result.json"):
        (damaged / name).write_text("{}")
    path = write("mine", IMPORTS, GRID, SWEEP)
    with pytest.raises(BadInput, match=r"0123456789abcdef/config\.json is damaged"):
        needed(str(path), {"runs_dir": str(tmp_path / "runs")})


# --- the lab's own --------------------------------------------------------------------------------


@pytest.mark.unit
def test_every_study_of_the_lab_states_a_sweep():
    own = {path.name for path in LAB.glob("2?_*.ipynb")} | {"30_all_methods.ipynb"}
    assert own <= {path.name for path in STUDIES}


@pytest.mark.unit
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_of_the_lab_has_a_plan(path, tmp_path):
    for parameters in ({"profile": "smoke"}, {"profile": "demo"}):
        found = needed(str(path), {**parameters, "runs_dir": str(tmp_path), "static": True})
        assert found and len({need.run_id for need in found}) > 1


@pytest.mark.process
def test_a_notebooks_grid_is_what_its_sweep_asks_for(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write("mine", IMPORTS, GRID, SWEEP, "raise RuntimeError('after the sweep')")
    given = {"tasks": [5, 10], "runs_dir": str(tmp_path / "runs")}
    expected = grid("smoke", method="prototypes", tasks=[5, 10])
    assert grid_of(path, given) == (expected, given["runs_dir"])
    fails = write("fails", IMPORTS, "1 / 0", GRID, SWEEP)
    for other, said in ((fails, "fails, or computes"), (write("none", "1"), "has no sweep")):
        with pytest.raises(BadInput, match=said):
            grid_of(other, {})
    own = "from fmlora_lab.config import MethodSettings\nclass Own(MethodSettings):\n    name: "
    own += "Literal['own'] = 'own'"
    path = write("own", "from typing import Literal", own, IMPORTS, "sweep(grid(method='own'))")
    with pytest.raises(BadInput, match=r"method\.name is 'own'; allowed"):
        grid_of(path, {})
