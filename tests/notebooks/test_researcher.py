"""A researcher copies a notebook and adds to its grid: what is new is computed, and is shown."""

import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from fmlora_lab.render.render import render

pytestmark = pytest.mark.process

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "23_rank_selector.ipynb"
ASKED = {"profile": "smoke", "orders": 1}
QUICK = {"ranks = [2, 4, 8, 16, 32]": "ranks = [2, 8]"}
MORE = {
    '    "DRS, paper":': '    "DRS, warm": {"method.drs.tau": 3.0},\n    "DRS, paper":',
    "order_seed=range(orders)": "order_seed=range(orders + 1)",
}


def edit(copy: Path, changes: dict[str, str]) -> None:
    """Replace words in the cell of the grid, as a person would."""
    notebook = nbformat.read(copy, 4)
    (cell,) = [cell for cell in notebook.cells if "runs = grid(" in cell.source]
    for old, new in changes.items():
        assert cell.source.count(old) == 1
        cell.source = cell.source.replace(old, new)
    nbformat.write(notebook, copy)


def test_a_variant_and_an_order_more_in_a_copied_notebook(tmp_path, capfd):
    own, runs, figures = (tmp_path / name for name in ("notebooks", "runs", "figures"))
    own.mkdir()
    copy = Path(shutil.copy(NOTEBOOK, own / "my_ranks.ipynb"))
    edit(copy, QUICK)

    assert render(["my_ranks"], ASKED, runs, figures, own) == 0
    first = pd.read_csv(figures / "my_ranks" / "runs.csv")
    stored = {path.parent.name: path.stat().st_mtime_ns for path in runs.glob("*/result.json")}
    assert set(first.run) == set(stored) and "DRS, warm" not in set(first.choice)

    edit(copy, MORE)
    capfd.readouterr()
    assert render(["my_ranks"], ASKED, runs, figures, own) == 0
    now = pd.read_csv(figures / "my_ranks" / "runs.csv")
    choices = list(dict.fromkeys(first.choice))
    assert set(now.choice) == {*choices, "DRS, warm"} and set(now.order_seed) == {0, 1}
    new = len(now) - len(first)
    assert len(now) == 2 * (len(choices) + 1)
    assert re.search(rf"my_ranks +{len(first)} +{new} +about \d+ ", capfd.readouterr().err)
    untouched = {name: (runs / name / "result.json").stat().st_mtime_ns for name in stored}
    assert untouched == stored and len(list(runs.glob("*/result.json"))) == len(now)

    table = pd.read_csv(figures / "my_ranks" / "my_ranks.csv", index_col=0)
    assert list(table.index[-4:]) == ["DRS, calibrated", "DRS, warm", "DRS, paper", "SoRA"]
    assert "±" in table.loc["DRS, warm", "Acc (%)"]
    drawn = (figures / "my_ranks" / "accuracy_over_trained.svg").read_text()
    assert ">DRS, warm</text>" in drawn
