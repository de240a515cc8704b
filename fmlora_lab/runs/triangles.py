"""Symmetric tables, written once: their upper triangle, row by row, in the place of the whole.

Relations of every two tasks are most of what ships; nothing of them is lost.
"""

from math import isqrt
from typing import Any

import numpy as np

from fmlora_lab.runs.folder import Arrays

UPPER = "upper triangle"


def folded(content: Any) -> Any:
    """JSON in which a symmetric list of N lists of N is {UPPER: N (N + 1) / 2 values}."""
    if isinstance(content, dict):
        return {name: folded(value) for name, value in content.items()}
    if isinstance(content, list) and _symmetric(content):
        return {UPPER: [value for i, row in enumerate(content) for value in row[i:]]}
    return content


def unfolded(content: Any) -> Any:
    """What `folded` was given."""
    if not isinstance(content, dict):
        return content
    if content.keys() == {UPPER}:
        values = content[UPPER]
        places = _whole(np.arange(len(values)))
        return [[values[place] for place in row] for row in places]
    return {name: unfolded(value) for name, value in content.items()}


def folded_arrays(arrays: Arrays) -> Arrays:
    """Arrays of which the symmetric ones (N, N) are `UPPER.name` (N (N + 1) / 2,)."""
    alike = {name: a for name, a in arrays.items() if a.ndim == 2 and np.array_equal(a, a.T)}
    upper = {f"{UPPER}.{name}": a[np.triu_indices(len(a))] for name, a in alike.items()}
    return {name: a for name, a in arrays.items() if name not in alike} | upper


def unfolded_arrays(arrays: Arrays) -> Arrays:
    """What `folded_arrays` was given."""
    start = f"{UPPER}."
    return {
        name.removeprefix(start): _whole(array) if name.startswith(start) else array
        for name, array in arrays.items()
    }


def _symmetric(table: list[Any]) -> bool:
    square = all(isinstance(row, list) and len(row) == len(table) for row in table)
    return bool(table) and square and table == [list(column) for column in zip(*table, strict=True)]


def _whole(upper: np.ndarray) -> np.ndarray:
    """The symmetric table (N, N) of an upper triangle."""
    n = (isqrt(8 * len(upper) + 1) - 1) // 2
    table = np.empty((n, n), upper.dtype)
    i, j = np.triu_indices(n)
    table[i, j] = table[j, i] = upper
    return table
