"""Solutions of lesson 16."""

import numpy as np


def shares(f, g, s):
    f = f / np.linalg.norm(f, axis=1, keepdims=True)
    g = g / np.linalg.norm(g, axis=1, keepdims=True)
    scores = np.exp(s * f @ g.T)
    return scores / scores.sum(axis=1, keepdims=True)


def transfer(a):
    before = [a[:j, j].mean() for j in range(1, len(a))]  # of each script, until it is learned
    return np.mean(before)


def merged(U, V, counts, m):
    most = np.argsort(-counts)[:m]
    return U[:, most] @ V[:, most].T / len(counts)
