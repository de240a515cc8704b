"""Methods as points in a plane: learned against lost, accuracy against cost, any two quantities."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from fmlora_lab.analysis.correlation import correlation
from fmlora_lab.config import title_of
from fmlora_lab.metrics import t_interval
from fmlora_lab.plots.lines import draw_lines
from fmlora_lab.plots.point_labels import Name, name_points
from fmlora_lab.plots.sheet import (
    COLUMN,
    MANY,
    MARK,
    PAGE,
    TINY,
    Width,
    counted_draws,
    draw_dots,
    family_keys,
    finish,
    inches,
    of_one_seed,
    panel,
    spread_out,
)
from fmlora_lab.plots.style import INK, family_of, styles


def trade_off(
    points: Mapping[str, tuple[ArrayLike, ArrayLike]], tasks: int, width: Width | None = None
) -> Figure:
    """Learning accuracy (%) against forgetting (points): what was learned, and what of it was lost.

    `points` gives (learning accuracy, forgetting), each a number or one a class order, by method,
    NaN where a method has not that order; a method without any (it saw all tasks at once) is left
    out. A line joins each order's dot to the mean.
    Along a faint line Acc is equal, as far as Acc = learning accuracy − forgetting · (N − 1)/N:
    exact if the tasks are equally large and each is at its best just after it was learned.
    """
    whole = {
        name: np.column_stack([np.ravel(lost), np.ravel(learned)]).astype(float)
        for name, (learned, lost) in points.items()
    }
    orders = {name: _pairs(*pairs.T) for name, pairs in whole.items()}
    orders = {name: pairs for name, pairs in orders.items() if len(pairs)}
    means = {name: pairs.mean(axis=0) for name, pairs in orders.items()}
    rays = {name: [(means[name], pair) for pair in pairs] for name, pairs in orders.items()}
    looks = styles(orders)
    figure, axis = _learned_and_lost(width, len(orders) > MANY)
    draw_lines(axis, {name: ([lost], [learned]) for name, (lost, learned) in means.items()}, looks)
    for name, ends in rays.items():
        axis.add_collection(LineCollection(ends, color=looks[name]["color"], linewidth=0.6))
        if len(ends) > 1:
            lost, learned = orders[name].T
            draw_dots(axis, lost, learned, looks[name]["color"])
    axis.autoscale_view()
    _equal_acc_lines(axis, (tasks - 1) / tasks)
    every = [learned for learned, _ in points.values()]
    named = [*family_keys(means), *counted_draws(every)]
    title = _learner_and_keeper({name: whole[name] for name in orders})
    finish(figure, of_one_seed(title, every), named)
    name_points(axis, _names(means), [ray for ends in rays.values() for ray in ends])
    return figure


def frontier(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, Sequence[str]]],
    tasks: int,
    title: str,
    width: Width | None = None,
) -> Figure:
    """Learning accuracy (%) against forgetting (points), a curve a method, each point named.

    `curves` gives (forgetting, learning accuracy, k labels) by method, each (k,) or (orders, k), in
    the order in which the curve joins their means; the last one has the method's name too. A line
    joins each order's dot to the mean. Faint lines of equal Acc as in `trade_off`.
    """
    looks = styles(curves)
    figure, axis = _learned_and_lost(width, sum(len(own[2]) for own in curves.values()) > 3 * MANY)
    orders = {  # (orders, k, 2)
        name: np.stack([np.atleast_2d(np.asarray(own, float)) for own in (lost, learned)], -1)
        for name, (lost, learned, _) in curves.items()
    }
    means = {name: own.mean(axis=0) for name, own in orders.items()}
    ways = {name: tuple(mean.T) for name, mean in means.items()}
    draw_lines(axis, ways, looks, sort=False, estimator=None)
    for name, own in orders.items():
        if len(own) > 1:
            rays = [
                (mean, point) for each in own for mean, point in zip(means[name], each, strict=True)
            ]
            color = looks[name]["color"]
            axis.add_collection(LineCollection(rays, color=color, linewidth=0.4, alpha=0.6))
            draw_dots(axis, own[..., 0], own[..., 1], color)
    axis.autoscale_view()
    _equal_acc_lines(axis, (tasks - 1) / tasks)
    every = [learned for _, learned, _ in curves.values() if np.ndim(learned) > 1]
    named = [*family_keys(curves), *counted_draws(every)]
    finish(figure, of_one_seed(title, every), named)
    names, tracks = [], []
    for name, (_, _, labels) in curves.items():
        points = zip(means[name], labels, strict=True)
        known = [(tuple(p), str(label)) for p, label in points if not np.isnan(p).any()]
        known[-1:] = [(p, f"{title_of(name)} {label}") for p, label in known[-1:]]
        names += [(said, point, looks[name]["color"]) for point, said in known]
        tracks.append(np.reshape([point for point, _ in known], (-1, 2)))
    name_points(axis, names, tracks)
    return figure


def pareto(
    points: Mapping[str, tuple[ArrayLike, float]],
    cost: str,
    log: bool = False,
    width: Width | None = None,
) -> Figure:
    """Acc (%) against a cost; a faint line joins the methods that no other beats in both, by their
    means, and the title says which of them intervals part from all that cost no more.

    `points` gives (Acc, a number or one a class order, a Series where methods may have other
    orders; cost) by method; several orders draw the 95% t interval, and a dot each. `cost` is the
    axis label with its unit. With `log`, or where a third of it were empty else, the axis is
    logarithmic from the lowest cost on, with 0 at its left end.
    """
    accs = {name: np.ravel(acc).astype(float) for name, (acc, _) in points.items()}
    places = {name: (float(price), accs[name].mean()) for name, (_, price) in points.items()}
    many = len(points) > MANY
    broad = inches(width, PAGE if many else COLUMN)
    figure, axis = panel(3.6 if many else 2.8, width=broad)
    bars = {name: ([places[name][0]], acc[:, None]) for name, acc in accs.items()}
    ink = {"elinewidth": 0.4 if many else 0.8}
    looks = styles(points)
    draw_lines(axis, bars, looks, err_style="bars", err_kws=ink)
    for name, acc in accs.items():
        if len(acc) > 1:
            draw_dots(axis, np.full(len(acc), places[name][0]), acc, looks[name]["color"])
    best = _unbeaten(places)
    corners = np.repeat([places[name] for name in best], 2, axis=0)  # (2 k, 2)
    stairs = np.column_stack([corners[1:, 0], corners[:-1, 1]])
    axis.plot(*stairs.T, color="#999999", linewidth=0.8, zorder=0)
    prices = np.array([price for price, _ in places.values()])
    if not log:
        spread_out(axis, prices)
    elif (prices > 0).any():
        _logarithmic_from_0(axis, prices)
    axis.set(xlabel=cost, ylabel="accuracy after the last task, Acc (%)")
    between = " · " if any("," in title_of(name) for name in best) else ", "
    title = f"Highest mean Acc up to each cost: {between.join(map(title_of, best))}"
    if clear := _clear_of_cheaper({n: acc for n, (acc, _) in points.items()}, places, best):
        said = between.join(map(title_of, clear))
        title += f"; by interval above all that cost no more: {said}"
    every = [acc for acc, _ in points.values()]
    named = [*family_keys(points), *counted_draws(every)]
    finish(figure, of_one_seed(title, every), named)
    ranges = [[(price, end) for end in _ends(accs[n])] for n, (price, _) in places.items()]
    name_points(axis, _names(places), [stairs, *ranges])
    return figure


def scatter(
    points: Mapping[str, tuple[ArrayLike, ArrayLike]],
    xlabel: str,
    ylabel: str,
    title: str,
    chance: float | None = None,
    width: Width | None = None,
) -> Figure:
    """A cloud a name: x (n,) and y (n,); pairs with a NaN are left out. `chance` is what x would be
    by chance, a dotted line.

    The legend gives Spearman's rank correlation, of each cloud and of all points together, and of
    how many. Of one family every other cloud's marks are open.
    """
    clouds = {name: _pairs(x, y) for name, (x, y) in points.items()}
    looks, every = styles(points), np.concatenate(list(clouds.values()))
    figure, axis = panel(width=inches(width, COLUMN))
    named = []
    for name, cloud in clouds.items():
        color, marker = looks[name]["color"], looks[name]["marker"]
        full = _of_its_family(name, clouds) % 2 == 0
        face, edge, thick = (color, "white", 0.4) if full else ("white", color, 0.7)
        colors = {"facecolor": face, "edgecolor": edge, "linewidth": thick}
        axis.scatter(*cloud.T, s=3.5**2, marker=marker, alpha=0.8, **colors)
        look = {"color": color, "markerfacecolor": face, "markeredgecolor": edge}
        text = f"{title_of(name)}  {_spearman(cloud)} (n = {len(cloud)})"
        line = {"linestyle": "none", "marker": marker, "markersize": MARK, "markeredgewidth": thick}
        named.append(Line2D([], [], **look, **line, label=text))
    if chance is not None:
        axis.axvline(chance, color=INK, linestyle=":", linewidth=1, zorder=0)
        axis.annotate(
            "chance", (chance, 1), (0, 2), ("data", "axes fraction"), "offset points",
            ha="center", fontsize=TINY, color=INK,
        )  # fmt: skip
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return finish(figure, title, named, f"Spearman's ρ (all points: {_spearman(every)})")


def _pairs(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """(n, 2) without those where one is missing."""
    pairs = np.column_stack([np.ravel(x), np.ravel(y)]).astype(float)
    return pairs[~np.isnan(pairs).any(axis=1)]


def _names(places: Mapping[str, Sequence[float]]) -> list[Name]:
    looks = styles(places)
    return [(title_of(name), (x, y), looks[name]["color"]) for name, (x, y) in places.items()]


def _spearman(pairs: NDArray[np.float64]) -> str:
    """Rank correlation of (n, 2) without its interval, "–" where one side has a single value."""
    return str(correlation(*pairs.T)._replace(low=np.nan))


def _of_its_family(name: str, names: Mapping[str, object]) -> int:
    """Its place among those of its family, from 0."""
    return [other for other in names if family_of(other) == family_of(name)].index(name)


def _learned_and_lost(width: Width | None, many: bool) -> tuple[Figure, Axes]:
    """As wide as the page for many names beside points."""
    figure, axis = panel(3.8 if many else 2.8, width=inches(width, PAGE if many else COLUMN))
    axis.grid(False)
    axis.margins(0.15)
    axis.set(xlabel="forgetting (points)", ylabel="learning accuracy (%)")
    return figure, axis


def _learner_and_keeper(orders: Mapping[str, NDArray]) -> str:
    """Who learns most and who forgets least, where intervals part them from all others; else from
    how much to how much. `orders` gives (orders, 2) of what is lost and learned."""
    from fmlora_lab.analysis.standing import level_with_first, table_of

    if not orders:
        return "No method here sees one task at a time"
    lost, learned = (table_of({name: own[:, k] for name, own in orders.items()}) for k in (0, 1))
    if len(orders) == 1:
        (name,) = orders
        said = title_of(name)[0].upper() + title_of(name)[1:]
        return f"{said} learns {learned[name].mean():.0f}%, forgets {lost[name].mean():.0f} points"
    parts = []
    for table, most, verb, unit in (
        (learned, True, "learns", "%"),
        (lost, False, "forgets", " points"),
    ):
        first, level = level_with_first(table, most)
        means = table.mean()
        if not level:
            parts.append(
                f"{title_of(first)} {verb} {'most' if most else 'least'} ({means[first]:.0f}{unit})"
            )
        else:
            what = "learning accuracy" if most else "forgetting"
            ends = sorted(means, reverse=not most)
            parts.append(f"{what} from {ends[0]:.0f} to {ends[-1]:.0f}{unit} ({title_of(first)})")
    said = "; ".join(parts)
    return said[0].upper() + said[1:]


def _clear_of_cheaper(
    accs: Mapping[str, ArrayLike], places: Mapping[str, tuple[float, float]], best: Sequence[str]
) -> list[str]:
    """Of `best` those whose Acc intervals part from that of all others that cost no more."""
    from fmlora_lab.analysis.standing import level_with_first, table_of

    clear = []
    for name in best:
        own = {other: acc for other, acc in accs.items() if places[other][0] <= places[name][0]}
        if len(own) > 1 and level_with_first(table_of(own)) == (name, []):
            clear.append(name)
    return clear


def _logarithmic_from_0(axis: Axes, prices: NDArray[np.float64]) -> None:
    """A logarithmic x axis, with 0 a short way left of the lowest price where some cost nothing."""
    priced = prices[prices > 0]
    first = int(np.floor(np.log10(priced.min())))
    ticks = [10.0**k for k in range(first, 1 + int(np.ceil(np.log10(priced.max()))))]
    if (prices > 0).all():
        axis.set_xscale("log")
    else:
        axis.set_xscale("symlog", linthresh=0.7 * priced.min(), linscale=0.25)
        ticks = [0.0, *(tick for tick in ticks if tick >= priced.min())]
    axis.set_xticks(ticks)
    axis.minorticks_off()


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
