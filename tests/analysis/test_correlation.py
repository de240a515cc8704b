"""Rank correlations are scipy's, and their intervals those of the formula."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from fmlora_lab.analysis.correlation import correlation

pytestmark = pytest.mark.unit
X, Y = [1.0, 2, 3, 4, 5, 6, 7, 8], [2.0, 1, 4, 3, 7, 7, 6, 8]


def test_rho_is_spearman_s_with_ties():
    assert correlation(X, Y).rho == pytest.approx(spearmanr(X, Y).statistic, abs=1e-12)


def test_the_interval_is_bonett_and_wright_s():
    found = correlation(X, Y)
    half = 1.959964 * ((1 + found.rho**2 / 2) / 5) ** 0.5
    low, high = np.tanh(np.arctanh(found.rho) + half * np.array([-1, 1]))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
    assert found.apart and found.n == 8


def test_a_correlation_of_nothing_is_told_from_none():
    noise = correlation([1, 2, 3, 4, 5, 6], [2, 6, 1, 5, 4, 3])
    assert noise.low < 0 < noise.high and not noise.apart


def test_pairs_with_a_gap_are_left_out():
    assert correlation([*X, np.nan, 9], [*Y, 0, np.nan]) == correlation(X, Y)


@pytest.mark.parametrize("x", [[1.0, 1, 1, 1, 1, 1], [np.nan] * 6])
def test_what_does_not_vary_goes_with_nothing(x):
    found = correlation(x, range(6))
    assert np.isnan(found.rho) and not found.apart
    assert str(found) == "–"


def test_few_points_have_no_interval_and_perfect_order_one_of_a_point():
    few = correlation([1, 2, 3, 4], [1, 2, 4, 3])
    assert np.isnan(few.low) and str(few) == "+0.80"
    whole = correlation(X, X)
    assert (whole.rho, whole.low, whole.high) == (1, 1, 1)


def test_readers_see_a_minus_and_the_interval():
    assert str(correlation(X, [-y for y in Y])).startswith("−0.")
