"""What holds for every notebook, and for the studies (20 to 30, 33), before any is run."""

import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from fmlora_lab.config import BadInput
from fmlora_lab.profiles import profile_named
from fmlora_lab.render import plan
from fmlora_lab.runs.run import find_stored

pytestmark = pytest.mark.unit

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
LESSONS = [path for path in NOTEBOOKS if 10 <= int(path.name[:2]) <= 17]
STUDIES = [path for path in NOTEBOOKS if int(path.name[:2]) in (*range(20, 31), 33)]
LINKS = "00_start_here"
LONGEST = 10
"""Lines of a function that a notebook may define."""

every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
studies = pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)


def named(stem: str) -> Path:
    return next(path for path in NOTEBOOKS if path.stem == stem)


def cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def parsed(path: Path) -> list[ast.AST]:
    """Every node of a notebook's code, magics turned into calls."""
    plain = TransformerManager().transform_cell
    return [node for cell in cells(path) for node in ast.walk(ast.parse(plain(cell.source)))]


def configs(path: Path, parameters: dict, monkeypatch) -> list:
    """What a notebook asks for, up to its sweep; neither images nor weights are looked for."""
    monkeypatch.setattr(plan, "_needed", lambda config, runs_dir: config)
    return plan.needed(str(path), parameters)


@every
def test_what_was_printed_is_not_stored(path):
    for cell in cells(path):
        assert cell.outputs == [] and cell.execution_count is None, cell.source


@every
def test_parameters_stand_in_one_cell(path):
    tagged = [cell for cell in cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == (0 if path in LESSONS or path.stem == LINKS else 1)


@every
def test_no_function_is_longer_than_ten_lines(path):
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in parsed(path)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert all(lines <= LONGEST for lines in long.values()), long


@every
def test_what_is_imported_from_the_lab_is_there(path):
    for node in parsed(path):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_lines_that_a_lesson_shows_are_there(path):
    """What it imports, and what it shows of code that it imports."""
    names: dict = {}
    shown = 0
    for node in parsed(path):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(ast.unparse(node), names)
    for node in parsed(path):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "show":
            assert "```python" in eval(ast.unparse(node), names).data
            shown += 1
    assert shown


@studies
def test_a_study_states_a_grid_sweeps_once_and_publishes_last(path):
    called = [
        (node.func.id, cell)
        for cell, source in enumerate(cell.source for cell in cells(path))
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(source)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    names = [name for name, _ in called]
    where = dict(called)
    assert "grid" in names and names.count("sweep") == names.count("publish") == 1
    assert where["grid"] <= where["sweep"] < where["publish"] == len(cells(path)) - 1


@pytest.mark.parametrize("name", ["00_quickstart", "25_components", "33_heads", "34_readings"])
def test_every_run_of_the_demo_profile_came_with_the_lab(name, tmp_path, monkeypatch):
    """Name for name: a change of settings, defaults, images or weights asks for them anew. Those
    on domains, and the other notebooks', are computed when they are asked for."""
    asked = configs(named(name), {"profile": "demo", "orders": 5}, monkeypatch)
    missing = [one for one in asked if find_stored(one, tmp_path, use_shipped=True) is None]
    assert {one.benchmark.name for one in missing} <= {"glyph-domains"} and len(asked) > 30


@studies
def test_the_paper_profile_asks_for_the_papers_backbone_and_benchmarks(path, monkeypatch):
    asked = configs(path, {"profile": "paper"}, monkeypatch)
    backbone = profile_named("paper")["backbone"]["name"]
    assert {config.backbone.name for config in asked} == {backbone}
    assert {config.benchmark.name for config in asked} == {"hub"}


@studies
def test_a_class_order_more_is_that_many_runs_more(path, monkeypatch):
    one, two = (configs(path, {"orders": n}, monkeypatch) for n in (1, 2))
    assert {config.order_seed for config in two} == {0, 1} and len(two) == 2 * len(one)
    assert {config.seed for config in two} == {0}


@studies
def test_an_unknown_profile_is_refused_with_those_there_are(path):
    with pytest.raises(BadInput, match=r"profile is 'huge'; allowed: .*demo"):
        plan.needed(str(path), {"profile": "huge"})


def test_an_unknown_method_is_refused_with_those_there_are():
    with pytest.raises(BadInput, match=r"method.name is 'ewc'; allowed: .*fm-lora"):
        plan.needed(str(named("29_cost")), {"methods": ["ewc"]})


@pytest.mark.parametrize("name", ["00_quickstart", "30_all_methods"])
def test_the_overrides_that_a_comment_shows_can_be_given(name, monkeypatch):
    source = "\n".join(cell.source for cell in cells(named(name)))
    shown = ast.literal_eval(re.search(r"^overrides = .*# .*?({.*})", source, re.M)[1])
    asked = configs(named(name), {"profile": "smoke", "overrides": shown}, monkeypatch)
    assert shown == {"training.epochs": 8} and {own.training.epochs for own in asked} == {8}


def test_a_profile_of_local_images_says_what_is_missing(monkeypatch, tmp_path):
    path, asked = named("23_rank_selector"), {"profile": "cifar100-tiny"}
    monkeypatch.delenv("FMLORA_DATA", raising=False)
    with pytest.raises(BadInput, match=r"\$FMLORA_DATA/cifar100/\{train,test\}"):
        plan.needed(str(path), asked)
    (tmp_path / "cifar100" / "train").mkdir(parents=True)
    weights = tmp_path / f"{profile_named('cifar100-tiny')['backbone']['name']}.safetensors"
    weights.write_bytes(b"")
    monkeypatch.setenv("FMLORA_DATA", str(tmp_path))
    for config in configs(path, asked, monkeypatch):
        assert config.benchmark.data == tmp_path / "cifar100"
        assert config.backbone.weights == weights
