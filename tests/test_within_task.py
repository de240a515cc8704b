"""Accuracy with the task given, and confusion between tasks (docs/method.md, section 10)."""

import pytest

from fmlora_lab.metrics import accuracy_matrix, told_apart

pytestmark = pytest.mark.unit


def test_confusion_is_what_is_lost_because_nobody_says_the_task():
    """Two tasks of 10 and 30 images."""
    counts = [10, 30]
    within = accuracy_matrix([[9, -1], [8, 24]], counts)
    a = accuracy_matrix([[9, -1], [5, 18]], counts)
    found = told_apart(within, a, counts)
    assert found["within_task"] == pytest.approx(100 * 32 / 40)
    assert found["within_task_forgetting"] == pytest.approx(10)
    assert found["confusion"] == pytest.approx(100 * (32 - 23) / 40)
    nothing = told_apart(accuracy_matrix([[-1] * 2] * 2, counts), a, counts)
    assert set(nothing.values()) == {None}
