"""What test images were called after each task, against what they are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def confusion(said: Numbers, labels: Numbers, classes: int) -> Numbers:
    """How many images of each class (rows) were called each class (columns), (K, K); `said` and
    `labels` (n,) are class numbers below K = `classes`."""
    return np.bincount(labels * classes + said, minlength=classes**2).reshape(classes, classes)


def first_wrong(said: Sequence[Numbers], labels: Numbers) -> Numbers:
    """Of each image (n,) the task, from 0, after which it was first called another class; −1 of
    one that never was. `said[t]` (n_t,) are the classes after task t of the images tested then,
    which are the first n_t."""
    found = np.full(len(labels), -1)
    for t, classes in enumerate(said):
        wrong = classes != labels[: len(classes)]
        new = np.flatnonzero(wrong & (found[: len(classes)] < 0))
        found[new] = t
    return found
