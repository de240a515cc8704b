"""What the lab checks of its own methods asks nothing of another's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

TESTS = Path(__file__).parent
CHECKS = ["test_config.py", "test_tuning.py", "methods/test_golden.py", "runs/test_shipped.py"]


def test_a_method_and_a_head_of_others_have_to_ship_nothing():
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "newcomer", *(str(TESTS / file) for file in CHECKS)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
