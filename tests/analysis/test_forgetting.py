"""What a step of the stream took from the tasks before it, and how far the prompt went in it."""

from types import SimpleNamespace

import numpy as np
import pytest

from fmlora_lab.analysis.forgetting import lost
from fmlora_lab.analysis.prompt_drift import steps
from fmlora_lab.config import BadInput

pytestmark = pytest.mark.unit

NAN = np.nan
A = [[80, NAN, NAN], [70, 90, NAN], [75, 60, 50]]


def test_a_task_loses_what_the_next_row_of_the_matrix_has_less():
    np.testing.assert_array_equal(lost(A), [[NAN] * 3, [10, NAN, NAN], [-5, 30, NAN]])


def test_tasks_that_were_tested_before_they_came_lose_nothing():
    ahead = np.where(np.isnan(A), 12.0, A)
    np.testing.assert_array_equal(lost(ahead), lost(A))


def test_one_task_loses_nothing():
    assert np.isnan(lost([[80]])).all()


def a_run(tokens: int = 2) -> SimpleNamespace:
    """Stands for a stored run of three tasks with two tokens of width 2."""
    P = np.array([[[3, 0], [0, 4]], [[3, 0], [0, 9]], [[0, 0], [0, 0]]], np.float16)
    return SimpleNamespace(
        id="abc",
        config={"method": {"prompt": {"tokens": tokens}}},
        result={"task_files": 3},
        accuracy_matrix=np.array(A),
        task=lambda t: {"prompts": P[t]},
    )


def test_a_step_is_how_far_the_prompt_went_and_what_earlier_tasks_lost_meanwhile():
    found = steps(a_run())
    np.testing.assert_allclose(found.drift, [5 / 5, 1])
    np.testing.assert_allclose(found.lost, [10, 12.5])


def test_a_run_without_a_prompt_has_no_steps_of_it():
    with pytest.raises(BadInput, match="run abc has no meta-prompt"):
        steps(a_run(tokens=0))
