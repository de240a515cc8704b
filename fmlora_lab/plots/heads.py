"""What heads make of the same features: the best of them, all of them, and along the stream."""

from collections.abc import Iterable, Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from fmlora_lab.config import title_of
from fmlora_lab.plots.lines import draw_lines
from fmlora_lab.plots.sheet import (
    COLUMN,
    MARK,
    PAGE,
    SMALL,
    TEXT,
    TINY,
    Width,
    counted_draws,
    draw_dots,
    drawn,
    finish,
    inches,
    of_one_seed,
    open_over_grid,
    panel,
    panels,
    within_reach,
    wrapped,
)
from fmlora_lab.plots.style import FAINT, INK, OTHER_COLORS, family_of, styles

CLOSED_FORM = OTHER_COLORS[0]
"""Of marks that stand for the closed-form head, whatever the method."""
KINDS = ("means", "lda", "ridge")
"""Closed-form heads whose colours are the same in every figure; others follow."""
CARRIED = "-carried"
"""How the name of a head ends whose statistics are moved along with the features."""
ACC = "accuracy after the last task, Acc (%)"


def accuracy_by_head(
    found: Mapping[str, tuple[ArrayLike, ArrayLike, str]],
    title: str,
    frozen: float = np.nan,
    joint: float = np.nan,
    width: Width | None = None,
) -> Figure:
    """A row a method, a mark for each of two heads and a line from one to the other: Acc in percent
    by the trained head (NaN without one), by the best closed-form head, each a number or one a
    class order, and that head's name.

    `frozen` and `joint` are lines through all rows: the frozen backbone under its best head, which
    every adapter starts from, and training on all tasks at once. One that is far from all marks is
    named at the edge.
    """
    looks = styles(found)
    closed = {"color": CLOSED_FORM, "marker": "D", "linestyle": "none"}
    figure, axis = panel(0.5 + 0.26 * len(found), grid="x", width=inches(width, COLUMN))
    for y, (name, (trained, best, head)) in enumerate(found.items()):
        colors = (looks[name]["color"], closed["color"])
        for own, color in zip((trained, best), colors, strict=True):
            if np.size(own) > 1:
                draw_dots(axis, own, np.full(np.size(own), y), color)
        means = [np.asarray(own, float).mean() for own in (trained, best)]
        axis.plot(means, [y, y], color=FAINT, linewidth=3, zorder=1)
        axis.plot(means[0], y, **drawn({**looks[name], "linestyle": "none"}), zorder=3)
        axis.plot(means[1], y, **drawn(closed), zorder=3)
        axis.annotate(
            head, (float(np.nanmax([*means, np.max(best)])), y), (5, 0),
            textcoords="offset points", va="center", fontsize=TINY, color=INK,
        )  # fmt: skip
    _between(axis, frozen, joint)
    _rows(axis, found)
    axis.margins(x=0.14)
    named = [
        Line2D([], [], **drawn({**closed, "color": INK, "marker": "o"}), label="trained head"),
        Line2D([], [], **drawn(closed), label="best closed-form head, by name"),
    ]
    every = [own for trained, best, _ in found.values() for own in (trained, best)]
    return finish(figure, of_one_seed(title, every), [*named, *counted_draws(every)])


def every_head(
    found: Mapping[str, Mapping[str, ArrayLike]],
    title: str,
    frozen: float = np.nan,
    joint: float = np.nan,
    width: Width | None = None,
) -> Figure:
    """A row a method, a mark a head: Acc in percent by head, a number or one a class order, NaN
    where there is none.

    Families stand in their order of appearance, in each the method with the highest mark first. A
    head with carried statistics has an open mark, in line with that of the plain ones, and a line
    between the two. `frozen` and `joint` are as in `accuracy_by_head`.
    """
    families = list(dict.fromkeys(map(family_of, found)))
    means = {
        n: {head: np.asarray(own, float).mean() for head, own in row.items()}
        for n, row in found.items()
    }
    best = {name: np.nanmax(list(row.values())) for name, row in means.items()}
    rows = sorted(found, key=lambda name: (families.index(family_of(name)), -best[name]))
    looks = _looks(head for row in found.values() for head in row)
    kinds = [head for head in looks if not head.endswith(CARRIED)]
    lanes = dict(zip(kinds, np.linspace(-0.27, 0.27, len(kinds)), strict=True))
    figure, axis = panel(0.5 + 0.225 * len(rows), grid="x", width=inches(width, PAGE))
    for y, name in enumerate(rows):
        for head, own in found[name].items():
            if np.size(own) > 1:
                lane = np.full(np.size(own), y + lanes[head.removesuffix(CARRIED)])
                draw_dots(axis, own, lane, looks[head]["color"])
        for kind, lane in lanes.items():
            both = {head: means[name].get(head, np.nan) for head in (kind, kind + CARRIED)}
            axis.plot([*both.values()], [y + lane] * 2, color=looks[kind]["color"], linewidth=0.7)
            for head, acc in both.items():
                if not np.isnan(acc):
                    axis.plot(acc, y + lane, **looks[head], zorder=4 if head == kind else 3)
    _between(axis, frozen, joint)
    _rows(axis, rows)
    axis.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    axis.grid(axis="y", which="minor", color=FAINT, linewidth=0.6)
    axis.tick_params(axis="y", which="minor", length=0)
    _name_families(axis, rows)
    named = [Line2D([], [], **look, label=head) for head, look in looks.items()]
    every = [own for row in found.values() for own in row.values() if not np.isnan(own).all()]
    return finish(figure, of_one_seed(title, every), [*named, *counted_draws(every)])


