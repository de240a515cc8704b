"""Lines: accuracy along the stream, and any quantity over another."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fmlora_lab.plots.sheet import ERROR, SMALL, drawn, finish, panel, whole_numbers, wrapped
from fmlora_lab.plots.style import INK, METHOD_COLORS, interval, styles, title_of


def accuracy_over_tasks(curves: Mapping[str, ArrayLike]) -> Figure:
    """Acc_t in percent against the tasks seen, a line a method.

    `curves` gives (N,) or (seeds, N) by method; seeds are averaged, with a band from the lowest
    to the highest. A method that was measured only at the end (joint training) is a dashed line
    at its Acc.
    """
    curves = {name: np.atleast_2d(np.asarray(c, float)) for name, c in curves.items()}
    looks, last = styles(curves), {name: c[:, -1].mean() for name, c in curves.items()}
    n = max(c.shape[1] for c in curves.values())
    figure, axis = panel()
    for name in sorted(last, key=last.get, reverse=True):
        mean, look = curves[name].mean(axis=0), looks[name]
        label = f"{title_of(name)}  {last[name]:.1f}"
        if np.isnan(mean[:-1]).any():
            axis.axhline(last[name], color=look["color"], linestyle="--", linewidth=1, label=label)
            continue
        tasks = np.arange(1, len(mean) + 1)
        axis.plot(tasks, mean, **drawn(look), markevery=1 + n // 20, label=label)
        if len(curves[name]) > 1:
            low, high = curves[name].min(axis=0), curves[name].max(axis=0)
            axis.fill_between(tasks, low, high, color=look["color"], alpha=0.2, linewidth=0)
    axis.set(xlabel="tasks seen", ylabel="accuracy on all tasks seen, Acc$_t$ (%)")
    axis.xaxis.set_major_locator(whole_numbers())
    axis.set_ylim(0, None)
    return finish(figure, _ranking(curves, last, n), "after the last task (%)")


def lines(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    xlabel: str,
    ylabel: str,
    title: str,
    log_x: bool = False,
    references: Mapping[str, float] = {},
) -> Figure:
    """A line a name: `curves` gives x (k,) and y (k,) or (seeds, k), drawn with its range.

    Points without a value (NaN) are left out. `references` are dashed levels of y, named at
    their right end.
    """
    looks, places = styles(curves), []
    figure, axis = panel()
    for name, (x, y) in curves.items():
        x, y = np.asarray(x, float), np.atleast_2d(np.asarray(y, float))
        measured = ~np.isnan(y).all(axis=0)
        mean, spread = interval(y[:, measured])
        axis.errorbar(
            x[measured], mean, spread, **drawn(looks[name]), **ERROR, label=title_of(name)
        )
        places.append(x[measured])
    axis.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log_x else "linear")
    _ticks(axis, np.unique(np.concatenate(places)))
    labels = [_reference(axis, name, level) for name, level in references.items()]
    finish(figure, title, "")
    _part(labels)
    return figure


def _ticks(axis: Axes, places: NDArray[np.float64]) -> None:
    """At the values themselves while they are few."""
    if len(places) <= 8:
        axis.set_xticks(places, [f"{x:g}" for x in places])
        axis.minorticks_off()
    elif axis.get_xscale() == "linear" and np.array_equal(places, np.round(places)):
        axis.xaxis.set_major_locator(whole_numbers())


def _reference(axis: Axes, name: str, level: float):
    axis.axhline(level, color=METHOD_COLORS.get(name, INK), linestyle="--", linewidth=0.8, zorder=1)
    return axis.annotate(
        wrapped(title_of(name), 0.6, SMALL), (1, level), (3, 0), ("axes fraction", "data"),
        "offset points", fontsize=SMALL, color=INK, va="center", annotation_clip=False,
    )  # fmt: skip


def _part(labels) -> None:
    """Lift labels so that none covers the one below it."""
    floor = -np.inf
    for label in sorted(labels, key=lambda label: label.xy[1]):
        box = label.get_window_extent()
        lift = max(0.0, floor - box.y0)
        label.xyann = (3, 72 * lift / label.figure.dpi)
        floor = box.y1 + lift


def _ranking(curves: Mapping[str, NDArray], last: Mapping[str, float], n: int) -> str:
    """Best and last of the methods that saw one task at a time, and FM-LoRA wherever it stands."""
    order = [name for name in last if not np.isnan(curves[name][:, :-1]).any()]
    order.sort(key=last.get, reverse=True)
    said = [f"{title_of(name)} {last[name]:.0f}%" for name in order]
    if len(order) < 2:
        return f"After {n} tasks: {', '.join(said) or 'joint training alone'}"
    between = [
        said[i] for i, name in enumerate(order) if name == "fm-lora" and 0 < i < len(order) - 1
    ]
    return f"After {n} tasks: " + ", ".join([f"best {said[0]}", *between, f"last {said[-1]}"])
