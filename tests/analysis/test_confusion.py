"""Counts of what was called what, by hand."""

import numpy as np
import pytest

from fmlora_lab.analysis.confusion import confusion, first_wrong

pytestmark = pytest.mark.unit


def test_rows_are_classes_and_columns_what_they_are_called():
    found = confusion(np.array([0, 2, 2, 1, 0]), np.array([0, 0, 2, 2, 0]), 3)
    assert found.tolist() == [[2, 0, 1], [0, 0, 0], [0, 1, 1]]


def test_the_first_wrong_answer_counts_even_if_it_was_mended():
    said = [np.array([0, 1]), np.array([1, 1, 2]), np.array([0, 1, 1])]
    assert first_wrong(said, np.array([0, 1, 2])).tolist() == [1, -1, 2]
