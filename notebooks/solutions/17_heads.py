"""Solutions of lesson 17."""

import numpy as np


def confusion(a, within):
    return within[-1].mean() - a[-1].mean()


def nearest_mean(f, means):
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    return (f @ unit.T).argmax(axis=1)  # the length of f is the same for all classes


def ridge(h, y, lam):
    return np.linalg.solve(h.T @ h + lam * np.eye(h.shape[1]), h.T @ y)


def carried_mean(mean, D):
    return mean + np.append(mean, 1) @ D  # as drift moves any feature
