"""Write copies of all notebooks, with the smoke profile filled in, into the folder named first.

`make test` lets nbmake execute them there; their runs and results stay in that folder.
"""

import sys

from fmlora_lab.render import prepare

for copy in prepare(["all"], {"profile": "smoke", "runs_dir": "runs"}, sys.argv[1]):
    print(f"prepared {copy}")
