"""Methods as points in a plane: learned against lost, accuracy against cost, any two quantities."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from fmlora_lab.plots.notes import note_points
from fmlora_lab.plots.sheet import ERROR, TINY, drawn, finish, panel
from fmlora_lab.plots.style import interval, styles, title_of


def trade_off(points: Mapping[str, tuple[ArrayLike, ArrayLike]], tasks: int) -> Figure:
    """Learning accuracy (%) against forgetting (points): what was learned, and what of it was lost.

    `points` gives (learning accuracy, forgetting), each a number or one a seed, by method; a
    method without (joint training) is left out. Along a faint line Acc is equal, as far as
    Acc = learning accuracy − forgetting · (N − 1)/N: exact if the tasks are equally large and
    each is at its best just after it was learned.
    """
    seeds = {
        name: np.atleast_2d(np.asarray(pair, float).T) for name, pair in points.items()
    }  # (seeds, 2)
    seeds = {name: pair for name, pair in seeds.items() if not np.isnan(pair).any()}
    means, looks = {name: pair.mean(axis=0) for name, pair in seeds.items()}, styles(points)
    figure, axis = _learned_and_lost()
    for name, (learning, forgetting) in means.items():
        label = f"{title_of(name)}  {learning:.1f}, {forgetting:.1f}"
        axis.plot(forgetting, learning, **drawn(looks[name], 6), linestyle="none", label=label)
        if len(seeds[name]) > 1:
            each = seeds[name].T[::-1]
            axis.plot(*each, **drawn(looks[name], 3), linestyle="none", alpha=0.5)
    _equal_acc_lines(axis, (tasks - 1) / tasks)
    return finish(figure, _learner_and_keeper(means), "learned (%), lost (points)")


def frontier(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, Sequence[str]]], tasks: int, title: str
) -> Figure:
    """Learning accuracy (%) against forgetting (points), a curve a method, each point named.

    `curves` gives (forgetting (k,), learning accuracy (k,), k labels) by method, in the order in
    which the curve joins them. Faint lines of equal Acc as in `trade_off`.
    """
    looks, placed = styles(curves), []
    figure, axis = _learned_and_lost()
    for name, (forgetting, learning, labels) in curves.items():
        pairs = np.column_stack([forgetting, learning]).astype(float)  # (k, 2)
        measured = ~np.isnan(pairs).any(axis=1)
        axis.plot(*pairs[measured].T, **drawn(looks[name]), label=title_of(name))
        placed.append((pairs[measured], np.array(list(labels))[measured], looks[name]["color"]))
    _equal_acc_lines(axis, (tasks - 1) / tasks)
    finish(figure, title, "")
    note_points(axis, placed)
    return figure


def pareto(points: Mapping[str, tuple[ArrayLike, float]], cost: str, log: bool = False) -> Figure:
    """Acc (%) against a cost: which methods no other beats in both.

    `points` gives (Acc, a number or one a seed; cost) by method; several seeds draw their range.
    `cost` is the axis label with its unit. With `log`, the axis is logarithmic from 1 on, with 0
    at its left end.
    """
    accs = {name: np.reshape(acc, (-1, 1)).astype(float) for name, (acc, _) in points.items()}
    costs = {name: float(price) for name, (_, price) in points.items()}
    means, looks = {name: acc.mean() for name, acc in accs.items()}, styles(points)
    best = _unbeaten(means, costs)
    figure, axis = panel()
    for name in sorted(points, key=means.get, reverse=True):
        mean, spread = interval(accs[name])
        label = f"{title_of(name)}  {means[name]:.1f}"
        look = drawn(looks[name]) | {"linestyle": "none"}
        axis.errorbar(costs[name], mean, spread, **look, **ERROR, label=label)
    steps = [(costs[name], means[name]) for name in best]
    axis.step(*zip(*steps, strict=True), where="post", color="#999999", linewidth=0.8, zorder=0)
    if log:
        axis.set_xscale("symlog", linthresh=1e3)
        axis.set_xticks(
            [0, *(10.0**k for k in range(3, 1 + round(np.log10(max(1e3, *costs.values())))))]
        )
        axis.minorticks_off()
    else:
        axis.set_xlim(0, None)
    axis.set(xlabel=cost, ylabel="accuracy after the last task, Acc (%)")
    said = ", ".join(title_of(name) for name in best)
    return finish(figure, f"No method is both better and cheaper than: {said}", "Acc (%)")


def scatter(
    points: Mapping[str, tuple[ArrayLike, ArrayLike]], xlabel: str, ylabel: str, title: str
) -> Figure:
    """A cloud a name: x (n,) and y (n,); pairs with a NaN are left out.

    The legend gives Spearman's rank correlation, of each cloud and of all points together.
    """
    pairs = {name: np.column_stack(pair).astype(float) for name, pair in points.items()}  # (n, 2)
    pairs = {name: pair[~np.isnan(pair).any(axis=1)] for name, pair in pairs.items()}
    looks = styles(points)
    figure, axis = panel()
    for name, pair in pairs.items():
        label = f"{title_of(name)}  {_spearman(pair)}"
        axis.plot(*pair.T, **drawn(looks[name], 3.5), alpha=0.8, linestyle="none", label=label)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    together = _spearman(np.concatenate(list(pairs.values())))
    return finish(figure, title, f"Spearman's ρ (all points: {together})")


def _spearman(pairs: NDArray[np.float64]) -> str:
    """Rank correlation of (n, 2), "–" where one side has a single value."""
    from pandas import DataFrame  # here, for explorers open sooner without it

    rho = DataFrame(pairs).corr(method="spearman").iloc[0, 1]
    return "–" if np.isnan(rho) else f"{rho:+.2f}".replace("-", "−")


def _learned_and_lost() -> tuple[Figure, Axes]:
    figure, axis = panel(2.8)
    axis.grid(False)
    axis.margins(0.15)
    axis.set(xlabel="forgetting (points)", ylabel="learning accuracy (%)")
    return figure, axis


def _learner_and_keeper(means: Mapping[str, NDArray]) -> str:
    learner = max(means, key=lambda name: means[name][0])
    keeper = min(means, key=lambda name: means[name][1])
    said = title_of(learner)[0].upper() + title_of(learner)[1:]
    if learner == keeper:
        return f"{said} both learns most and forgets least"
    return (
        f"{said} learns most ({means[learner][0]:.0f}%), "
        f"{title_of(keeper)} forgets least ({means[keeper][1]:.0f} points)"
    )


def _unbeaten(means: Mapping[str, float], costs: Mapping[str, float]) -> list[str]:
    """Names that no other beats in Acc without costing more, from the cheapest."""
    best = [
        name
        for name in means
        if not any(
            costs[other] <= costs[name]
            and means[other] >= means[name]
            and (costs[other], -means[other]) != (costs[name], -means[name])
            for other in means
        )
    ]
    return sorted(best, key=costs.get)


def _equal_acc_lines(axis: Axes, share: float) -> None:
    """Faint lines learning = Acc + forgetting · share within the axes' present limits.

    Each is named where it leaves the axes, outside, where no mark can lie.
    """
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    lowest, highest = bottom - right * share, top - left * share
    for acc in MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(max(lowest, 0), highest):
        ends = np.array([left, right])
        axis.plot(ends, acc + ends * share, color="#cccccc", linewidth=0.6, zorder=0)
        x = min(right, (top - acc) / share) if share else right
        y = acc + x * share
        if x > left + 0.1 * (right - left) and bottom < y <= top:  # clear of the axis
            beside = x == right
            axis.annotate(
                f"Acc {acc:g}", (x, y), (2, 0) if beside else (0, 2),
                textcoords="offset points", ha="left" if beside else "center",
                va="center" if beside else "bottom", fontsize=TINY, color="#777777",
                annotation_clip=False,
            )  # fmt: skip
    axis.set(xlim=(left, right), ylim=(bottom, top))
