"""The pictures of the walkthrough that no other notebook has."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from fmlora_lab.plots.heads import CLOSED_FORM
from fmlora_lab.plots.sheet import PAGE, SMALL, TEXT, drawn, keys
from fmlora_lab.plots.style import FAINT, FAMILY_LOOKS, INK, OTHER_COLORS, OTHER_MARKERS, styles

Accuracies = Sequence[Sequence[float]]
"""A row an epoch: accuracy in percent on each task so far."""
COLORS = {
    "frozen": "#BBBBBB",
    "bases": "#777777",
    "lora": FAMILY_LOOKS["low-rank"][0],
    "fm-lora": FAMILY_LOOKS["FM-LoRA"][0],
}
"""Grey for what is frozen, the colour of a method's family for what it trains."""
HEADS = {
    "given": {"color": INK, "marker": "o", "linestyle": "--"},
    "trained": {"color": OTHER_COLORS[6], "marker": "o"},
    "means": {"color": CLOSED_FORM, "marker": "^"},
    "lda": {"color": CLOSED_FORM, "marker": "s"},
    "ridge": {"color": CLOSED_FORM, "marker": "D"},
}
SAID = ("trained head, task given", "trained head", "class means", "LDA", "ridge")
"""What `HEADS` are called."""


def progress(
    runs: Mapping[str, Accuracies],
    methods: Mapping[str, str],
    ranks: Mapping[str, Sequence[int]],
    epochs: int,
    tasks: int,
    label: str,
) -> Figure:
    """Left, the last of `runs` epoch by epoch, a curve a task; right, all that ended.

    `runs`, `methods` and the tasks' `ranks`, where the method chose some, are by the value that
    was chosen on the control. The layout is fixed: a live picture
    must not jump.
    """
    figure, live, ended = _pair(2.9, bottom=0.16)
    _live(live, runs[last] if (last := list(runs)[-1]) else [], epochs, tasks)
    live.set_title(f"{label}: {last}", fontsize=TEXT, loc="left", pad=18)
    done = {v: a for v, a in runs.items() if len(a) == epochs * tasks}
    _ended(ended, done, methods, epochs)
    names = [f"{v}\nr = {', '.join(map(str, ranks[v]))}" if ranks[v] else v for v in done]
    ended.set_yticks(range(len(done)), names)
    ended.set_ylabel(label, fontsize=TEXT)
    return figure


def _pair(height: float, bottom: float) -> tuple[Figure, Axes, Axes]:
    """Two panels with room for titles above, and below from `bottom`, in shares of the height."""
    figure = Figure(figsize=(PAGE, height), dpi=130)
    live, ended = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1.25, 1)})
    top = 1 - 0.58 / height
    figure.subplots_adjust(left=0.075, right=0.98, bottom=bottom, top=top, wspace=0.34)
    for axis in (live, ended):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=SMALL, width=0.6, length=2.5)
        axis.xaxis.label.set_size(TEXT)
    return figure, live, ended


def _live(axis: Axes, accuracies: Accuracies, epochs: int, tasks: int) -> None:
    shades, ends = mpl.colormaps["cividis"](np.linspace(0, 0.85, tasks)), {}
    for i in range(tasks):
        known = [(e + 1, row[i]) for e, row in enumerate(accuracies) if len(row) > i]
        look = {"color": shades[i], "marker": OTHER_MARKERS[i]}
        axis.plot(*np.reshape(known, (-1, 2)).T, **drawn(look), clip_on=False)
        if known:
            ends[i] = known[-1][1]
    lifted = -np.inf  # labels of curves that end together stand on each other
    for i in sorted(ends, key=ends.__getitem__):
        lifted = max(ends[i], lifted + 6)
        axis.annotate(
            f"task {i + 1}", (len(accuracies), lifted), (5, 0), textcoords="offset points",
            va="center", fontsize=SMALL, color=shades[i], annotation_clip=False,
        )  # fmt: skip
    _epochs(axis, epochs, tasks)
    axis.set_ylabel("accuracy on each task (%)", fontsize=TEXT)


