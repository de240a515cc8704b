"""A researcher in JupyterLab: copies a study, changes its grid, interrupts, goes on, and has a
figure for a paper."""

import json

import pytest

from fmlora_lab.perf import browser

pytestmark = pytest.mark.browser

STUDY = "22_stream_length"
ASKED = """profile = "smoke"
methods = ["lora", "linear-probe"]
orders = 1
runs_dir = "../own_runs"
figures_dir = "../figures/ages"
width = "page"
"""
GRID = """tasks = [2, 5]
runs = grid(profile, tasks=tasks, method=methods, order_seed=range(orders))

found = sweep(runs, runs_dir)
"""


def rewrite(page, known: str, text: str) -> None:
    """Put `text` into the cell that says what is `known`, as if it were pasted."""
    cell = page.locator(".jp-CodeCell", has_text=known).first
    cell.scroll_into_view_if_needed()
    cell.locator(".cm-content").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(text)


def menu(page, of: str, item: str) -> None:
    page.locator(".lm-MenuBar-itemLabel", has_text=of).first.click()
    page.locator(".lm-Menu-itemLabel", has_text=item).first.click()


def wait_for(page, path: str) -> None:
    """Until the server has a file or folder there."""
    ask = """async ([path, seconds]) => {
        for (let k = 0; k < 5 * seconds; k++) {
            if ((await fetch(`/api/contents/${path}?content=0`)).ok) return true;
            await new Promise(done => setTimeout(done, 200));
        }
    }"""
    assert page.evaluate(ask, [path, browser.PATIENCE]), f"there is no {path}"


def test_a_study_is_copied_changed_interrupted_gone_on_with_and_published(
    page, errors, lab, project
):
    notebooks, runs, folder = (project / name for name in ("notebooks", "own_runs", "figures/ages"))
    original = (notebooks / f"{STUDY}.ipynb").read_bytes()
    browser.open_notebook(page, lab(f"lab/tree/notebooks/{STUDY}.ipynb"))
    menu(page, "File", "Duplicate Notebook")
    copy = f"notebooks/{STUDY}-Copy1.ipynb"
    wait_for(page, copy)

    browser.open_notebook(page, lab(f"lab/tree/{copy}"))
    rewrite(page, "runs_dir = None", ASKED)
    rewrite(page, "runs = grid(", GRID)
    browser.run_all(page)
    wait_for(page, "own_runs")  # where runs are written from the first on
    menu(page, "Kernel", "Interrupt Kernel")
    page.get_by_text("run again to go on").first.wait_for()
    assert not folder.exists()
    assert len(list(runs.glob("*/result.json"))) < 4

    browser.run_all(page)
    wait_for(page, "figures/ages/provenance.json")
    assert len(list(runs.glob("*/result.json"))) == 4
    assert (folder / "acc_over_length.pdf").read_bytes().startswith(b"%PDF")
    about = json.loads((folder / "figures.json").read_text())["acc_over_length"]
    assert about["width"] == "page" and about["title"].endswith("(one seed)")
    assert r"\begin{table*}" in (folder / "ages.tex").read_text()
    assert (notebooks / f"{STUDY}.ipynb").read_bytes() == original
    errors[:] = [error for error in errors if "404" not in error]  # while it was waited for
