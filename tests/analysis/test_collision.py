"""The collision rate by hand, what it does not depend on, and what is kept of it."""

import numpy as np
import pytest
from analysis.test_overlap import D, N, stand_in

from fmlora_lab.analysis.collision import (
    LEAST,
    collision_rate,
    collision_rates,
    known_rates,
    mean_collision_rate,
    touched,
)
from fmlora_lab.analysis.overlap import weights
from fmlora_lab.config import BadInput

pytestmark = pytest.mark.unit


def update(*entries: tuple[int, int], size: float = 1.0):
    """An update of a weight (4, 5) that has these entries and no other."""
    U, V = np.zeros((4, len(entries))), np.zeros((5, len(entries)))
    for k, (row, column) in enumerate(entries):
        U[row, k], V[column, k] = size, -1.0
    return U, V


def test_it_is_the_share_of_the_entries_that_both_have():
    one, other = update((0, 0), (1, 2), (3, 4)), update((1, 2), (3, 4), (2, 2), (0, 1))
    assert touched(one).sum() == 3
    assert collision_rate(one, other) == collision_rate(other, one) == 2 / 20
    assert collision_rate(one, one) == 3 / 20
    assert collision_rate(one, update((2, 0))) == 0


def test_it_does_not_depend_on_size_and_an_update_of_zero_meets_nothing():
    one, other = update((0, 0), (1, 2)), update((1, 2), (3, 4), size=1e-9)
    assert collision_rate(one, other) == 1 / 20
    nothing = np.zeros((4, 2)), np.ones((5, 2))
    assert collision_rate(one, nothing) == collision_rate(nothing, nothing) == 0


def test_an_entry_up_to_a_hundredth_of_the_largest_is_none():
    (U, V), full = update((0, 0), (1, 1)), (np.ones((4, 1)), np.ones((5, 1)))
    for size, entries in ((0.99 * LEAST, 1), (1.01 * LEAST, 2)):
        assert collision_rate((U * [1, size], V), full) == entries / 20


def test_of_a_run_it_is_that_of_every_weight_and_every_two_tasks():
    run = stand_in("attn.qkv", "mlp.fc1", rows=3 * D)
    of, found = weights(run), collision_rates(run)
    assert list(found) == list(of[0])
    for weight, table in found.items():
        assert table.dtype == np.float32  # what is stored is small
        wanted = [[collision_rate(a[weight], b[weight]) for b in of] for a in of]
        np.testing.assert_allclose(table, wanted, rtol=1e-6)
        np.testing.assert_array_equal(known_rates(run, weight), table)
    off = ~np.eye(N, dtype=bool)
    assert mean_collision_rate(run) == pytest.approx(np.mean([t[off] for t in found.values()]))
    assert 0.5 < mean_collision_rate(run) < 1


def test_of_a_run_that_came_without_it_nothing_is_known():
    def refuse(name, compute):
        raise BadInput("shipped without its trained factors")

    run = stand_in("attn.qkv", "mlp.fc1", rows=3 * D)
    run.derived_arrays = refuse
    assert np.isnan(known_rates(run, "blocks.1.attn.q")).all()
    with pytest.raises(BadInput, match="shipped"):
        mean_collision_rate(run)
