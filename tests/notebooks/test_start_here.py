"""The notebook that `make lab` opens: its links lead somewhere, no notebook is left out, and the
lines that it shows do what it says."""

import re
from pathlib import Path

import nbformat
import pytest
from matplotlib.figure import Figure

from fmlora_lab import load_runs

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
START = NOTEBOOKS / "00_start_here.ipynb"


def text() -> str:
    return "".join(cell.source for cell in nbformat.read(START, as_version=4).cells)


def links() -> set[str]:
    return set(re.findall(r"\]\(([^)#]+)\)", text()))


def test_every_link_leads_to_a_file():
    assert links() and [link for link in links() if not (NOTEBOOKS / link).is_file()] == []


def test_every_notebook_is_named():
    assert {page.name for page in NOTEBOOKS.glob("*.ipynb")} - {START.name} <= links()


def test_every_notebook_is_in_the_menu_of_the_site():
    """`make docs` ends with an error for a page that is in none."""
    site = (NOTEBOOKS.parent / "mkdocs.yml").read_text("utf-8")
    menu = re.findall(r"notebooks/(\S+\.ipynb)", site)
    assert {page.name for page in NOTEBOOKS.glob("*.ipynb")} <= {*menu}


@pytest.mark.train
def test_a_sweep_of_ones_own_is_at_most_five_lines():
    (code,) = re.findall(r"```python\n(.*?)```", text(), re.DOTALL)
    *lines, last = [line for line in code.replace('"demo"', '"smoke"').splitlines() if line]
    assert len(lines) < 5
    space: dict = {}
    exec("\n".join(lines), space)
    assert isinstance(eval(last, space), Figure)
    asked = {(r.config["method"]["basis_rank"], r.config["seed"]) for r in load_runs()}
    assert asked == {(width, seed) for width in (8, 16, 32) for seed in (0, 1)}
