"""One function a figure: plain arrays in, a matplotlib Figure out; importing it brings no torch.

Figures are made to be printed as they are: one panel as wide as a paper's column, several as wide
as its page, or as `width` asks ("column", "page"); text of 7 to 8 points (6 inside the axes), the
legend below. Every title states what the numbers say: the older functions compute it, the others
are given it. One method is said to lead only where intervals part it from all others
(`analysis.standing`). Methods are coloured by their family and named where they are drawn. Where
several class orders are given, the mean is drawn with its 95% t interval and a dot an order, and
the legend says how many; of one the title says "(one seed)". A bare number is drawn as a mark alone
and says nothing of orders.

seaborn and pandas are imported where they draw, since explorers open sooner without them.
"""

from fmlora_lab.plots.dots import differences, dots
from fmlora_lab.plots.heads import accuracy_by_head, every_head, heads_over_tasks
from fmlora_lab.plots.heatmaps import accuracy_matrices, heatmaps
from fmlora_lab.plots.lines import accuracy_over_tasks, lines
from fmlora_lab.plots.measures import measures
from fmlora_lab.plots.over import over
from fmlora_lab.plots.rank_probabilities import rank_probabilities
from fmlora_lab.plots.ranks_by_task import ranks_by_task
from fmlora_lab.plots.sheet import save
from fmlora_lab.plots.stacks import stacks
from fmlora_lab.plots.stream_samples import stream_samples
from fmlora_lab.plots.tradeoff import frontier, pareto, scatter, trade_off

__all__ = [
    "accuracy_by_head",
    "accuracy_matrices",
    "accuracy_over_tasks",
    "differences",
    "dots",
    "every_head",
    "frontier",
    "heads_over_tasks",
    "heatmaps",
    "lines",
    "measures",
    "over",
    "pareto",
    "rank_probabilities",
    "ranks_by_task",
    "save",
    "scatter",
    "stacks",
    "stream_samples",
    "trade_off",
]
