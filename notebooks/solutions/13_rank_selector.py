"""Solutions of lesson 13."""

import numpy as np


def probabilities(w, H, tau):
    odds = np.exp(w * H / tau)
    return odds / odds.sum()


easy_rank = 8  # H multiplies every score alike, so the largest w wins, however easy the task


def score(H, w, r, r_max, cost, tau):
    return (w * H - cost * r / r_max) / tau
