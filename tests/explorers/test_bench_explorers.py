"""The benchmark moves every slider of every explorer; how long that takes is not tested."""

from itertools import pairwise

import pytest

from fmlora_lab import explorers
from fmlora_lab.bench_explorers import MODULES, measure, to_text
from fmlora_lab.plots.kept import Kept


def test_every_explorer_is_measured():
    assert sorted(MODULES) == sorted(explorers.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_each_move_is_a_new_picture(name, monkeypatch):
    drawn, png = [], Kept.png
    monkeypatch.setattr(Kept, "png", lambda self: drawn.append(png(self)) or drawn[-1])
    found = measure(name, 6)
    assert len(drawn) == 7 and all(a != b for a, b in pairwise(drawn))
    assert list(found) == ["explorer", "moves", "median_ms", "p95_ms", "open_ms"]
    assert found["moves"] == 6 and 0 < found["median_ms"] <= found["p95_ms"]
    assert name in to_text([found])
