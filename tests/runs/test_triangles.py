"""Symmetric tables go in by half and come out whole."""

import numpy as np
import pytest

from fmlora_lab.runs.triangles import UPPER, folded, folded_arrays, unfolded, unfolded_arrays

pytestmark = pytest.mark.unit

TABLE = [[1.0, 2.5, None], [2.5, 0, "x"], [None, "x", 3]]
CONTENT = {
    "of": {"a": TABLE, "b": [[7.0]]},
    "slanted": [[1, 2], [3, 4]],
    "wide": [[1, 1, 1], [1, 1, 1]],
    "ragged": [[1, 2], 2],
    "plain": [1, 2, 3],
    "none": [],
    "word": "upper",
}


def test_a_symmetric_table_is_its_upper_triangle_and_all_else_is_left():
    found = folded(CONTENT)
    upper = {"a": {UPPER: [1.0, 2.5, None, 0, "x", 3]}, "b": {UPPER: [7.0]}}
    assert found == {**CONTENT, "of": upper}


def test_what_was_folded_comes_back_as_it_was():
    assert unfolded(folded(CONTENT)) == CONTENT
    assert unfolded(CONTENT) == CONTENT


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.bool_])
def test_arrays_come_back_to_the_bit(dtype):
    drawn = np.random.default_rng(0).normal(size=(4, 4, 4)).astype(dtype)
    symmetric = drawn[0] + drawn[0].T
    arrays = {
        "sym": symmetric,
        "any": drawn[1],
        "row": drawn[0, :1],
        "deep": drawn,
        "flat": drawn[0, 0],
    }
    small = folded_arrays(arrays)
    assert small[f"{UPPER}.sym"].shape == (10,) and "sym" not in small
    there = unfolded_arrays(small)
    assert there.keys() == arrays.keys()
    for name, array in arrays.items():
        assert there[name].dtype == dtype
        np.testing.assert_array_equal(there[name], array, strict=True)
