"""The documentation's pictures of the explorers, from the pages of `make explore`:
`make screenshots`, or `python tests/browser/screenshots.py FOLDER` from the project's folder.

Those of a usual window lie in FOLDER, those of a class-room's screen in build/screenshots/, to be
looked at.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from fmlora_lab.explorers import pages
from fmlora_lab.explorers.features import kept_of, offered_or_trained
from fmlora_lab.perf import browser

LARGE = Path("build/screenshots")
SIZES = {(1280, 800): sys.argv[1], (1920, 1080): LARGE}
BEGIN = {"45_features": "&block=2&after=7"}
"""Where there is more to see than where a page begins."""

kept_of(next(iter(offered_or_trained(None).values())))
LARGE.mkdir(parents=True, exist_ok=True)
with TemporaryDirectory() as folder:
    written = pages.write(Path(folder))
    os.environ["JUPYTER_PATH"] = f"{folder}/.share"
    command = (sys.executable, "-m", "voila", folder, "--no-browser", "--port={port}")
    own = (f"--template={pages.TEMPLATE}",)
    with browser.chromium([]) as page, browser.serving(*command, *own, ready="") as address:
        for (width, height), into in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            for notebook in written:
                asked = BEGIN.get(notebook.stem, "")
                page.goto(address(f"voila/render/{notebook.name}") + asked)
                page.wait_for_selector(".fml-stage:not(.fml-waits)")
                page.wait_for_load_state("networkidle")
                out = Path(into, f"explorer_{notebook.stem[3:]}.png")
                page.screenshot(path=out)
                print(out)
