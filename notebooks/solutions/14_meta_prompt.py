"""Solutions of lesson 14."""

import numpy as np


def sequence_length(patches, m):
    return 1 + m + patches  # [CLS] is the one


def prompt_numbers(m, d, n_tasks):
    return m * d  # one prompt for all tasks


def insert(cls, P, patches):
    return np.concatenate([cls, P, patches])
