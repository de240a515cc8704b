"""The pictures of the walkthrough that no other notebook has.

A live picture has two panels, each drawn on an axis of its own, so that they stand below each other
where there is no room for both.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from numpy.typing import ArrayLike

from fmlora_lab.plots.heads import CLOSED_FORM
from fmlora_lab.plots.sheet import MARK, SMALL, TEXT, drawn
from fmlora_lab.plots.style import FAINT, FAMILY_LOOKS, INK, OTHER_COLORS, OTHER_MARKERS, family_of

WIDTH, DPI = 3.9, 140
"""Inches, so that text is read in the width that a page of 700 px leaves; and dots an inch."""
COLORS = {
    "frozen": "#BBBBBB",
    "lora": FAMILY_LOOKS["low-rank"][0],
    "fm-lora": FAMILY_LOOKS["FM-LoRA"][0],
}
"""Grey for what is frozen, the colour of a method's family for what it trains."""
TRAINED = {**FAMILY_LOOKS, "references": (OTHER_COLORS[6], "o")}
"""Colour and mark of what is trained, by its family: of the references grey would look frozen."""
BESIDE = {
    "frozen backbone": {"color": "#6B6B6B", "linestyle": "--"},
    "joint training": {"color": INK, "linestyle": "-."},
}
"""Lines beside a live curve, by what is said of them."""
HEADS = {
    "given": {"color": INK, "marker": "o", "linestyle": "--"},
    "trained": {"color": OTHER_COLORS[6], "marker": "o"},
    "means": {"color": CLOSED_FORM, "marker": "^"},
    "lda": {"color": CLOSED_FORM, "marker": "s"},
    "ridge": {"color": CLOSED_FORM, "marker": "D"},
}
SAID = ("trained head, task given", "trained head", "class means", "LDA", "ridge")
"""What `HEADS` are called."""
TASK_LOOKS = [
    {"color": color, "marker": marker}
    for color, marker in zip((INK, OTHER_COLORS[0], OTHER_COLORS[5]), OTHER_MARKERS, strict=False)
]
"""Of tasks 1, 2 and 3."""


def look_of(method: str) -> dict[str, Any]:
    """How what is trained by a method is drawn."""
    return dict(zip(("color", "marker"), TRAINED[family_of(method)], strict=True))


