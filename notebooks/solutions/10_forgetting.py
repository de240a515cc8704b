"""Solutions of lesson 10."""

import numpy as np

guessing = 100 / 30  # one class in thirty is right


def learning_accuracy(a):
    return np.diagonal(a).mean()


def forgetting(a):
    best = [a[i:-1, i].max() for i in range(len(a) - 1)]  # from when it was learned on
    return np.mean(best - a[-1, :-1])
