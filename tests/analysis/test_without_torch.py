"""Stored runs are analysed and drawn without torch."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process


def test_pictures_and_tables_do_not_import_torch():
    code = "import sys, fmlora_lab.plots, fmlora_lab.render.render; "
    code += "from fmlora_lab.analysis import latex, published, statements, tables; "
    done = subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"])
    assert done.returncode == 0
