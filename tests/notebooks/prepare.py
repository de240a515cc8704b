"""Write copies of all notebooks, with the smoke profile filled in, into the folder named first.

Lessons take no parameters and leave no results: their copies are as they are.
`make test` lets nbmake execute them there; their runs and results stay in that folder.
"""

import shutil
import sys
from pathlib import Path

from fmlora_lab.render import prepare

for copy in prepare(["all"], {"profile": "smoke", "runs_dir": "runs"}, sys.argv[1]):
    print(f"prepared {copy}")
for lesson in sorted(Path("notebooks").glob("1?_*.ipynb")):
    print(f"prepared {shutil.copy(lesson, sys.argv[1])}")