def heads_over_tasks(
    curves: Mapping[str, Mapping[str, ArrayLike]],
    title: str,
    frozen: ArrayLike,
    width: Width | None = None,
) -> Figure:
    """Two panels a method, against the tasks seen: Acc_t in percent, a line a head, open marks for
    carried statistics; and what carrying them adds, in points, with the 95% t interval of the
    differences in the same class order and a dot an order.

    `curves` gives (orders, N) by method and head; `frozen` (orders, N) is the frozen backbone's, a
    dashed line in the panels of Acc_t. Methods stand side by side, as wide as a column below each
    other.
    """
    marks = _looks(head for of in curves.values() for head in of)
    looks = {h: {**m, "linestyle": "-", "markersize": MARK - 1} for h, m in marks.items()}
    broad, tall = inches(width, PAGE), len(curves)
    if broad < PAGE:
        figure, axes = panels(tall, 2, broad, 0.4 + 1.35 * tall, sharex=True, sharey="col")
    else:
        figure, axes = panels(2, tall, broad, 3.6, sharex=True, sharey="row")
        axes = axes.T
    ground, dashed = np.asarray(frozen, float), {"color": INK, "linestyle": "--", "linewidth": 0.8}
    how = {"err_style": "band", "err_kws": {"alpha": 0.15}}
    for (above, below), (method, of) in zip(axes, curves.items(), strict=True):
        accs = {head: np.asarray(values, float) for head, values in of.items()}
        tasks = 1 + np.arange(ground.shape[1])
        for head, values in accs.items():
            above.plot(tasks, values.mean(axis=0), **looks[head])
        above.plot(tasks, ground.mean(axis=0), **dashed)
        adds = {
            head: (tasks, accs[head + CARRIED] - values)
            for head, values in accs.items()
            if head + CARRIED in accs
        }
        draw_lines(below, adds, looks, **how)
        for head, (_, gaps) in adds.items():
            if len(gaps) > 1:
                draw_dots(below, np.broadcast_to(tasks, gaps.shape), gaps, looks[head]["color"])
        below.axhline(0, color=INK, linewidth=0.8, zorder=1)
        open_over_grid(above)
        open_over_grid(below)
        above.set_title(title_of(method), fontsize=TEXT)
        if broad < PAGE or above is axes[0, 0]:
            above.set_ylabel("accuracy on all tasks seen, Acc$_t$ (%)")
            below.set_ylabel("carried minus plain (points)")
        if broad == PAGE or above is axes[-1, 0]:
            below.set_xlabel("tasks seen")
    if broad < PAGE:
        axes[-1, 0].set_xlabel("tasks seen")
    named = [Line2D([], [], **look, label=head) for head, look in looks.items()]
    named += [Line2D([], [], **dashed, label="frozen backbone"), *counted_draws([ground])]
    return finish(figure, of_one_seed(title, [ground]), named)


def _looks(heads: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each kind of head, whatever others there are, open where its
    statistics are carried; a carried head stands after its plain one."""
    every = list(dict.fromkeys(heads))
    kinds = dict.fromkeys(head.removesuffix(CARRIED) for head in every)
    free = zip(cycle(OTHER_COLORS), cycle("D^sPvX<>"), strict=True)
    own = dict(zip(dict.fromkeys([*KINDS, *kinds]), free, strict=False))
    looks = {}
    for kind in kinds:
        color, marker = (INK, "o") if kind == "trained" else own[kind]
        look = {"color": color, "marker": marker, "linestyle": "none", "linewidth": 0.9}
        openly = {"markerfacecolor": "white", "markeredgewidth": 0.9, "markersize": MARK + 0.5}
        looks |= {kind: look | {"markersize": MARK - 0.5}, kind + CARRIED: look | openly}
    return {head: look for head, look in looks.items() if head in every}


def _between(axis: Axes, frozen: float, joint: float) -> None:
    """The lines between which adapters stand; none for NaN."""
    (low, _), (high, _) = axis.dataLim.get_points()
    for value, said in ((frozen, "frozen backbone"), (joint, "joint training")):
        if not np.isnan(value) and not within_reach(value, low, high):
            right = value > high
            axis.annotate(
                f"{said} {value:.1f} →" if right else f"← {said} {value:.1f}", (right, 1), (0, 9),
                "axes fraction", "offset points", ha="right" if right else "left",
                fontsize=TINY, color=INK,
            )  # fmt: skip
        elif not np.isnan(value):
            axis.axvline(value, color=INK, linewidth=0.8, linestyle="--", zorder=0)
            axis.annotate(
                said, (value, 1), (0, 2), ("data", "axes fraction"), "offset points",
                ha="center", fontsize=TINY, color=INK,
            )  # fmt: skip


def _rows(axis: Axes, names: Iterable[str]) -> None:
    """Methods from top to bottom, by their titles."""
    titles = [wrapped(title_of(name), 1.5, SMALL) for name in names]
    axis.set_yticks(range(len(titles)), titles)
    axis.set(xlabel=ACC, ylim=(len(titles) - 0.5, -0.5))
    axis.tick_params(axis="y", length=0)


def _name_families(axis: Axes, rows: list[str]) -> None:
    """At the right of their rows, parted by lines, where there are several."""
    of = [family_of(name) for name in rows]
    families = dict.fromkeys(of)
    for family in families if len(families) > 1 else ():
        first, last = of.index(family), len(of) - 1 - of[::-1].index(family)
        if first:
            axis.axhline(first - 0.5, color=INK, linewidth=0.6, zorder=1)
        axis.annotate(
            family, (1, (first + last) / 2), (4, 0), ("axes fraction", "data"), "offset points",
            va="center", fontsize=TINY, color=INK,
        )  # fmt: skip
