"""What was lost of each task: step by step, and how much of it is lost with the task given."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def lost(accuracy_matrix: ArrayLike) -> NDArray[np.float64]:
    """L[t, i] = a[t − 1, i] − a[t, i] in points, (N, N): of task i < t while t was learned; NaN
    elsewhere. `accuracy_matrix` is a (N, N), row t measured after task t; less than 0 is a gain.
    """
    a = np.asarray(accuracy_matrix, float)
    found = np.full(a.shape, np.nan)
    found[1:] = a[:-1] - a[1:]
    found[np.triu_indices(len(a))] = np.nan
    return found


def parts_of_forgetting(a: ArrayLike, within: ArrayLike, images: ArrayLike) -> dict[str, float]:
    """Forgetting in two parts, `loss` and `confusion`, in points, which add up to it; NaN where it
    is not defined.

    `a` and `within` (N, N) in percent are measured among all classes seen and with the task given,
    `images` (N,) are test images a task. Between the moment t at which task i < N was known best,
    the first of several, and the end

        a[t, i] − a[N, i]  =  (a_w[t, i] − a_w[N, i])  +  (c[N, i] − c[t, i])        c = a_w − a

    The first part is lost with the task given too; the second is what more is taken for classes of
    other tasks. Means are over earlier tasks, by their images. Loss is at most the forgetting of
    `within`, which counts from the best moment of its own.
    """
    a, within = np.asarray(a, float), np.asarray(within, float)
    earlier = np.arange(len(a) - 1)
    if not len(earlier):
        return {"loss": 0.0, "confusion": 0.0}
    best = np.array([i + a[i:-1, i].argmax() for i in earlier])
    fallen = a[best, earlier] - a[-1, :-1]
    loss = within[best, earlier] - within[-1, :-1]
    weights = np.asarray(images, float)[:-1]
    parts = {"loss": loss, "confusion": fallen - loss}
    return {name: float(np.average(part, weights=weights)) for name, part in parts.items()}