def _epochs(axis: Axes, epochs: int, tasks: int) -> None:
    """Accuracies over epochs, and where each task begins."""
    for t in range(tasks):
        axis.axvline(t * epochs + 0.5, color=INK, linewidth=0.6, linestyle=":")
        axis.text(t * epochs + 0.6, 104, f"learns task {t + 1} →", fontsize=SMALL, color=INK)
    axis.set(xlim=(0.5, tasks * epochs + 1.3), ylim=(0, 103), xlabel="epochs")
    axis.set_xticks(range(1, tasks * epochs + 1))
    axis.grid(axis="y", color=FAINT, linewidth=0.6)


def _ended(
    axis: Axes, runs: Mapping[str, Accuracies], methods: Mapping[str, str], epochs: int
) -> None:
    """A row a value: mean accuracy of the earlier tasks when learned, and at the end."""
    for y, (value, accuracies) in enumerate(runs.items()):
        rows = accuracies[epochs - 1 :: epochs]
        learned = np.mean([row[-1] for row in rows[:-1]])
        left = np.mean(rows[-1][:-1])
        color = styles([methods[value]])[methods[value]]["color"]
        axis.plot((learned, left), (y, y), color=color, linewidth=1.2)
        axis.plot(learned, y, "o", color=color, markerfacecolor="white", markersize=6)
        axis.plot(left, y, "o", color=color, markersize=6)
        axis.annotate(
            f"{left - learned:+.0f}".replace("-", "−"), ((learned + left) / 2, y), (0, 4),
            textcoords="offset points", ha="center", fontsize=SMALL, color=INK,
        )  # fmt: skip
    axis.set_title("tasks 1 and 2: ○ just learned, ● at the end", fontsize=TEXT, loc="left", pad=18)
    axis.set(xlim=(0, 100), ylim=(max(len(runs), 3) - 0.5, -0.7), xlabel="mean accuracy (%)")
    axis.grid(axis="x", color=FAINT, linewidth=0.6)


def heads(
    value: str,
    among_all: Sequence[float],
    given: Sequence[float],
    ends: Mapping[str, ArrayLike],
    done: Mapping[str, Mapping[str, float]],
    epochs: int,
    tasks: int,
    label: str,
) -> Figure:
    """Left, accuracy on the first task epoch by epoch, and at the tasks' `ends` by head; right, all
    tasks' mean by head, of every training that is `done`. `value` is what is trained now.

    Percent; heads by their names in results, and "given" for the trained one with the task given.
    """
    figure, live, ended = _pair(3.2, bottom=0.24)
    for name, rows in (("trained", among_all), ("given", given)):
        live.plot(range(1, len(rows) + 1), rows, **drawn(HEADS[name]), clip_on=False)
    for name in ("means", "lda", "ridge"):
        left = np.asarray(ends.get(name, ()), float)
        look = {**HEADS[name], "linewidth": 0.6}
        live.plot(epochs * np.arange(1, len(left) + 1), left, **drawn(look), clip_on=False)
    _epochs(live, epochs, tasks)
    live.set_ylabel("accuracy on task 1 (%)", fontsize=TEXT)
    live.set_title(f"{label}: {value}", fontsize=TEXT, loc="left", pad=18)
    for y, by_head in enumerate(done.values()):
        _heads_ended(ended, y, by_head)
    ended.set_yticks(range(len(done)), done)
    ended.set(xlim=(0, 100), ylim=(max(len(done), 3) - 0.5, -0.6), xlabel="mean accuracy (%)")
    ended.set_title("all tasks at the end; → carried along", fontsize=TEXT, loc="left", pad=18)
    ended.grid(axis="x", color=FAINT, linewidth=0.6)
    named = keys(dict(zip(SAID, HEADS.values(), strict=True)))
    figure.legend(named, SAID, loc="lower center", ncols=5, frameon=False, fontsize=SMALL)
    return figure


