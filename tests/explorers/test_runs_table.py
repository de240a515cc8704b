"""Stored runs shown as a table: what differs, labels that come of themselves, code that is true."""

import json
import re

import IPython.display
import pytest
from itables.widget import ITable
from matplotlib.figure import Figure

from fmlora_lab import load_runs
from fmlora_lab.explorers import runs_table
from fmlora_lab.explorers.runs_table import RunsTable, code, drawn, grid_of
from fmlora_lab.runs.archive import collections
from fmlora_lab.runs.frame import labelled, overview
from fmlora_lab.runs.stored import Run, Runs

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def stored():
    """Runs that came with the lab: twelve methods, three seeds each."""
    return load_runs(collections()["glyphs-10"])


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setattr(runs_table.progress, "kind", lambda: "notebook")


class Ranked(Run):
    """A run with another rank, as if it had been computed."""

    def __init__(self, run, rank, name, seed=0):
        super().__init__(run.folder)
        self.config = json.loads(json.dumps(run.config))
        self.config["method"]["rank"], self.config["seed"] = rank, seed
        self.id = name


@pytest.fixture
def loras(stored):
    lora = next(run for run in stored if run.method_name == "lora")
    asked = [(4, 0), (4, 1), (8, 0), (8, 1)]
    return [Ranked(lora, rank, f"{k}" * 16, seed) for k, (rank, seed) in enumerate(asked)]


# --- what a table says -------------------------------------------------------------------------


def test_a_list_of_runs_is_a_list(stored):
    assert isinstance(stored, list) and stored[:2] == list(stored)[:2]
    assert [run.id for run in stored] == sorted(run.id for run in stored)


def test_columns_are_the_settings_that_differ_and_metrics_by_head(stored, loras):
    several = overview(stored)
    assert list(several.columns)[:3] == ["method", "training.lr_head", "seed"]
    assert {"acc", "acc_trained", "acc_means", "forgetting", "seconds"} <= {*several.columns}
    assert several.loc[stored[0].id, "acc"] == stored[0].result["acc"]
    one = overview(loras)
    assert list(one.columns)[:3] == ["method.rank", "seed", "acc"]
    assert list(one["method.rank"]) == ["4", "4", "8", "8"]
    assert "method.rank" not in overview(loras[:2]) and len(overview([loras[0]])) == 1


def test_where_there_is_no_notebook_it_is_a_plain_table(stored):
    text = repr(stored)
    assert stored[0].id in text and "training.lr_head" in text and "0.005" in text
    bundle = stored._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"} and "<table" in bundle["text/html"]
    assert repr(Runs()) == "no complete runs" and set(Runs()._repr_mimebundle_()) == {"text/plain"}


# --- the grid ----------------------------------------------------------------------------------


def test_two_hundred_runs_are_one_grid_with_all_of_them(stored, notebook, monkeypatch):
    built = []
    make = ITable.__init__
    monkeypatch.setattr(
        ITable, "__init__", lambda grid, *a, **how: built.append(grid) or make(grid, *a, **how)
    )
    many = Runs((list(stored) * 6)[:200])
    bundle = many._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and "<table" in bundle["text/html"]
    (grid,) = built
    rows = json.loads(grid._dt_args["data_json"])
    assert len(rows) == 200 and "downsampling_warning" not in grid._dt_args
    assert [row[1] for row in rows] == [run.id[:8] for run in many]


def test_none_of_many_is_left_out(stored):
    grid = RunsTable(Runs((list(stored) * 60)[:2000])).grid
    assert len(json.loads(grid._dt_args["data_json"])) == 2000


def test_numbers_that_are_not_there_are_empty(stored):
    shown = grid_of(stored)
    without = [run.id for run in stored if run.method_name == "prototypes"]
    assert set(shown.loc[without, "acc_trained"]) == {""} and "nan" not in {*shown["acc_trained"]}


# --- what is ticked ----------------------------------------------------------------------------


def test_labels_are_what_tells_the_ticked_runs_apart(stored, loras):
    assert (
        list(labelled(loras)["method"])
        == ["sequential LoRA · rank 4"] * 2 + ["sequential LoRA · rank 8"] * 2
    )
    assert set(labelled(loras[:2])["method"]) == {"lora"}
    # l2p has a rate of its own, which its name says already
    some = [run for run in stored if run.method_name in ("l2p", "full")]
    assert set(labelled(some)["method"]) == {"l2p", "full"}
    both = labelled([*some, *loras])
    assert {"l2p", "full", "sequential LoRA · rank 8"} <= {*both["method"]}


def test_a_tick_draws_curves_bars_and_a_table(stored, monkeypatch):
    shown = RunsTable(stored)
    assert shown.drawn.value == ""
    ticked = [k for k, run in enumerate(stored) if run.method_name in ("lora", "full")]
    shown.grid.selected_rows = ticked
    shown.wait()
    first, second = re.findall('<img alt="(.*?)"', shown.drawn.value, re.DOTALL)
    assert first.startswith("After 10 tasks: sequential LoRA 5") and "Acc (%) from" in second
    assert "<th>sequential LoRA</th>" in shown.drawn.value and "n = 3 seeds" in second
    shown.grid.selected_rows = []
    shown.wait()
    assert shown.drawn.value == ""


def test_runs_that_cannot_stand_beside_each_other_are_told_why(loras):
    same = [loras[0], Ranked(loras[0], 4, "9" * 16)]  # as of other images
    assert drawn(same).startswith("the runs of &#x27;lora&#x27; share seeds but not images")


def test_the_code_runs_and_finds_the_same_runs(stored, monkeypatch, tmp_path):
    shown = RunsTable(stored)
    shown.grid.selected_rows = [0, 3, 5]
    shown.wait()
    shown.copy.click()
    assert shown.code.layout.display is None
    displayed, names = [], {}
    monkeypatch.setattr(IPython.display, "display", displayed.append)
    exec(shown.code.value, names)
    assert [run.id for run in names["found"].run] == [stored[k].id for k in (0, 3, 5)]
    curves, bars, table = displayed
    assert isinstance(curves, Figure) and isinstance(bars, Figure)
    assert table.to_html() in shown.drawn.value


def test_without_a_tick_the_code_says_so(stored):
    assert code([], None) == "# tick some runs first"
    assert "load_runs()" in code(stored[:1], None)
