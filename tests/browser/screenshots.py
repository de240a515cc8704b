"""The README's pictures of the explorers, from the pages of `make explore`:
`make screenshots`, or `python tests/browser/screenshots.py FOLDER` from the project's folder.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from fmlora_lab.explorers import pages
from fmlora_lab.perf import browser

with TemporaryDirectory() as folder:
    written = pages.write(Path(folder))
    command = (sys.executable, "-m", "voila", folder, "--no-browser", "--port={port}")
    with browser.chromium([]) as page, browser.serving(*command, ready="") as address:
        for notebook in written:
            page.goto(address(f"voila/render/{notebook.name}"))
            page.wait_for_selector("img.widget-image")
            page.wait_for_load_state("networkidle")
            explorer = page.locator(".jp-OutputArea-output .widget-vbox").first
            out = Path(sys.argv[1], f"explorer_{notebook.stem[3:]}.png")
            explorer.screenshot(path=out)
            print(out)
