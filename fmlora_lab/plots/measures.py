"""Many measures of methods against a few outcomes, on one page: which go together?"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fmlora_lab.config import title_of
from fmlora_lab.plots.point_labels import name_points
from fmlora_lab.plots.sheet import (
    PAGE,
    TINY,
    Width,
    drawn,
    family_keys,
    finish,
    inches,
    open_over_grid,
    panels,
    spread_out,
)
from fmlora_lab.plots.style import INK, styles

if TYPE_CHECKING:
    from pandas import DataFrame


def measures(
    table: "DataFrame",
    across: Mapping[str, str],
    down: Mapping[str, str],
    notes: Mapping[tuple[str, str], str],
    title: str,
    named: Sequence[str] = (),
    chance: Mapping[str, float] = {},
    width: Width | None = None,
) -> Figure:
    """A panel for every column of `across` (measures) and of `down` (outcomes) of a table with a
    row a method: a mark a method, left out where one of the two is NaN.

    `across` and `down` give the axis labels; `notes`, by (measure, outcome), what stands above a
    panel, such as a correlation; methods in `named` have their name beside their mark. `chance`
    gives what a measure would be by chance: a dotted line. Measures stand side by side, as wide
    as a column below each other.
    """
    looks = styles(table.index)
    broad = inches(width, PAGE)
    if broad < PAGE:
        figure, axes = panels(len(across), len(down), broad, 0.4 + 1.5 * len(across), sharey="col")
        axes = axes.T
    else:
        figure, axes = panels(
            len(down), len(across), broad, 0.4 + 1.6 * len(down), sharex="col", sharey="row"
        )
    for row, outcome in zip(axes, down, strict=True):
        for axis, measure in zip(row, across, strict=True):
            open_over_grid(axis)
            points = table[[measure, outcome]].dropna()
            for method, (x, y) in zip(points.index, points.to_numpy(float), strict=True):
                axis.plot(x, y, **drawn({**looks[method], "linestyle": "none"}))
            spread_out(axis, points[measure])
            if measure in chance:
                axis.axvline(chance[measure], color=INK, linestyle=":", linewidth=1, zorder=0)
            axis.margins(0.12)
            axis.annotate(
                notes.get((measure, outcome), ""), (0, 1), (0, 3), "axes fraction",
                "offset points", fontsize=TINY, color=INK,
            )  # fmt: skip
        for axis in row if broad < PAGE else row[:1]:
            axis.set_ylabel(down[outcome])
    for row in axes if broad < PAGE else axes[-1:]:
        for axis, measure in zip(row, across, strict=True):
            axis.set_xlabel(across[measure])
    dotted = {"color": INK, "linestyle": ":", "linewidth": 1}
    by_chance = [Line2D([], [], **dotted, label="chance")] if chance else []
    finish(figure, title, [*family_keys(table.index), *by_chance])
    for row, outcome in zip(axes, down, strict=True):
        for axis, measure in zip(row, across, strict=True):
            points = table[[measure, outcome]].dropna()
            told = points.loc[points.index.isin(list(named))]
            places = zip(told.index, told.to_numpy(float), strict=True)
            names = [(title_of(m), (x, y), looks[m]["color"]) for m, (x, y) in places]
            if names:
                name_points(axis, names, others=[*map(tuple, points.to_numpy(float))])
    return figure
