"""A method and a head of a user's own are known to the processes that compute a sweep's runs."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from fmlora_lab import sweep
from fmlora_lab.config import BadInput
from fmlora_lab.heads.means import ClassMeans
from fmlora_lab.methods.low_rank.lora import LoRA, LoRASettings
from fmlora_lab.methods.registry import register
from fmlora_lab.profiles import configure
from fmlora_lab.runs import slurm as slurm_module
from fmlora_lab.runs.own import modules_to_import
from fmlora_lab.tuning import tune

PAGE = '''
from typing import Literal
from fmlora_lab.heads.means import ClassMeans
from fmlora_lab.methods.low_rank.lora import LoRA, LoRASettings
from fmlora_lab.methods.registry import register

class Settings(LoRASettings):
    name: Literal["page-of-mine"] = "page-of-mine"

@register(Settings, title="mine", family="others", what="a toy")
class Mine(LoRA):
    """As LoRA."""

class MoreMeans(ClassMeans, name="means-of-mine"):
    """As class means."""
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A configuration of a method whose module lies beside a user's notebook."""
    (tmp_path / "page_of_mine.py").write_text(PAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    importlib.import_module("page_of_mine")
    yield configure("page-of-mine", profile="smoke", overrides={"benchmark.tasks": 10})
    del sys.modules["page_of_mine"]


@pytest.fixture
def in_a_cell(monkeypatch):
    """`in_a_cell(what)` registers it as a notebook's cell does."""
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)

    def define(what):
        if what == "head":
            type("Means", (ClassMeans,), {"__module__": "__main__"}, name="means-of-a-cell")
            return

        class Settings(LoRASettings):
            name: Literal["of-a-cell"] = "of-a-cell"

        enter = register(Settings, title="a cell's", family="others", what="a toy")
        enter(type("OfACell", (LoRA,), {"__module__": "__main__"}))

    return define


@pytest.mark.process
def test_worker_processes_import_the_module_of_a_method(mine, tmp_path):
    (found,) = sweep([mine], tmp_path / "runs", on="processes", workers=1).run
    assert found.method_name == "page-of-mine"
    assert found.result["heads"]["means-of-mine"] == found.result["heads"]["means"]


@pytest.mark.unit
def test_a_job_of_slurm_is_told_the_module(mine, tmp_path, monkeypatch):
    told = []

    def answer(asked, **how):
        if asked[0] == "sbatch":
            told.append(json.loads((Path(asked[-1]).parent / "runs.json").read_text())["modules"])
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(slurm_module.subprocess, "run", answer)
    slurm_module.Jobs({"0" * 16: mine}, tmp_path / "runs", {}, 0)
    assert "page_of_mine" in told[0]


@pytest.mark.unit
@pytest.mark.parametrize("by_script", [True, False])
def test_of_a_cell_is_refused_where_it_is_needed(in_a_cell, by_script):
    in_a_cell("method")
    assert "__main__" not in modules_to_import([configure("lora")], by_script)
    with pytest.raises(BadInput, match=r"method 'of-a-cell' is of this notebook .* on='here'"):
        modules_to_import([configure("lora"), configure("of-a-cell")], by_script)


@pytest.mark.unit
def test_a_head_of_a_cell_is_refused_for_whatever_method(in_a_cell):
    in_a_cell("head")
    with pytest.raises(BadInput, match="head 'means-of-a-cell' is of this notebook or script"):
        modules_to_import([configure("lora")], True)


@pytest.mark.unit
def test_of_a_script_worker_processes_know_and_jobs_do_not(in_a_cell, monkeypatch):
    in_a_cell("method")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "script.py", raising=False)
    assert "__main__" not in modules_to_import([configure("of-a-cell")], True)
    with pytest.raises(BadInput, match="method 'of-a-cell'"):
        modules_to_import([configure("of-a-cell")], False)


@pytest.mark.process
def test_a_module_that_is_not_there_for_others_is_named(mine, tmp_path):
    (tmp_path / "page_of_mine.py").unlink()
    with pytest.raises(Exception, match="No module named 'page_of_mine'"):
        sweep([mine], tmp_path / "runs", on="processes", workers=1)


@pytest.mark.process
def test_a_tuning_of_two_at_a_time_knows_it_too(mine, tmp_path):
    asked = (tmp_path / "log.json", ["page-of-mine", "lora"], "smoke", 1, tmp_path / "runs")
    log = tune(*asked, workers=2)
    assert [len(found["trials"]) for found in log["methods"].values()] == [1, 1]