def png(figure: Figure) -> bytes:
    """It, as it is stored and shown."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def shown(figure: Figure) -> str:
    """HTML of a figure of one axis, with its words for those who do not see it."""
    data = f"data:image/png;base64,{base64.b64encode(png(figure)).decode()}"
    said = escape(in_words(figure.axes[0]), quote=True)
    return f'<img class="fml-lesson" alt="{said}" src="{data}" style="width: 100%">'


def in_words(axis: Axes) -> str:
    """Its title and its numbers: the last of every curve, or the marks of every row."""
    title, rows = axis.get_title(loc="left"), {}
    lines = [(str(line.get_label()), *np.asarray(line.get_data(), float)) for line in axis.lines]
    if what := axis.get_ylabel():
        last = {name: y[np.isfinite(y)][-1:] for name, _, y in lines if name[0] != "_"}
        rows = {name: y for name, y in last.items() if len(y)}
    else:
        what, names = axis.get_xlabel(), [t.get_text() for t in axis.get_yticklabels()]
        names = names or [t.get_text() for t in axis.texts if not isinstance(t, Annotation)]
        marks = [(x[0], round(y[0])) for _, x, y in lines if len(x) == 1]
        rows = {name: [x for x, row in marks if row == k] for k, name in enumerate(names)}
    said = [f"{name} {', '.join(f'{x:.3g}' for x in found)}" for name, found in rows.items()]
    return f"{title}. {what}: {'; '.join(said)}.".replace("\n", " ")


def live(
    axis: Axes,
    title: str,
    curves: Mapping[str, tuple[Sequence[float], Mapping[str, Any]]],
    epochs: int,
    tasks: int,
    levels: Mapping[str, float] = {},
) -> None:
    """Accuracy on task 1 (%) epoch by epoch: `curves` are values, as many as there are so far, and
    a look by what is said of them; `levels` are lines over all epochs.

    The axes are fixed: a live picture must not jump.
    """
    for t in range(tasks):
        axis.axvline(t * epochs + 0.5, color=INK, linewidth=0.6, linestyle=":")
        axis.text(t * epochs + 0.6, 101, f"learns task {t + 1} →", fontsize=SMALL, color=INK)
    for said, (values, look) in curves.items():
        x = range(1, len(values) + 1)
        axis.plot(x, values, **drawn(look), clip_on=False, label=said)
    for said, level in levels.items():
        axis.axhline(level, **{"linewidth": 1.2, **BESIDE[said]}, label=said)
    _fine(axis)
    axis.set(xlim=(0.5, tasks * epochs + 0.5), ylim=(0, 100), xlabel="epochs")
    axis.set_ylabel("accuracy on task 1 (%)", fontsize=TEXT)
    axis.set_xticks(range(1, tasks * epochs + 1))
    axis.grid(axis="y", color=FAINT, linewidth=0.6)
    _titled(axis, title)


def learned_and_left(
    axis: Axes,
    rows: Mapping[str, Sequence[tuple[float, float]]],
    looks: Mapping[str, Mapping[str, Any]],
    levels: Mapping[str, float],
    label: str,
) -> None:
    """A row a value, a line a training of it: mean accuracy (%) of tasks 1 and 2 when they were
    just learned, and at the end. `levels` are vertical lines."""
    for y, (value, pairs) in enumerate(rows.items()):
        for k, (learned, left) in enumerate(pairs):
            lane = y + (k - (len(pairs) - 1) / 2) * 0.2
            color = looks[value]["color"]
            axis.plot((learned, left), (lane, lane), color=color, linewidth=1.2)
            axis.plot(learned, lane, "o", color=color, markerfacecolor="white", markersize=6)
            axis.plot(left, lane, "o", color=color, markersize=6)
        if len(pairs) == 1:
            ((learned, left),) = pairs
            words = f"{learned:.0f} → {left:.0f}"
            axis.annotate(words, ((learned + left) / 2, y), (0, 5), textcoords="offset points",
                          ha="center", fontsize=SMALL, color=INK)  # fmt: skip
    for said, level in levels.items():
        axis.axvline(level, **{"linewidth": 1.2, **BESIDE[said]})
    seen = [x for pairs in rows.values() for pair in pairs for x in pair] + [*levels.values()]
    low, high = (min(seen), max(seen)) if seen else (0, 100)
    axis.set(xlim=(10 * np.floor(low / 10 - 0.5), 10 * np.ceil(high / 10 + 0.5)))
    axis.set_xlabel("mean accuracy on tasks 1 and 2 (%)")
    _rows(axis, rows, label)
    _titled(axis, "○ just learned, ● at the end")


def by_head(axis: Axes, rows: Mapping[str, Mapping[str, float]], label: str) -> None:
    """A row a value, a line a head in it: accuracy on all tasks at the end, the trained one's
    confusion, and where the others come to when carried."""
    for y, found in enumerate(rows.values()):
        _heads(axis, y, found)
    axis.set(xlim=(0, 100), xlabel="mean accuracy on all tasks at the end (%)")
    _rows(axis, rows, label)
    _titled(axis, "each head at the end; → carried along")


def _heads(axis: Axes, y: float, found: Mapping[str, float]) -> None:
    low, high = found["trained"], found["given"]
    axis.plot((low, high), (y - 0.3, y - 0.3), color=FAINT, linewidth=3, zorder=1)
    axis.annotate(
        f"{low - high:.0f}".replace("-", "−"), ((low + high) / 2, y - 0.3), (0, 2),
        textcoords="offset points", ha="center", fontsize=SMALL, color=INK,
    )  # fmt: skip
    for lane, (name, look) in zip((-0.3, -0.3, -0.1, 0.1, 0.3), HEADS.items(), strict=True):
        axis.plot(found[name], y + lane, **drawn({**look, "linestyle": "none"}))
        carried = found.get(f"{name}-carried", found[name])
        if carried != found[name]:
            axis.annotate(
                "", (carried, y + lane), (found[name], y + lane),
                arrowprops={
                    "arrowstyle": "->", "color": look["color"], "shrinkA": 0, "shrinkB": 0,
                    "mutation_scale": 7,
                },
            )  # fmt: skip


def marks(
    axis: Axes,
    rows: Mapping[str, Sequence[float]],
    said: Sequence[str],
    label: str,
    xlabel: str,
    title: str,
) -> None:
    """A row a value, in it a mark and its number for each of what is `said`."""
    for y, found in enumerate(rows.values()):
        for k, (x, look) in enumerate(zip(found, TASK_LOOKS, strict=True)):
            lane = y + (k - 1) * 0.24
            words = str(x) if isinstance(x, int) else f"{x:.2f}".replace("-", "−")
            axis.plot(x, lane, **drawn({**look, "linestyle": "none"}, 1.3 * MARK))
            axis.annotate(words, (x, lane), (6, 0), va="center",
                          textcoords="offset points", fontsize=SMALL, color=INK)  # fmt: skip
    for name, look in zip(said, TASK_LOOKS, strict=True):
        axis.plot([], [], **drawn({**look, "linestyle": "none"}), label=name)
    seen = [x for found in rows.values() for x in found] or [1.0]
    axis.set(xlim=(min(0, 1.1 * min(seen)), 1.15 * max(seen)), xlabel=xlabel)
    _rows(axis, rows, label)
    named_below(axis)
    _titled(axis, title)


def scored(
    axis: Axes,
    ranks: Sequence[int],
    tasks: Sequence[tuple[float, ArrayLike]],
    title: str,
) -> None:
    """Scores of the candidate `ranks`, (H, scores) a task from the second on; the winner has a
    ring."""
    for t, ((H, scores), look) in enumerate(zip(tasks, TASK_LOOKS[1:], strict=False), start=2):
        axis.plot(ranks, scores, **drawn(look), label=f"task {t}, H = {H:.2f}")
        best = int(np.argmax(scores))
        ring = {"markersize": 11, "markerfacecolor": "none"}
        axis.plot(ranks[best], np.asarray(scores)[best], "o", color=look["color"], **ring)
    _fine(axis)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ranks, [str(r) for r in ranks])
    axis.set(xlabel="rank r")
    axis.set_ylabel("score", fontsize=TEXT)
    axis.grid(axis="y", color=FAINT, linewidth=0.6)
    _titled(axis, title)


def _fine(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    axis.xaxis.label.set_fontsize(TEXT)


def _rows(axis: Axes, names: Mapping[str, Any], label: str) -> None:
    """Rows from above, with room for three; what they are called together stands above them."""
    _fine(axis)
    axis.set_yticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    axis.text(-0.02, 1.03, label.replace(" ", "\n"), ha="right", fontsize=SMALL,
              transform=axis.transAxes, color=INK)  # fmt: skip
    axis.set_ylim(max(len(names), 3) - 0.4, -0.7)
    axis.grid(axis="x", color=FAINT, linewidth=0.6)


def _titled(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=TEXT, loc="left", pad=16)


def named_below(axis: Axes) -> None:
    """What curves are called, below the axis, in the order in which they were drawn."""
    handles, labels = axis.get_legend_handles_labels()
    if not handles:
        return
    axis.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3,
                frameon=False, fontsize=SMALL, columnspacing=1.2)  # fmt: skip


def mistaken(pixels: ArrayLike, said: Sequence[str]) -> Figure:
    """Images, uint8 (n, 3, H, W), four in a row, each under what is said of it."""
    images = np.moveaxis(np.asarray(pixels), 1, -1)
    rows = -(-len(images) // 4)
    figure = Figure((WIDTH, 1.45 * rows), dpi=DPI, layout="compressed")
    axes = figure.subplots(rows, 4, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, words in zip(axes.flat, images, said, strict=False):
        axis.imshow(image)
        axis.set_title(words, fontsize=TEXT, color=INK)
    return figure


def shapes(parts: Sequence[tuple[str, float, float, str, str]]) -> Figure:
    """Matrices side by side, drawn to scale: (name, rows, columns, colour, sign before it)."""
    tall = max(rows for _, rows, *_ in parts)
    gap = 0.3 * tall
    wide = sum(columns for _, _, columns, *_ in parts) + gap * (len(parts) + 1)
    figure, axis = _sheet(wide, 1.75 * tall)
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
    figure, axis = _sheet(len(names) + 1, 3)
    for i, (name, color) in enumerate(zip(names, colors, strict=True)):
        axis.add_patch(Rectangle((i + 0.55, -0.5), 0.9, 1, facecolor=color, edgecolor="none"))
        ink = "black" if color == COLORS["frozen"] else "white"
        axis.text(i + 1, 0, name, ha="center", va="center", fontsize=5, color=ink)
    for said, first, count in (
        (f"P: {prompts} tokens that learn", 1, prompts),
        (f"the image: {patches} patches", 1 + prompts, patches),
    ):
        axis.text(first + 0.5 + count / 2, -0.65, said, ha="center", va="top", fontsize=SMALL)
    axis.text(0.55, 0.65, "↓ read by the classifier", va="bottom", fontsize=SMALL)
    return figure


def _sheet(wide: float, tall: float) -> tuple[Figure, Axes]:
    """Empty paper, 0 to `wide` across, `tall` high around 0."""
    figure = Figure((WIDTH, min(WIDTH * tall / wide, 2.4)), dpi=DPI)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, wide), ylim=(-tall / 2, tall / 2), aspect="equal")
    axis.axis("off")
    return figure, axis
