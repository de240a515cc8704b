"""How long an explorer takes to open, and from a control's move to the new picture on screen.

Measured in JupyterLab, in headless Chromium, by the browser's own clock: from the click that runs
the cell, in a fresh kernel, or the key that moves a slider, until the picture has been painted.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import nbformat
import numpy as np

from fmlora_lab.explorers.features import kept_of, offered_or_trained
from fmlora_lab.perf import browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

EXPLORERS = (
    "subspace_overlap",
    "rank_choice",
    "prompt_drift",
    "experts",
    "forgotten",
    "features",
)
KERNEL = {"name": "python3", "display_name": "Python 3"}
SETTLED = 1000
"""Milliseconds."""
WATCH = Path(__file__).with_suffix(".js").read_text("utf-8")


def bench(moves: int) -> list[dict[str, Any]]:
    """All explorers; the objects that `--json` prints. BadInput where there is no browser."""
    kept_of(next(iter(offered_or_trained(None).values())))  # what is computed once is no redrawing
    with TemporaryDirectory() as folder:
        for name in EXPLORERS:
            cell = nbformat.v4.new_code_cell(
                f"from fmlora_lab import explorers\n\nexplorers.{name}()"
            )
            page = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": KERNEL})
            nbformat.write(page, Path(folder, f"{name}.ipynb"))
        found = []
        with browser.chromium([]) as page, browser.lab(folder) as address:
            for name in EXPLORERS:
                browser.open_notebook(page, address(f"lab/tree/{name}.ipynb"))
                found.append({"explorer": name, **measure(page, moves)})
        return found


def measure(page: "Page", moves: int) -> dict[str, Any]:
    """Run the notebook that is open, then move its sliders in turn, a step each time."""
    page.evaluate(WATCH)
    browser.run_all(page)
    page.wait_for_function("pictures.length > 0")
    page.wait_for_timeout(SETTLED)  # a page that is still laid out asks for other sizes
    (opened, *_), moved = page.evaluate("pictures.splice(0)"), []
    sliders = page.locator(".noUi-handle").all()
    keys = ["ArrowRight"] * len(sliders)
    for move in range(moves):
        k = move % len(sliders)
        low, now, high = browser.place(sliders[k])
        keys[k] = {low: "ArrowRight", high: "ArrowLeft"}.get(now, keys[k])
        sliders[k].press(keys[k])
        page.wait_for_function("pictures.length > 0")
        moved += page.evaluate("pictures.splice(0)")
    median, high = np.percentile(moved, [50, 95])
    return {
        "moves": moves,
        "median_ms": round(float(median), 1),
        "p95_ms": round(float(high), 1),
        "open_ms": round(opened, 1),
    }


def to_text(found: list[dict[str, Any]]) -> str:
    """The measurements as a table."""
    lines = [f"{'':<17} {'moves':>5} {'median ms':>9} {'95% ms':>7} {'open ms':>8}"]
    lines += [
        f"{row['explorer']:<17} {row['moves']:>5} {row['median_ms']:>9.0f} {row['p95_ms']:>7.0f} "
        f"{row['open_ms']:>8.0f}"
        for row in found
    ]
    return "\n".join(lines)
