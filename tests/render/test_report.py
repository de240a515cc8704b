"""The report: one page, with everything in it."""

import json
import re

import nbformat
import pytest

from fmlora_lab.config import BadInput
from fmlora_lab.render.report import report

pytestmark = pytest.mark.unit


def test_the_page_holds_every_figure_table_and_answer_and_needs_no_other_file(tmp_path):
    for number, name in ((28, "frontier"), (20, "imagenet_r")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{number}_{name}.ipynb").write_text("{}")
        (folder / "answer.md").write_text(f"# Title of {name}\n\n**Why?**\n\nBecause 5 < 6.\n")
        (folder / f"{name}.csv").write_text("method,Acc (%)\nFM-LoRA,54.0 ± 1.0\n")
        (folder / "a.png").write_bytes(b"\x89PNG" + name.encode())
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
    assert len(re.findall(r'src="data:image/png;base64,', page)) == 3
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "class orders 0, 2, seeds 0, 1;" in page


def test_nothing_rendered_is_said(tmp_path):
    with pytest.raises(BadInput, match="fmlora-lab render all"):
        report(tmp_path, tmp_path / "report.html")
