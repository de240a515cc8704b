"""What was lost of each task while each later one was learned: an accuracy matrix, step by step."""

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
