"""One function a figure: plain arrays in, a matplotlib Figure out; importing it brings no torch.

Figures are made to be printed as they are: one panel as wide as a paper's column, several as wide
as its page, text of 7 to 8 points (6 inside the axes), the legend below. Every title states what
the numbers say: the older functions compute it, the others are given it. A method has one colour
and one marker everywhere. Where several seeds are given, the mean is drawn with the range from the
lowest to the highest; a single value is drawn as a mark alone.
"""

from fmlora_lab.plots.along import accuracy_over_tasks, lines
from fmlora_lab.plots.maps import accuracy_matrices, heatmaps
from fmlora_lab.plots.plane import frontier, pareto, scatter, trade_off
from fmlora_lab.plots.ranks import rank_probabilities
from fmlora_lab.plots.rows import dots
from fmlora_lab.plots.samples import stream_samples
from fmlora_lab.plots.sheet import save
from fmlora_lab.plots.style import (
    INK,
    MARKERS,
    METHOD_COLORS,
    OTHER_COLORS,
    OTHER_MARKERS,
    styles,
    title_of,
)

__all__ = [
    "INK",
    "MARKERS",
    "METHOD_COLORS",
    "OTHER_COLORS",
    "OTHER_MARKERS",
    "accuracy_matrices",
    "accuracy_over_tasks",
    "dots",
    "frontier",
    "heatmaps",
    "lines",
    "pareto",
    "rank_probabilities",
    "save",
    "scatter",
    "stream_samples",
    "styles",
    "title_of",
    "trade_off",
]
