"""The notebook that `make lab` opens: its links lead somewhere, and no notebook is left out."""

import re
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
START = NOTEBOOKS / "00_start_here.ipynb"


def links() -> set[str]:
    cells = nbformat.read(START, as_version=4).cells
    return set(re.findall(r"\]\(([^)#]+)\)", "".join(cell.source for cell in cells)))


def test_every_link_leads_to_a_file():
    assert links() and [link for link in links() if not (NOTEBOOKS / link).is_file()] == []


def test_every_notebook_is_named():
    assert {page.name for page in NOTEBOOKS.glob("*.ipynb")} - {START.name} <= links()
