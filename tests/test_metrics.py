"""Every figure against matrices worked out by hand (docs/method.md, section 7)."""

import math

import numpy as np
import pytest

from fmlora_lab.metrics import (
    acc_over_time,
    accuracy_matrix,
    paired_difference,
    summary,
    t_interval,
    transfer,
)

pytestmark = pytest.mark.unit

NAN = math.nan
# Three tasks. Task 1 falls from 90 to 60 and recovers to 70; task 2 from 80 to 50.
A = np.array([[90.0, NAN, NAN], [60.0, 80.0, NAN], [70.0, 50.0, 100.0]])


def test_the_matrix_is_in_percent_with_nan_where_nothing_was_measured():
    found = accuracy_matrix([[9, -1], [0, 5]], [10, 20])
    np.testing.assert_array_equal(found, [[90.0, NAN], [0.0, 25.0]])


def test_hand_computed_summary_of_equal_tasks():
    # Acc_t: 90; (60 + 80) / 2 = 70; (70 + 50 + 100) / 3 = 73.33
    counts = [10, 10, 10]
    np.testing.assert_allclose(acc_over_time(A, counts), [90, 70, 220 / 3])
    assert summary(A, counts) == pytest.approx(
        {
            "acc": 220 / 3,
            "aaa": (90 + 70 + 220 / 3) / 3,
            "learning_accuracy": (90 + 80 + 100) / 3,
            "forgetting": ((90 - 70) + (80 - 50)) / 2,
            "bwt": ((70 - 90) + (50 - 80)) / 2,
            "task_mean_acc": 220 / 3,
        }
    )


def test_accuracy_counts_images_where_tasks_are_unequal():
    # 10, 20 and 70 images: Acc_2 = (6 + 16) / 30, Acc_3 = (7 + 10 + 70) / 100
    found = summary(A, [10, 20, 70])
    np.testing.assert_allclose(acc_over_time(A, [10, 20, 70]), [90, 2200 / 30, 87])
    assert found["acc"] == pytest.approx(87)
    assert found["aaa"] == pytest.approx((90 + 2200 / 30 + 87) / 3)
    assert found["task_mean_acc"] == pytest.approx(220 / 3)  # every task counts once
    assert found["learning_accuracy"] == pytest.approx((9 + 16 + 70) / 1)
    assert found["forgetting"] == pytest.approx((10 * 20 + 20 * 30) / 30)
    assert found["bwt"] == pytest.approx(-(10 * 20 + 20 * 30) / 30)


def test_forgetting_is_from_the_best_before_the_end_and_bwt_from_the_diagonal():
    # Task 1 was best after task 2 (80), not when it was learned (50); task 2 gains at the end.
    a = np.array([[50.0, NAN, NAN], [80.0, 40.0, NAN], [70.0, 60.0, 90.0]])
    found = summary(a, [10, 10, 10])
    assert found["forgetting"] == pytest.approx(((80 - 70) + (40 - 60)) / 2)
    assert found["bwt"] == pytest.approx(((70 - 50) + (60 - 40)) / 2)


def test_one_task_forgets_nothing():
    found = summary(np.array([[85.0]]), [20])
    assert found == pytest.approx(
        {"acc": 85, "aaa": 85, "learning_accuracy": 85, "forgetting": 0, "bwt": 0,
         "task_mean_acc": 85}
    )  # fmt: skip


def test_joint_training_has_a_last_row_alone_and_what_needs_more_is_none():
    a = accuracy_matrix([[-1, -1, -1], [-1, -1, -1], [7, 5, 10]], [10, 10, 20])
    found = summary(a, [10, 10, 20])
    assert found["acc"] == pytest.approx(55)
    assert found["task_mean_acc"] == pytest.approx((70 + 50 + 50) / 3)
    for name in ("aaa", "learning_accuracy", "forgetting", "bwt"):
        assert found[name] is None
    np.testing.assert_array_equal(acc_over_time(a, [10, 10, 20]), [NAN, NAN, 55])


def test_summary_is_plain_floats():
    assert {type(value) for value in summary(A, [1, 1, 1]).values()} == {float}


def test_transfer_of_a_full_matrix():
    # Transfer: task 2 before it came: 30; task 3: (10 + 20) / 2 = 15; their mean is 22.5.
    a = np.array([[90.0, 30.0, 10.0], [60.0, 80.0, 20.0], [70.0, 50.0, 100.0]])
    assert transfer(a) == pytest.approx(
        {"transfer": 22.5, "average": (130 + 160 + 220) / 9, "last": 220 / 3}
    )


def test_what_was_not_measured_ahead_has_no_transfer():
    assert transfer(A) == {"transfer": None, "average": None, "last": pytest.approx(220 / 3)}
    assert transfer(np.array([[85.0]])) == {"transfer": None, "average": 85.0, "last": 85.0}


@pytest.mark.parametrize(
    ("values", "half"),
    [  # tabulated quantiles t(0.975, n - 1): 12.706, 4.303, 2.776
        ([40, 48], 12.7062 * 32**0.5 / 2**0.5),
        ([40, 44, 48], 4.30265 * 4 / 3**0.5),
        ([70.1, 72.4, 69.0, 71.3, 73.9], 2.77645 * np.std([70.1, 72.4, 69, 71.3, 73.9]) / 2),
    ],
)
def test_the_t_interval_is_that_of_the_tables(values, half):
    low, high = t_interval(values)
    assert (low + high) / 2 == pytest.approx(np.mean(values))
    assert (high - low) / 2 == pytest.approx(half, rel=1e-5)


def test_the_t_interval_holds_the_mean_95_times_of_100_also_of_three_values():
    draws = np.random.default_rng(0).normal(50, 3, (4000, 3))
    held = [low < 50 < high for low, high in map(t_interval, draws)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_one_value_has_no_interval_and_equal_ones_have_one_of_no_width():
    assert np.isnan(t_interval([61.5])).all()
    assert t_interval([61.5, 61.5, 61.5]) == (61.5, 61.5)


def test_a_paired_difference_does_not_see_what_both_share():
    shared = np.array([10.0, 50.0, 30.0, 70.0])
    mean, half = paired_difference(shared + np.array([2, 3, 2, 3]), shared)
    assert mean == 2.5 and half == pytest.approx(3.18245 * 3**-0.5 / 2, rel=1e-5)
    (a, b), (c, d) = t_interval(shared + 2.5), t_interval(shared)
    assert b - a > 30 < d - c, "apart, neither interval would tell them from each other"
    alone = paired_difference([52.0], [50.0])
    assert alone[0] == 2 and np.isnan(alone[1])
