"""Lines: accuracy along the stream, and any quantity over another."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fmlora_lab.config import METHOD_LABELS, title_of
from fmlora_lab.metrics import t_interval
from fmlora_lab.plots.point_labels import height_of, name_ends, part_ends
from fmlora_lab.plots.sheet import (
    COLUMN,
    MANY,
    PAGE,
    drawn,
    family_keys,
    finish,
    panel,
    whole_numbers,
)
from fmlora_lab.plots.style import INK, OWN, family_of, styles

Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""By name: x (k,) and y (k,) or (orders, k)."""


def accuracy_over_tasks(curves: Mapping[str, ArrayLike]) -> Figure:
    """Acc_t in percent against the tasks seen, a line a method, named at its end with its Acc.

    `curves` gives (N,) or (orders, N) by method; class orders are averaged, with the 95% t
    interval as a band (of more than `MANY` methods the lab's own family alone has one). A method
    that was measured only at the end (it saw all tasks at once) is a dashed line at its Acc.
    """
    orders = {name: np.atleast_2d(np.asarray(c, float)) for name, c in curves.items()}
    last = {name: c[:, -1].mean() for name, c in orders.items()}
    n = max(c.shape[1] for c in orders.values())
    along = {
        name: (1 + np.arange(c.shape[1]), c)
        for name, c in orders.items()
        if not np.isnan(c[:, :-1]).any()
    }
    levels = {name: acc for name, acc in last.items() if name not in along}
    said = {name: f"{title_of(name)}  {acc:.1f}" for name, acc in last.items()}
    title = _ranking({name: last[name] for name in along} or last, n)
    how = {"err_style": "band", "err_kws": {"alpha": 0.12}, "markevery": 1 + n // 20}
    ylabel = "accuracy on all tasks seen, Acc$_t$ (%)"
    return _named_lines(along, levels, said, how, "tasks seen", ylabel, title)


def lines(
    curves: Curves,
    xlabel: str,
    ylabel: str,
    title: str,
    log_x: bool = False,
    references: Mapping[str, float] = {},
) -> Figure:
    """A line a name: `curves` gives x (k,) and y (k,) or (orders, k), drawn with the 95% interval.

    Points without a value (NaN) are left out. `references` are dashed levels of y. All are named
    at their right end.
    """
    said = {name: title_of(name) for name in (*curves, *references)}
    how = {"err_style": "bars", "err_kws": {"elinewidth": 0.8}}
    return _named_lines(curves, references, said, how, xlabel, ylabel, title, log_x)


def _named_lines(
    curves: Curves,
    levels: Mapping[str, float],
    said: Mapping[str, str],
    how: Mapping[str, Any],
    xlabel: str,
    ylabel: str,
    title: str,
    log_x: bool = False,
) -> Figure:
    many = len(said) > MANY
    tall = max(2.4, 0.45 + height_of(said.values()))  # 0.45: below the axes
    figure, axis = panel(tall, width=PAGE if many else COLUMN)
    looks = styles(said)
    # Of many, marks and intervals would hide each other: the lab's own family alone has them.
    thin = {name: own for name, own in curves.items() if many and family_of(name) != OWN}
    plain = {name: {**looks[name], "marker": None} for name in thin}
    ends = draw_lines(axis, thin, plain, errorbar=None)
    ends |= draw_lines(axis, {n: c for n, c in curves.items() if n not in thin}, looks, **how)
    names = [(said[name], end, looks[name]["color"]) for name, end in ends.items()]
    axis.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log_x else "linear")
    _ticks(axis, np.unique([place for x, _ in curves.values() for place in np.ravel(x)]))
    for name, level in levels.items():
        color = looks[name]["color"] if name in METHOD_LABELS else INK
        axis.axhline(level, color=color, linestyle="--", linewidth=0.8, zorder=1)
        names.append((said[name], (axis.get_xlim()[1], level), color))
    notes = name_ends(axis, names)
    finish(figure, title, family_keys(said))
    part_ends(axis, notes, names)
    return figure


def draw_lines(
    axis: Axes, curves: Curves, looks: Mapping[str, Mapping[str, Any]], **how: Any
) -> dict[str, tuple[float, float]]:
    """Means of class orders with their 95% t intervals; where each line ends.

    A call a line: seaborn's time grows with the cube of the lines that it is given at once.
    """
    import seaborn as sns

    ends = {}
    for name in sorted(curves, key=lambda name: family_of(name) == OWN):  # which lies on top
        x, y = (np.asarray(values, float) for values in curves[name])
        y = np.atleast_2d(y)
        measured = ~np.isnan(y).all(axis=0)
        if measured.any():
            places = np.broadcast_to(x, y.shape).ravel()
            look = drawn(looks[name])
            sns.lineplot(x=places, y=y.ravel(), ax=axis, **look, **{"errorbar": t_interval, **how})
            last = np.where(measured, x, -np.inf).argmax()
            ends[name] = (x[last], np.nanmean(y[:, last]))
    return ends


def _ticks(axis: Axes, places: NDArray[np.float64]) -> None:
    """At the values themselves while they are few."""
    if len(places) <= 8:
        axis.set_xticks(places, [f"{x:g}" for x in places])
        axis.minorticks_off()
    elif axis.get_xscale() == "linear" and np.array_equal(places, np.round(places)):
        axis.xaxis.set_major_locator(whole_numbers())


def _ranking(last: Mapping[str, float], n: int) -> str:
    """Highest and lowest mean after n tasks, and the lab's own family where it stands between."""
    order = sorted(last, key=last.__getitem__, reverse=True)
    said = {name: f"{title_of(name)} {last[name]:.0f}%" for name in order}
    if len(order) == 1:
        return f"After {n} tasks: {said[order[0]]}"
    own = [said[name] for name in order[1:-1] if family_of(name) == OWN]
    return f"After {n} tasks: " + ", ".join(
        [f"highest {said[order[0]]}", *own, f"lowest {said[order[-1]]}"]
    )
