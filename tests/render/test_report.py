"""The report: one page, with everything in it."""

import base64
import json
import re

import nbformat
import pytest

from fmlora_lab.config import BadInput
from fmlora_lab.render.notebooks import OWN, closing_lines, ended
from fmlora_lab.render.report import readings, report

pytestmark = pytest.mark.unit


NOTEBOOK = nbformat.v4.new_notebook(
    cells=[
        nbformat.v4.new_markdown_cell(
            "## A heading\n\nAll about z. **How to read it.** Up is better."
        ),
        nbformat.v4.new_code_cell("%matplotlib inline\nfalls = plots.lines()\nfalls"),
        nbformat.v4.new_markdown_cell("## A heading\n\nA mark a run."),
        nbformat.v4.new_code_cell("ends = plots.dots()"),
        nbformat.v4.new_code_cell('publish(figures={"a": ends, f"{z}": falls})'),
    ]
)


def test_the_page_holds_every_figure_table_and_answer_and_needs_no_other_file(tmp_path):
    for number, name in ((28, "frontier"), (20, "imagenet_r")):
        folder = tmp_path / name
        folder.mkdir()
        nbformat.write(NOTEBOOK, folder / f"{number}_{name}.ipynb")
        (folder / "answer.md").write_text(f"# Title of {name}\n\n**Why?**\n\nBecause 5 < 6.\n")
        (folder / f"{name}.csv").write_text("method,Acc (%)\nFM-LoRA,54.0 ± 1.0\n")
        (folder / f"{name}.tex").write_text("a table")
        for kind in ("png", "svg", "pdf"):
            (folder / f"a.{kind}").write_bytes(kind.encode() + name.encode())
            (folder / f"z.{kind}").write_bytes(kind.encode() + name.encode())
        about = {"a": {"title": "Ends at < 5", "width": "page"}}
        about |= {"z": {"title": "Falls", "width": "column"}}
        (folder / "figures.json").write_text(json.dumps(about))
        source = {
            "notebook": name,
            "runs": {"x": {}},
            "orders": [0, 2],
            "seeds": [0, 1],
            "revision": None,
        }
        (folder / "provenance.json").write_text(json.dumps(source))
    explorer = tmp_path / "rank_choice"
    explorer.mkdir()
    cells = [nbformat.v4.new_markdown_cell("# 41 · Which rank?\n\nMore.")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), explorer / "41_rank_choice.ipynb")
    (explorer / "a.png").write_bytes(b"\x89PNG")
    page = report(tmp_path, tmp_path / "report.html").read_text()
    assert page.index("Title of imagenet_r") < page.index("Title of frontier")  # by number
    assert page.index("Title of frontier") < page.index("41 · Which rank?")
    assert page.count("54.0 ± 1.0") == 2 and page.count("Because 5 &lt; 6.") == 2
    assert len(re.findall(r'src="data:image/png;base64,', page)) == 5
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "class orders 0, 2, seeds 0, 1;" in page
    # In the notebook's order, which draws z first, each with its title and how it is to be read.
    first = page[page.index('id="imagenet_r"') : page.index('id="frontier"')]
    at = [
        first.index(said) for said in ("Falls", "Up is better.", "Ends at &lt; 5", "A mark a run.")
    ]
    assert at == sorted(at) and "All about z." not in first and "A heading" not in first
    assert 'class="page" id="imagenet_r-a"' in first and 'class="column"' in first
    for name, said in (("a.svg", b"svgimagenet_r"), ("imagenet_r.tex", b"a table")):
        link = re.search(rf'download="{name}" href="data:[^,]+;base64,([^"]+)"', first)
        assert base64.b64decode(link[1]) == said
    assert re.findall(r'download="([^"]+)"', first) == [
        "z.svg", "z.pdf", "a.svg", "a.pdf", "imagenet_r.csv", "imagenet_r.tex",
    ]  # fmt: skip


def test_a_notebook_that_names_no_figures_has_no_readings():
    assert readings(nbformat.v4.new_notebook(cells=[]), 2) == []


@pytest.mark.parametrize("path", sorted(OWN.glob("[23]?_*.ipynb")), ids=lambda path: path.stem)
def test_every_figure_of_the_labs_notebooks_says_how_to_read_it(path):
    notebook = nbformat.read(path, 4)
    (cell,) = [c for c in notebook.cells if c.cell_type == "code" and "publish(\n" in c.source]
    n = len(re.search(r"figures=\{(.*?)\}(?:,\n|\))", cell.source, re.DOTALL)[1].split(","))
    found = readings(notebook, n - cell.source.count(",\n    },\n    table"))
    assert found and all(len(text) > 40 for _, text in found)
    assert [place for place, _ in found] == sorted(place for place, _ in found)


def test_nothing_rendered_is_said(tmp_path):
    with pytest.raises(BadInput, match="fmlora-lab render all"):
        report(tmp_path, tmp_path / "report.html")


@pytest.mark.parametrize("content", ["{", '{"nbformat": 4}', "[]"])
def test_a_damaged_copy_is_named_and_counts_as_not_rendered(tmp_path, content):
    copy = tmp_path / "study" / "20_study.ipynb"
    copy.parent.mkdir()
    copy.write_text(content)
    with pytest.raises(BadInput, match=r"20_study\.ipynb is no notebook that can be read"):
        report(tmp_path, tmp_path / "report.html")
    assert not ended(copy) and not (tmp_path / "report.html").exists()
    (copy.parent / "study.csv").write_text("method,acc\nstale,1\n")
    assert "stale" not in closing_lines(copy.parent)


@pytest.mark.parametrize("name", ["figures.json", "provenance.json"])
def test_a_damaged_list_is_named(tmp_path, name):
    folder = tmp_path / "study"
    folder.mkdir()
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A study")]),
        folder / "20_study.ipynb",
    )
    (folder / name).write_text("{")
    with pytest.raises(BadInput, match=rf"{name} is damaged .*; render its notebook again"):
        report(tmp_path, tmp_path / "report.html")
