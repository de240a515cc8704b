"""The accuracy matrix and what is derived from it: docs/method.md, section 7. No torch here.

a[t, i] is the accuracy on task i's test images after learning task t, in percent; NaN where it was
not measured (i > t, and every row but the last for joint training).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]


def accuracy_matrix(correct: ArrayLike, counts: ArrayLike) -> Matrix:
    """a (N, N) in percent from correct answers (N, N), −1 where not measured, and images (N,)."""
    correct, counts = np.asarray(correct, float), np.asarray(counts, float)
    return np.where(correct < 0, np.nan, 100 * correct / counts)


def acc_over_time(a: Matrix, counts: ArrayLike) -> NDArray[np.float64]:
    """Acc_t (N,): correct / total over the images of all tasks seen after task t."""
    counts = np.asarray(counts, float)
    found = np.full(len(a), np.nan)
    for t in range(len(a)):
        if not np.isnan(a[t, : t + 1]).any():
            found[t] = np.average(a[t, : t + 1], weights=counts[: t + 1])
    return found


def summary(a: Matrix, counts: ArrayLike) -> dict[str, float | None]:
    """Acc, AAA, learning accuracy, forgetting and BWT in percent; None where undefined.

    Means over tasks count each by its images, but for `task_mean_acc`, where each counts once.
    """
    curve, images = acc_over_time(a, counts), np.asarray(counts, float)
    diagonal, last, n = np.diagonal(a), a[-1], len(a)
    best = np.array([a[i : n - 1, i].max() for i in range(n - 1)])
    values = {
        "acc": curve[-1],
        "aaa": curve.mean(),
        "learning_accuracy": np.average(diagonal, weights=images),
        "forgetting": _of_earlier(best - last[:-1], images),
        "bwt": _of_earlier(last[:-1] - diagonal[:-1], images),
        "task_mean_acc": last.mean(),
    }
    return {name: None if np.isnan(v) else float(v) for name, v in values.items()}


def _of_earlier(change: Matrix, images: Matrix) -> float:
    """The mean over all tasks but the last, by their images."""
    return float(np.average(change, weights=images[:-1])) if len(change) else 0.0


def told_apart(within: Matrix, a: Matrix, counts: ArrayLike) -> dict[str, float | None]:
    """Final accuracy with the task given, its forgetting, and what confusion between tasks takes.

    `within` (N, N) in percent has a_w[t, i], prediction among task i's classes alone. Confusion is
    a_w − a after the last task; both are means over all test images, as Acc is.
    """
    n, images = len(within), np.asarray(counts, float)
    best = np.array([within[i : n - 1, i].max() for i in range(n - 1)])
    final = np.average(within[-1], weights=images)
    values = {
        "within_task": final,
        "within_task_forgetting": _of_earlier(best - within[-1, :-1], images),
        "confusion": final - acc_over_time(a, counts)[-1],
    }
    return {name: None if np.isnan(v) else float(v) for name, v in values.items()}


def transfer(a: Matrix) -> dict[str, float | None]:
    """Transfer, Average and Last of a matrix that is measured above its diagonal too, in percent.

    Transfer is the mean over tasks j > 1 of their accuracy before they were learned, mean of
    a[i, j] over i < j; None where it was not measured.
    """
    n = len(a)
    ahead = np.mean([a[:j, j].mean() for j in range(1, n)]) if n > 1 else np.nan
    values = {"transfer": ahead, "average": a.mean(), "last": a[-1].mean()}
    return {name: None if np.isnan(v) else float(v) for name, v in values.items()}


def t_interval(values: Iterable[float]) -> tuple[float, float]:
    """95% t interval of the mean of values (n,), one a class order; NaN, NaN where n < 2."""
    from scipy.special import stdtrit  # where it is needed: explorers open sooner without it

    sample = np.fromiter(values, float)
    n = len(sample)
    if n < 2:
        return np.nan, np.nan
    half = float(stdtrit(n - 1, 0.975)) * sample.std(ddof=1) / n**0.5
    return float(sample.mean() - half), float(sample.mean() + half)


def paired_difference(a: ArrayLike, b: ArrayLike) -> tuple[float, float]:
    """Mean of a − b, both (n,) over the same class orders, and half its 95% t interval's width.

    The half-width is NaN where n < 2.
    """
    gaps = np.asarray(a, float) - np.asarray(b, float)
    low, high = t_interval(gaps)
    return float(gaps.mean()), (high - low) / 2
