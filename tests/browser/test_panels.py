"""The panel of a sweep and the table of runs, as a person has them in JupyterLab."""

import nbformat
import pytest

from fmlora_lab.perf import browser

pytestmark = pytest.mark.browser

TABLE = """
from fmlora_lab import load_runs
from fmlora_lab.runs.archive import collections

load_runs(collections()["glyphs-10"])
"""
SWEEP = """
from fmlora_lab import grid, sweep

overrides = {{"training.epochs": 60}}
found = sweep(grid("smoke", method="lora", seed=range(3), overrides=overrides), {runs!r})
"""


@pytest.fixture
def opened(page, project, lab):
    """`opened(code)`: a notebook of one cell, open and running."""

    def run(code):
        kernel = {"name": "python3", "display_name": "Python 3"}
        cells = [nbformat.v4.new_code_cell(code)]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, project / "own.ipynb")
        browser.open_notebook(page, lab("lab/tree/own.ipynb"))
        browser.run_all(page)

    return run


def test_runs_are_a_table_whose_ticked_rows_are_drawn(page, opened):
    opened(TABLE)
    rows = page.locator(".itables_anywidget tbody tr")
    rows.nth(0).wait_for()
    assert rows.count() == 15
    page.get_by_label("Search:").fill("dualprompt")
    page.wait_for_function("document.querySelectorAll('.itables_anywidget tbody tr').length == 3")
    rows.nth(0).locator("td").nth(2).click()
    page.locator("img[alt^='After 10 tasks: DualPrompt']").wait_for()
    page.get_by_text("Copy as code").click()
    area = page.locator(".widget-textarea textarea")
    area.wait_for()
    assert "# dualprompt" in area.input_value()


def test_stop_and_skip_answer_while_the_sweep_is_at_work(page, opened, tmp_path):
    opened(SWEEP.format(runs=str(tmp_path / "runs")))
    page.get_by_role("button", name="Skip seed 0").click()
    page.locator(".fmlora-sweep td", has_text="skipped").wait_for()
    page.locator(".fmlora-sweep tr", has_text="running").locator("svg").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("stopped in run 2 of 3").wait_for()
    assert page.get_by_role("button", name="Stop").count() == 0
    assert page.locator("td", has_text="skipped").count() == 1  # which stays
