"""Lines: accuracy along the stream, and any quantity over another."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from fmlora_lab.config import METHOD_LABELS, title_of
from fmlora_lab.metrics import t_interval
from fmlora_lab.plots.point_labels import height_of, name_ends, part_ends
from fmlora_lab.plots.sheet import (
    COLUMN,
    MANY,
    PAGE,
    Width,
    counted_draws,
    draw_dots,
    drawn,
    family_keys,
    finish,
    inches,
    of_one_seed,
    panel,
    within_reach,
)
from fmlora_lab.plots.style import INK, OWN, family_of, styles

Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""By name: x (k,) and y (k,) or (orders, k)."""


FEW = 6
"""Of more lines than this, dots for single orders would hide them: at the end alone they stand."""


def accuracy_over_tasks(curves: Mapping[str, ArrayLike], width: Width | None = None) -> Figure:
    """Acc_t in percent against the tasks seen, a line a method, named at its end with its Acc.

    `curves` gives (N,) or (orders, N) by method, as a frame where methods may have other orders
    (`analysis.tables.curves`); class orders are averaged, with the 95% t
    interval as a band (of more than `MANY` methods the lab's own family alone has one) and a dot
    an order, of more than `FEW` after the last task alone. A method that was measured only at the
    end (it saw all tasks at once) is a dashed line at its Acc.
    """
    orders = {name: np.atleast_2d(np.asarray(c, float)) for name, c in curves.items()}
    last = {name: c[:, -1].mean() for name, c in orders.items()}
    n = max(c.shape[1] for c in orders.values())
    along = {
        name: (1 + np.arange(c.shape[1]), curves[name])
        for name, c in orders.items()
        if not np.isnan(c[:, :-1]).any()
    }
    levels = {name: acc for name, acc in last.items() if name not in along}
    said = {name: f"{title_of(name)}  {acc:.1f}" for name, acc in last.items()}
    title = _ranking({name: _last(curves[name]) for name in along or orders}, n)
    how = {"err_style": "band", "err_kws": {"alpha": 0.12}, "markevery": 1 + n // 20}
    ylabel = "accuracy on all tasks seen, Acc$_t$ (%)"
    return _named_lines(along, levels, said, how, "tasks seen", ylabel, title, width=width)


def lines(
    curves: Curves,
    xlabel: str,
    ylabel: str,
    title: str,
    log_x: bool = False,
    references: Mapping[str, float] = {},
    chance: Mapping[str, ArrayLike] = {},
    width: Width | None = None,
) -> Figure:
    """A line a name: `curves` gives x (k,) and y (k,) or (orders, k), drawn with the 95% interval
    and a dot an order.

    Points without a value (NaN) are left out. `references` are dashed levels of y. All are named
    at their right end; a reference so far off that a third of the axis would be empty is named
    there with its value alone. `chance` gives by a curve's name, for its x, what chance would
    give: a dotted line of its colour.
    """
    said = {name: title_of(name) for name in (*curves, *references)}
    how = {"err_style": "bars", "err_kws": {"elinewidth": 0.8}}
    return _named_lines(curves, references, said, how, xlabel, ylabel, title, log_x, chance, width)


def _named_lines(
    curves: Curves,
    levels: Mapping[str, float],
    said: Mapping[str, str],
    how: Mapping[str, Any],
    xlabel: str,
    ylabel: str,
    title: str,
    log_x: bool = False,
    chance: Mapping[str, ArrayLike] = {},
    width: Width | None = None,
) -> Figure:
    many = len(said) > MANY
    tall = max(2.4, 0.45 + height_of(said.values()))  # 0.45: below the axes
    figure, axis = panel(tall, width=inches(width, PAGE if many else COLUMN))
    looks = styles(said)
    # Of many, marks and intervals would hide each other: the lab's own family alone has them.
    thin = {name: own for name, own in curves.items() if many and family_of(name) != OWN}
    plain = {name: {**looks[name], "marker": None} for name in thin}
    ends = draw_lines(axis, thin, plain, errorbar=None)
    ends |= draw_lines(axis, {n: c for n, c in curves.items() if n not in thin}, looks, **how)
    names = [(said[name], end, looks[name]["color"]) for name, end in ends.items()]
    ys = {name: np.asarray(y, float) for name, (_, y) in curves.items()}
    every = {name: y for name, y in ys.items() if y.ndim > 1}  # class orders, not one curve
    shown = slice(None) if len(curves) <= FEW or how["err_style"] == "bars" else slice(-1, None)
    for name, y in every.items():
        if len(y) > 1:
            places = np.broadcast_to(np.asarray(curves[name][0], float), y.shape)
            draw_dots(axis, places[:, shown], y[:, shown], looks[name]["color"])
    for name, level in chance.items():
        dotted = {"linestyle": (0, (1, 1.5)), "linewidth": 1.0, "zorder": 1}
        x = np.asarray(curves[name][0], float)
        axis.plot(x, np.broadcast_to(level, x.shape), color=looks[name]["color"], **dotted)
    axis.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log_x else "linear")
    _ticks(axis, np.unique([place for x, _ in curves.values() for place in np.ravel(x)]))
    (_, low), (_, high) = axis.dataLim.get_points() if curves else ((0, -np.inf), (0, np.inf))
    for name, level in sorted(levels.items(), key=lambda own: own[1]):
        color = looks[name]["color"] if name in METHOD_LABELS else INK
        if within_reach(level, low, high):
            axis.axhline(level, color=color, linestyle="--", linewidth=0.8, zorder=1)
            names.append((said[name], (axis.get_xlim()[1], level), color))
        else:
            end, arrow = (high, "↑") if level > high else (low, "↓")
            value = "" if f"{level:.1f}" in said[name] else f" {level:.3g}"
            names.append((f"{said[name]}{value} {arrow}", (axis.get_xlim()[1], end), color))
    notes = name_ends(axis, names)
    named = [*family_keys(said), *counted_draws(every.values())]
    if chance:
        dotted = {"linestyle": (0, (1, 1.5)), "color": INK, "linewidth": 1.0}
        named.append(Line2D([], [], **dotted, label="by chance, in its colour"))
    finish(figure, of_one_seed(title, every.values()), named)
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
    elif axis.get_xscale() == "log":
        axis.xaxis.set_major_formatter("{x:g}")


def _last(curve: Any) -> ArrayLike:
    """(orders,), by order where the curve, a frame, says which these are."""
    return curve.iloc[:, -1] if hasattr(curve, "iloc") else np.atleast_2d(curve)[:, -1]


def _ranking(last: Mapping[str, ArrayLike], n: int) -> str:
    """Who stands first after n tasks, as far as intervals tell, and where the lab's own family
    does. `last` gives (orders,) by name."""
    from fmlora_lab.analysis.standing import standing, table_of

    table = table_of(last)
    said = standing(table)
    own = {name: mean for name, mean in table.mean().items() if family_of(str(name)) == OWN}
    others = [f"{title_of(str(name))} {mean:.0f}%" for name, mean in own.items()]
    return f"After {n} tasks: " + ", ".join([said, *(o for o in others if o not in said)])
