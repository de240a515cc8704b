"""One function a figure: plain arrays in, a matplotlib Figure out; importing it brings no torch.

Every title states what the numbers say, and is computed from them. A method has one colour
everywhere, from the palettes of Okabe and Ito and of Paul Tol, which colour-blind readers can
tell apart, and one marker besides.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from fmlora_lab.analysis.tables import TITLES
from fmlora_lab.files import write_atomically

METHOD_COLORS = {
    "fm-lora": "#0072B2",
    "lora": "#E69F00",
    "sd-lora": "#56B4E9",
    "inflora": "#117733",
    "l2p": "#882255",
    "dualprompt": "#AA4499",
    "coda-prompt": "#332288",
    "hide-prompt": "#999933",
    "full": "#D55E00",
    "linear-probe": "#CC79A7",
    "prototypes": "#009E73",
    "joint": "#000000",
}
OTHER_COLORS = ("#88CCEE", "#DDCC77", "#999999")
MARKERS = "osD^vPX*<>hpd8"
INK = "#444444"
DETERMINISTIC = {"svg.fonttype": "none", "svg.hashsalt": "fmlora-lab"}


def title_of(method: str) -> str:
    """A method's name for readers."""
    return TITLES.get(method, method)


def styles(methods: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each method; unknown ones take the remaining colours in order."""
    unknown = [name for name in methods if name not in METHOD_COLORS]
    extra = {name: OTHER_COLORS[i % len(OTHER_COLORS)] for i, name in enumerate(unknown)}
    order = [*METHOD_COLORS, *unknown]
    return {
        name: {"color": color, "marker": MARKERS[order.index(name) % len(MARKERS)]}
        for name, color in (METHOD_COLORS | extra).items()
    }


def stream_samples(
    tasks: Sequence[tuple[str, NDArray[np.uint8], ArrayLike]],
    class_names: Sequence[str],
    per_task: int = 10,
) -> Figure:
    """One image of each of a task's first classes, a row a task.

    `tasks` holds (name, pixels uint8 (n, 3, H, W), labels (n,) into `class_names`).
    """
    chosen = [np.unique(labels, return_index=True) for _, _, labels in tasks]
    columns = min(per_task, max(len(classes) for classes, _ in chosen))
    figure = Figure(figsize=(1.6 + 0.75 * columns, 0.5 + 0.95 * len(tasks)), layout="constrained")
    grid = figure.subplots(len(tasks), columns, squeeze=False)
    for axis in grid.flat:
        axis.axis("off")
    for t, (row, (name, pixels, _), (classes, first)) in enumerate(
        zip(grid, tasks, chosen, strict=True), start=1
    ):
        said = {"transform": row[0].transAxes, "ha": "right", "va": "center", "fontsize": 9}
        row[0].text(-0.25, 0.5, f"task {t}\n{name}", **said)
        for axis, label, index in zip(row, classes, first, strict=False):
            axis.imshow(np.moveaxis(pixels[index], 0, -1))
            axis.set_title(class_names[label], fontsize=9, color=INK, pad=2)
    shown = [set(classes) for classes, _ in chosen]
    fresh = len(set.union(*shown)) == sum(len(classes) for classes in shown)
    said = "brings new classes" if fresh else "shows the same classes anew"
    figure.suptitle(f"Each task {said}: tasks 1 to {len(tasks)} of the stream", fontsize=11)
    return figure


def accuracy_over_tasks(curves: Mapping[str, ArrayLike]) -> Figure:
    """Acc_t in percent against the tasks seen, a line a method.

    `curves` gives (N,) or (seeds, N) by method; seeds are averaged, with a band from the lowest
    to the highest. A method that was measured only at the end (joint training) is a dashed line
    at its Acc.
    """
    curves = {name: np.atleast_2d(np.asarray(c, float)) for name, c in curves.items()}
    looks, last = styles(curves), {name: c[:, -1].mean() for name, c in curves.items()}
    n = max(c.shape[1] for c in curves.values())
    tasks = np.arange(1, n + 1)
    figure, axis = _figure()
    for name in sorted(last, key=last.get, reverse=True):
        mean, look = curves[name].mean(axis=0), looks[name]
        label = f"{title_of(name)}  {last[name]:.1f}"
        if np.isnan(mean[:-1]).any():
            axis.axhline(last[name], color=look["color"], linestyle="--", label=label)
            continue
        axis.plot(tasks[: len(mean)], mean, **look, markersize=5, label=label)
        if len(curves[name]) > 1:
            low, high = curves[name].min(axis=0), curves[name].max(axis=0)
            axis.fill_between(
                tasks[: len(mean)], low, high, color=look["color"], alpha=0.2, linewidth=0
            )
    axis.set(xlabel="tasks seen", ylabel="accuracy on all tasks seen, Acc$_t$ (%)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylim(0, None)
    _legend(axis, "after the last task (%)")
    _title(axis, _ranking(curves, last, n))
    return figure


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
    share = (tasks - 1) / tasks
    figure, axis = _figure()
    for name, (learning, forgetting) in means.items():
        look = looks[name]
        label = f"{title_of(name)}  {learning:.1f}, {forgetting:.1f}"
        axis.plot(forgetting, learning, **look, markersize=9, linestyle="none", label=label)
        if len(seeds[name]) > 1:
            each = seeds[name].T[::-1]
            axis.plot(*each, **look, markersize=4, alpha=0.4, linestyle="none")
    axis.grid(False)
    axis.margins(0.15)
    axis.set(xlabel="forgetting (points)", ylabel="learning accuracy (%)")
    _equal_acc_lines(axis, share)
    _legend(axis, "learned (%), lost (points)")
    learner = max(means, key=lambda name: means[name][0])
    keeper = min(means, key=lambda name: means[name][1])
    if learner == keeper:
        finding = f"{_capital(learner)} both learns most and forgets least"
    else:
        finding = (
            f"{_capital(learner)} learns most ({means[learner][0]:.0f}%), "
            f"{title_of(keeper)} forgets least ({means[keeper][1]:.0f} points)"
        )
    _title(axis, finding)
    return figure


def pareto(points: Mapping[str, tuple[ArrayLike, float]], cost: str, log: bool = False) -> Figure:
    """Acc (%) against a cost: which methods no other beats in both.

    `points` gives (Acc, a number or one a seed; cost) by method; several seeds draw their range.
    `cost` is the axis label with its unit. With `log`, the axis is logarithmic from 1 on, with 0
    at its left end.
    """
    accs = {name: np.atleast_1d(np.asarray(acc, float)) for name, (acc, _) in points.items()}
    costs = {name: float(price) for name, (_, price) in points.items()}
    means, looks = {name: acc.mean() for name, acc in accs.items()}, styles(points)
    best = [
        name
        for name in points
        if not any(
            costs[other] <= costs[name]
            and means[other] >= means[name]
            and (costs[other], -means[other]) != (costs[name], -means[name])
            for other in points
        )
    ]
    best.sort(key=costs.get)
    figure, axis = _figure()
    for name in sorted(points, key=means.get, reverse=True):
        acc, label = accs[name], f"{title_of(name)}  {means[name]:.1f}"
        spread = [[means[name] - acc.min()], [acc.max() - means[name]]] if len(acc) > 1 else None
        axis.errorbar(
            costs[name], means[name], yerr=spread, **looks[name], markersize=8, label=label
        )
    steps = [(costs[name], means[name]) for name in best]
    axis.step(*zip(*steps, strict=True), where="post", color="#bbbbbb", linewidth=1, zorder=0)
    if log:
        axis.set_xscale("symlog", linthresh=1e3)
        axis.set_xticks(
            [0, *(10.0**k for k in range(3, 1 + round(np.log10(max(1e3, *costs.values())))))]
        )
    else:
        axis.set_xlim(0, None)
    axis.set(xlabel=cost, ylabel="accuracy after the last task, Acc (%)")
    _legend(axis, "Acc (%)")
    said = ", ".join(title_of(name) for name in best)
    _title(axis, f"No method is both better and cheaper than: {said}")
    return figure


def accuracy_matrices(matrices: Mapping[str, ArrayLike]) -> Figure:
    """a[t, i] in percent as heat maps side by side on one colour scale."""
    matrices = {name: np.asarray(a, float) for name, a in matrices.items()}
    top = max(np.nanmax(a) for a in matrices.values())
    n = max(len(a) for a in matrices.values())
    figure = Figure(figsize=(1.0 + 4.3 * len(matrices), 4.4), layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, (name, a) in zip(axes, matrices.items(), strict=True):
        shades = axis.imshow(a, vmin=0, vmax=max(top, 1), cmap="cividis")
        axis.set_title(title_of(name), fontsize=10)
        axis.set(xlabel="tested on task", ylabel="after learning task")
        ticks = np.arange(len(a)) if n <= 12 else np.arange(0, len(a), 5)
        axis.set_xticks(ticks, ticks + 1)
        axis.set_yticks(ticks, ticks + 1)
        axis.spines[:].set_visible(False)
        for t, i in zip(*np.nonzero(~np.isnan(a)), strict=True):
            ink = "black" if a[t, i] > 0.55 * top else "white"
            if n <= 12:
                axis.text(i, t, f"{a[t, i]:.0f}", ha="center", va="center", color=ink, fontsize=8)
    figure.colorbar(shades, ax=axes, label="accuracy (%)", shrink=0.85)
    said = [f"{title_of(name)} {a[0, 0]:.0f}% → {a[-1, 0]:.0f}%" for name, a in matrices.items()]
    figure.suptitle("Task 1, when learned → at the end: " + ", ".join(said), fontsize=11)
    return figure


def save(figure: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write NAME.png (200 dpi) and NAME.svg (text as text); the same figure, the same bytes."""
    kinds = {"png": {"dpi": 200}, "svg": {"metadata": {"Date": None}}}
    written = []
    with mpl.rc_context(DETERMINISTIC):
        for kind, how in kinds.items():
            path = Path(folder) / f"{name}.{kind}"
            write_atomically(
                path, lambda file, kind=kind, how=how: figure.savefig(file, format=kind, **how)
            )
            written.append(path)
    return written


def _figure():
    figure = Figure(figsize=(8.2, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    return figure, axis


def _legend(axis, title: str) -> None:
    legend = axis.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, title=title, fontsize=9
    )
    legend.get_title().set(fontsize=9, color=INK)
    legend.set_alignment("left")


def _title(axis, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=11)


def _capital(method: str) -> str:
    title = title_of(method)
    return title[0].upper() + title[1:]


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


def _equal_acc_lines(axis, share: float) -> None:
    """Faint lines learning = Acc + forgetting · share within the axes' present limits."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    lowest, highest = bottom - right * share, top - left * share
    for acc in MaxNLocator(8).tick_values(max(lowest, 0), highest):
        ends = np.array([left, right])
        axis.plot(ends, acc + ends * share, color="#cccccc", linewidth=0.8, zorder=0)
        x = min(right, (top - acc) / share) if share else right
        y = acc + x * share
        if x > left + 0.1 * (right - left) and bottom < y <= top:  # clear of the axis
            axis.annotate(
                f"Acc {acc:g}",
                (x, y),
                (-3, -3),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=7,
                color="#888888",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )
    axis.set(xlim=(left, right), ylim=(bottom, top))
