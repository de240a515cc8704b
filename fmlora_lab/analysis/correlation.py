"""Whether two measures of methods go together: Spearman's rank correlation with its interval.

    ρ = r(ranks of x, ranks of y)        interval: tanh(artanh ρ ± z √((1 + ρ²/2) / (n − 3)))

The interval: Bonett and Wright 2000, "Sample size requirements for estimating Pearson, Kendall and
Spearman correlations", Psychometrika 65. Methods are not draws from a population, so that it says
how far so few points can be trusted, and no more.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri
from scipy.stats import rankdata

FEWEST = 5
"""Points without which there is no interval to speak of."""


class Correlation(NamedTuple):
    """ρ, its 95% interval, and of how many points; NaN where one side does not vary, no interval
    (NaN) of fewer than `FEWEST`."""

    rho: float
    low: float
    high: float
    n: int

    @property
    def apart(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        """`+0.62 (+0.24 to +0.84)`, as readers see it."""
        if np.isnan(self.rho):
            return "–"
        said = f"{self.rho:+.2f}"
        if not np.isnan(self.low):
            said += f" ({self.low:+.2f} to {self.high:+.2f})"
        return said.replace("-", "−")


def correlation(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Of x (n,) with y (n,); pairs with a NaN are left out."""
    pairs = np.column_stack([np.ravel(x), np.ravel(y)]).astype(float)
    a, b = pairs[~np.isnan(pairs).any(axis=1)].T
    n = len(a)
    if n < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Correlation(np.nan, np.nan, np.nan, n)
    rho = float(np.corrcoef(rankdata(a), rankdata(b))[0, 1].clip(-1, 1))
    if n < FEWEST:
        return Correlation(rho, np.nan, np.nan, n)
    with np.errstate(divide="ignore"):
        middle = np.arctanh(rho)  # infinite at ±1, where the interval is that point
    half = ndtri(0.975) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    return Correlation(rho, float(np.tanh(middle - half)), float(np.tanh(middle + half)), n)