def _heads_ended(axis: Axes, y: float, by_head: Mapping[str, float]) -> None:
    """A line a head, one under the other: the trained one's confusion, and where the others come
    to when carried."""
    low, high = by_head["trained"], by_head["given"]
    axis.plot((low, high), (y - 0.3, y - 0.3), color=FAINT, linewidth=3, zorder=1)
    axis.annotate(
        f"{low - high:.0f}".replace("-", "−"), ((low + high) / 2, y - 0.3), (0, 2),
        textcoords="offset points", ha="center", fontsize=SMALL, color=INK,
    )  # fmt: skip
    for lane, (name, look) in zip((-0.3, -0.3, -0.1, 0.1, 0.3), HEADS.items(), strict=True):
        axis.plot(by_head[name], y + lane, **drawn({**look, "linestyle": "none"}))
        carried = by_head.get(f"{name}-carried", by_head[name])
        if carried != by_head[name]:
            axis.annotate(
                "", (carried, y + lane), (by_head[name], y + lane),
                arrowprops={
                    "arrowstyle": "->", "color": look["color"], "shrinkA": 0, "shrinkB": 0,
                    "mutation_scale": 7,
                },
            )  # fmt: skip


def mistaken(pixels: ArrayLike, said: Sequence[str]) -> Figure:
    """Images, uint8 (n, 3, H, W), in a row, each under what is said of it."""
    images = np.moveaxis(np.asarray(pixels), 1, -1)
    figure = Figure(figsize=(PAGE, PAGE / len(images) + 0.5), dpi=130, layout="compressed")
    axes = figure.subplots(1, len(images), squeeze=False)
    for axis, image, words in zip(axes.flat, images, said, strict=True):
        axis.imshow(image)
        axis.set_title(words, fontsize=SMALL, color=INK)
        axis.axis("off")
    return figure


def shapes(parts: Sequence[tuple[str, float, float, str, str]]) -> Figure:
    """Matrices side by side, drawn to scale: (name, rows, columns, colour, sign before it)."""
    tall = max(rows for _, rows, *_ in parts)
    gap = 0.3 * tall
    wide = sum(columns for _, _, columns, *_ in parts) + gap * (len(parts) + 1)
    figure, axis = _sheet(wide, 1.45 * tall)
    x = gap
    for name, rows, columns, color, sign in parts:
        axis.text(x - gap / 2, 0, sign, ha="center", va="center", fontsize=TEXT + 3, color=INK)
        axis.add_patch(Rectangle((x, -rows / 2), columns, rows, facecolor=color, edgecolor=INK))
        below = (x + columns / 2, -rows / 2 - 0.04 * tall)
        axis.text(*below, name, ha="center", va="top", fontsize=SMALL, color=INK)
        x += columns + gap
    return figure


def tokens(prompts: int, patches: int) -> Figure:
    """What the first block sees: [CLS], the prompt's tokens, the patches' tokens."""
    names = ["CLS"] + [f"P{i + 1}" for i in range(prompts)] + [str(i + 1) for i in range(patches)]
    colors = [INK] + prompts * [COLORS["fm-lora"]] + patches * [COLORS["frozen"]]
    figure, axis = _sheet(len(names) + 1, 2.6)
    for i, (name, color) in enumerate(zip(names, colors, strict=True)):
        axis.add_patch(Rectangle((i + 0.55, -0.5), 0.9, 1, facecolor=color, edgecolor="none"))
        ink = "black" if color == COLORS["frozen"] else "white"
        axis.text(i + 1, 0, name, ha="center", va="center", fontsize=SMALL - 1, color=ink)
    for said, first, count in (
        (f"the meta-prompt P: {prompts} tokens that learn", 1, prompts),
        (f"the image: {patches} patches", 1 + prompts, patches),
    ):
        axis.text(first + 0.5 + count / 2, -0.65, said, ha="center", va="top", fontsize=SMALL)
    axis.text(0.55, 0.65, "read by the classifier ↓", va="bottom", fontsize=SMALL)
    return figure


def _sheet(wide: float, tall: float) -> tuple[Figure, Axes]:
    """A page's width of empty paper, 0 to `wide` across, `tall` high around 0."""
    figure = Figure(figsize=(PAGE, min(PAGE * tall / wide, 2.4)), dpi=130)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, wide), ylim=(-tall / 2, tall / 2), aspect="equal")
    axis.axis("off")
    return figure, axis
