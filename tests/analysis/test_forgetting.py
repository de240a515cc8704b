"""What a step of the stream took from the tasks before it, and how far the prompt went in it."""

from types import SimpleNamespace

import numpy as np
import pytest

from fmlora_lab.analysis.forgetting import lost, parts_of_forgetting
from fmlora_lab.analysis.prompt_drift import steps
from fmlora_lab.config import BadInput
from fmlora_lab.metrics import summary, told_apart
from fmlora_lab.runs.sweep import load_frame

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


# Task 1 is known best after task 2, task 2 when it is learned; with the task given task 1 falls by
# 4 from there and task 2 by 10.
BACK = [[70, NAN, NAN], [80, 90, NAN], [60, 50, 50]]
WITHIN = [[95, NAN, NAN], [90, 94, NAN], [86, 84, 90]]


def test_forgetting_is_loss_and_confusion_between_the_same_two_moments():
    assert parts_of_forgetting(BACK, WITHIN, [10, 10, 10]) == {"loss": 7, "confusion": 23}
    unequal = parts_of_forgetting(BACK, WITHIN, [30, 10, 99])
    assert unequal == pytest.approx({"loss": (3 * 4 + 10) / 4, "confusion": (3 * 16 + 30) / 4})


@pytest.mark.parametrize("head", ["trained", "lda", "ridge-carried"])
def test_the_parts_add_up_to_the_forgetting_of_stored_runs(head):
    for run in load_frame("demo", ["lora", "lilora", "linear-probe"]).run:
        a, within = run.matrices(head)
        images = run.result["test_images"]
        parts = parts_of_forgetting(a, within, images)
        assert sum(parts.values()) == pytest.approx(run.result["heads"][head]["forgetting"])
        assert sum(parts.values()) == pytest.approx(summary(a, images)["forgetting"])
        of_within = told_apart(within, a, images)["within_task_forgetting"]
        assert parts["loss"] <= of_within + 1e-9


def test_without_earlier_tasks_or_without_numbers_there_are_no_parts():
    assert parts_of_forgetting([[80]], [[90]], [10]) == {"loss": 0, "confusion": 0}
    nothing = np.full((3, 3), NAN)
    assert np.isnan([*parts_of_forgetting(nothing, nothing, [10, 10, 10]).values()]).all()


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
