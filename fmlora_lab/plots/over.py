"""A sweep over one setting, drawn in one call: the frame knows values, labels and draws."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from fmlora_lab.config import BadInput, some, title_of
from fmlora_lab.plots.dots import dots
from fmlora_lab.plots.lines import lines
from fmlora_lab.plots.sheet import Width

if TYPE_CHECKING:
    from pandas import DataFrame

LOG_FROM = 8
"""Positive values are drawn on a logarithmic axis where the largest is so many times the least."""


def over(found: "DataFrame", axis: str, value: str = "acc", width: Width | None = None) -> Figure:
    """`value`, a number of the runs, against the setting `axis` that a grid moved, a line for each
    combination of the grid's other labels; a row a value where the values are no numbers. Means of
    class orders, or of what else was drawn anew, with their 95% t intervals.

        found = sweep(grid("demo", seed=[0, 1], **{"method.basis_rank": [8, 16, 32]}))
        plots.over(found, "method.basis_rank")

    BadInput for a label or a number that the runs do not have.
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    from fmlora_lab.analysis.standing import of_draws
    from fmlora_lab.analysis.tables import HEADINGS
    from fmlora_lab.runs.frame import DRAWS, along, is_number

    labels = [name for name in found if not is_number(name)]
    known = [n for n in found.dropna(axis="columns", how="all") if is_number(n) and n != "run"]
    for what, name, having in (("label", axis, labels), ("number", value, known)):
        if name not in having:
            raise BadInput(f"the runs have no {what} {name!r}; they have {some(having, 40)}")
    own = found[axis]
    numeric = is_numeric_dtype(own) and not is_bool_dtype(own) and bool(own.notna().all())
    if not numeric:
        found = found.assign(**{axis: own.map(str)})
    at = sorted(found[axis].unique()) if numeric else list(found[axis].unique())
    told, heading = {axis, *DRAWS}, HEADINGS.get(value, value)
    others = [n for n in labels if n not in told and len(found[n].unique()) > 1]
    if others or axis != "method":
        names = found[others or ["method"]].astype(str).agg(" · ".join, axis=1)
    else:  # which the rows say
        names = found[axis].map(lambda _: heading)
    named = found.assign(name=names)
    values = {name: along(named, value, axis, at, name=name) for name in names.unique()}
    title = f"{heading} {_range(values, at)}{of_draws(found)}"
    if numeric:
        log = min(at) > 0 and max(at) / min(at) >= LOG_FROM
        curves = {name: (at, y) for name, y in values.items()}
        return lines(curves, axis, heading, title, log_x=log, width=width)
    rows = {str(place): {name: y[:, k] for name, y in values.items()} for k, place in enumerate(at)}
    return dots(rows, heading, title, width=width)


def _range(values: dict[str, np.ndarray], at: list) -> str:
    """The lowest mean and the highest, and where they are."""
    means = {
        (name, place): mean
        for name, y in values.items()
        for place, mean in zip(at, np.nanmean(y, axis=0), strict=True)
        if not np.isnan(mean)
    }
    ends = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    said = [
        f"{means[end]:,.1f} ({title_of(end[0])} at {title_of(str(end[1]))})"
        if len(values) > 1
        else f"{means[end]:,.1f} (at {title_of(str(end[1]))})"
        for end in ends
    ]
    return f"from {said[0]} to {said[1]}" if said[0] != said[1] else said[0]
