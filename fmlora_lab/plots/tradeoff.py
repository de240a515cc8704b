"""Methods as points in a plane: learned against lost, accuracy against cost, any two quantities."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from fmlora_lab.config import title_of
from fmlora_lab.metrics import t_interval
from fmlora_lab.plots.lines import draw_lines
from fmlora_lab.plots.point_labels import Name, name_points
from fmlora_lab.plots.sheet import COLUMN, MANY, PAGE, TINY, family_keys, finish, keys, panel
from fmlora_lab.plots.style import styles


def trade_off(points: Mapping[str, tuple[ArrayLike, ArrayLike]], tasks: int) -> Figure:
    """Learning accuracy (%) against forgetting (points): what was learned, and what of it was lost.

    `points` gives (learning accuracy, forgetting), each a number or one a class order, by method;
    a method without (it saw all tasks at once) is left out. A line joins each order to the mean.
    Along a faint line Acc is equal, as far as Acc = learning accuracy − forgetting · (N − 1)/N:
    exact if the tasks are equally large and each is at its best just after it was learned.
    """
    orders = {name: _pairs(lost, learned) for name, (learned, lost) in points.items()}
    orders = {name: pairs for name, pairs in orders.items() if len(pairs)}
    means = {name: pairs.mean(axis=0) for name, pairs in orders.items()}
    rays = {name: [(means[name], pair) for pair in pairs] for name, pairs in orders.items()}
    looks = styles(orders)
    figure, axis = _learned_and_lost()
    draw_lines(axis, {name: ([lost], [learned]) for name, (lost, learned) in means.items()}, looks)
    for name, ends in rays.items():
        axis.add_collection(LineCollection(ends, color=looks[name]["color"], linewidth=0.6))
    axis.autoscale_view()
    _equal_acc_lines(axis, (tasks - 1) / tasks)
    finish(figure, _learner_and_keeper(means), family_keys(means))
    name_points(axis, _names(means), [ray for ends in rays.values() for ray in ends])
    return figure


def frontier(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, Sequence[str]]], tasks: int, title: str
) -> Figure:
    """Learning accuracy (%) against forgetting (points), a curve a method, each point named.

    `curves` gives (forgetting (k,), learning accuracy (k,), k labels) by method, in the order in
    which the curve joins them; the last one has the method's name too. Faint lines of equal Acc as
    in `trade_off`.
    """
    looks = styles(curves)
    figure, axis = _learned_and_lost()
    ways = {name: (forgetting, learning) for name, (forgetting, learning, _) in curves.items()}
    draw_lines(axis, ways, looks, sort=False, estimator=None)
    _equal_acc_lines(axis, (tasks - 1) / tasks)
    finish(figure, title, family_keys(curves))
    names, tracks = [], []
    for name, (forgetting, learning, labels) in curves.items():
        points = zip(np.column_stack([forgetting, learning]).astype(float), labels, strict=True)
        known = [(tuple(p), str(label)) for p, label in points if not np.isnan(p).any()]
        known[-1:] = [(p, f"{title_of(name)} {label}") for p, label in known[-1:]]
        names += [(said, point, looks[name]["color"]) for point, said in known]
        tracks.append(np.reshape([point for point, _ in known], (-1, 2)))
    name_points(axis, names, tracks)
    return figure


def pareto(points: Mapping[str, tuple[ArrayLike, float]], cost: str, log: bool = False) -> Figure:
    """Acc (%) against a cost: which methods no other beats in both, by their means.

    `points` gives (Acc, a number or one a class order; cost) by method; several orders draw the
    95% t interval.
    `cost` is the axis label with its unit. With `log`, the axis is logarithmic from the lowest cost
    on, with 0 at its left end.
    """
    accs = {name: np.ravel(acc).astype(float) for name, (acc, _) in points.items()}
    places = {name: (float(price), accs[name].mean()) for name, (_, price) in points.items()}
    many = len(points) > MANY
    figure, axis = panel(3.6 if many else 2.8, width=PAGE if many else COLUMN)
    bars = {name: ([places[name][0]], acc[:, None]) for name, acc in accs.items()}
    ink = {"elinewidth": 0.4 if many else 0.8}
    draw_lines(axis, bars, styles(points), err_style="bars", err_kws=ink)
    best = _unbeaten(places)
    corners = np.repeat([places[name] for name in best], 2, axis=0)  # (2 k, 2)
    stairs = np.column_stack([corners[1:, 0], corners[:-1, 1]])
    axis.plot(*stairs.T, color="#999999", linewidth=0.8, zorder=0)
    if log:
        prices = [price for price, _ in places.values() if price > 0] or [1e3]
        first = int(np.log10(min(prices)))
        axis.set_xscale("symlog", linthresh=10.0**first)
        axis.set_xticks([0, *(10.0**k for k in range(first, 1 + round(np.log10(max(prices)))))])
        axis.minorticks_off()
    else:
        axis.set_xlim(0, None)
    axis.set(xlabel=cost, ylabel="accuracy after the last task, Acc (%)")
    said = ", ".join(title_of(name) for name in best)
    title = f"By their means, none has more Acc for less than: {said}"
    finish(figure, title, family_keys(points))
    ranges = [[(price, end) for end in _ends(accs[n])] for n, (price, _) in places.items()]
    name_points(axis, _names(places), [stairs, *ranges])
    return figure


def scatter(
    points: Mapping[str, tuple[ArrayLike, ArrayLike]], xlabel: str, ylabel: str, title: str
) -> Figure:
    """A cloud a name: x (n,) and y (n,); pairs with a NaN are left out.

    The legend gives Spearman's rank correlation, of each cloud and of all points together.
    """
    import seaborn as sns

    clouds = {name: _pairs(x, y) for name, (x, y) in points.items()}
    looks, every = styles(points), np.concatenate(list(clouds.values()))
    figure, axis = panel()
    names = [name for name, cloud in clouds.items() for _ in cloud]
    sns.scatterplot(
        x=every[:, 0], y=every[:, 1], hue=names, style=names, legend=False, ax=axis,
        palette={name: look["color"] for name, look in looks.items()},
        markers={name: look["marker"] for name, look in looks.items()},
        s=3.5**2, linewidth=0.4, alpha=0.8,
    )  # fmt: skip
    axis.set(xlabel=xlabel, ylabel=ylabel)
    said = {f"{title_of(n)}  {_spearman(cloud)}": looks[n] for n, cloud in clouds.items()}
    return finish(figure, title, keys(said), f"Spearman's ρ (all points: {_spearman(every)})")


def _pairs(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """(n, 2) without those where one is missing."""
    pairs = np.column_stack([np.ravel(x), np.ravel(y)]).astype(float)
    return pairs[~np.isnan(pairs).any(axis=1)]


def _names(places: Mapping[str, Sequence[float]]) -> list[Name]:
    looks = styles(places)
    return [(title_of(name), (x, y), looks[name]["color"]) for name, (x, y) in places.items()]


def _spearman(pairs: NDArray[np.float64]) -> str:
    """Rank correlation of (n, 2), "–" where one side has a single value."""
    from pandas import DataFrame

    rho = DataFrame(pairs).corr(method="spearman").iloc[0, 1]
    return "–" if np.isnan(rho) else f"{rho:+.2f}".replace("-", "−")


def _learned_and_lost() -> tuple[Figure, Axes]:
    figure, axis = panel(2.8)
    axis.grid(False)
    axis.margins(0.15)
    axis.set(xlabel="forgetting (points)", ylabel="learning accuracy (%)")
    return figure, axis


def _learner_and_keeper(means: Mapping[str, NDArray]) -> str:
    if not means:
        return "No method here sees one task at a time"
    keeper = min(means, key=lambda name: means[name][0])
    learner = max(means, key=lambda name: means[name][1])
    said = title_of(learner)[0].upper() + title_of(learner)[1:]
    if len(means) == 1:
        return f"{said} learns {means[learner][1]:.0f}%, forgets {means[keeper][0]:.0f} points"
    if learner == keeper:
        return f"{said} both learns most and forgets least"
    return (
        f"{said} learns most ({means[learner][1]:.0f}%), "
        f"{title_of(keeper)} forgets least ({means[keeper][0]:.0f} points)"
    )


def _unbeaten(places: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names whose (cost, Acc) none beats in one and equals in the other; the lowest cost first."""
    best: list[str] = []
    for name in sorted(places, key=lambda name: (places[name][0], -places[name][1])):
        last = places[best[-1]] if best else (0.0, -np.inf)
        if places[name][1] > last[1] or places[name] == last:
            best.append(name)
    return best


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    """Of the interval that is drawn; of a single value itself."""
    return t_interval(values) if len(values) > 1 else (values[0], values[0])


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
