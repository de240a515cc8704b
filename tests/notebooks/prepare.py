"""Write copies of all notebooks, with the smoke profile filled in, into the folder named first.

Lessons take no parameters and leave no results: their copies are as they are.
`make test` lets nbmake execute them there; their runs and results stay in that folder.
"""

import shutil
import sys
from ast import literal_eval
from pathlib import Path
from typing import Any

import papermill

from fmlora_lab.render.notebooks import prepare, select

FEW = ("fm-lora", "lora", "full", "prototypes")
"""Of the methods of a notebook: enough to see every path work."""
WHOLE = ("00_quickstart", "27_interference")
"""Notebooks that are about their own few methods."""


def smoke(path: Path) -> dict[str, Any]:
    """A notebook's parameters for the quickest training of one seed, as far as it has them."""
    known = papermill.inspect_notebook(path)
    one = dict.fromkeys(("orders", "seeds", "trial_orders", "trials"), 1)
    filled = {"profile": "smoke", "runs_dir": "runs", **one}
    if "methods" in known and path.stem not in WHOLE:
        own = literal_eval(known["methods"]["default"]) or FEW  # None: all there are
        filled["methods"] = [name for name in own if name in FEW]
    return {name: value for name, value in filled.items() if name in known}


if __name__ == "__main__":
    for path in select(["all"]):
        print(f"prepared {prepare([path.stem], smoke(path), sys.argv[1])[0]}")
    for lesson in sorted(Path("notebooks").glob("1?_*.ipynb")):
        print(f"prepared {shutil.copy(lesson, sys.argv[1])}")
