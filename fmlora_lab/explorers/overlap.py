"""Subspace overlap: do the tasks' updates write into the same directions?"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ipywidgets import Dropdown, IntSlider, Play, VBox, jslink
from matplotlib.figure import Figure

from fmlora_lab.analysis.collision import known_rates
from fmlora_lab.analysis.experts import of_two_towers
from fmlora_lab.analysis.overlap import WEIGHTS, Relation, related, relation
from fmlora_lab.analysis.starts import SIDES, at_weight, said
from fmlora_lab.analysis.updates import Array
from fmlora_lab.config import title_of
from fmlora_lab.explorers.explorer import Explorer, table
from fmlora_lab.explorers.offer import dropdown, offered, run_of, told_apart
from fmlora_lab.interrupts import stopping
from fmlora_lab.plots.overlap import OverlapPair, degrees_of, signed
from fmlora_lab.plots.screen import Screen
from fmlora_lab.plots.style import styles
from fmlora_lab.runs.stored import Run

SIDE = ("left", "right")
HINT = """in the maps, purple says that two tasks change a weight in the same sense, orange in
opposite senses, white that they do not meet. {} Compare blocks and sites. The table says what of an
update is learned: a side that lies in its start stayed where it was put."""
OF_UPDATES = {
    "cores": "{}'s tasks share their bases, which task 1 fills, so that its angles to any other "
    "are 0: smaller angles, stronger overlaps of both signs.",
    "factors": "{} gives every task directions of its own: see how large its angles are, and how "
    "pale its map.",
}
"""What to look for in a method's maps, by how its updates are made."""


def hint(left: Run, right: Run, **_others: Any) -> str:
    """What to look for with these two runs' methods."""
    own = {run.method_name: OF_UPDATES[run.label.updates or ""] for run in (left, right)}
    return HINT.format(" ".join(says.format(title_of(name)) for name, says in own.items()))


@stopping("before the explorer was open")
def subspace_overlap(runs_dir: Path | str | None = None, static: bool = False) -> VBox | Figure:
    """The explorer; with `static`, the figure that it opens with.

    Offers the example runs and those in `runs_dir`. BadInput for a stored file that is damaged.
    """
    return explorer(runs_dir).shown(static)


def suits(run: Run) -> bool:
    """Whether a run's updates are known by block: those of two towers are `experts`'."""
    return run.label.updates is not None and not of_two_towers(run)


def explorer(runs_dir: Path | str | None = None) -> Explorer:
    found = offered(runs_dir, suits)
    left, right = dropdown("left", found, "fm-lora"), dropdown("right", found, "lora")
    block = Dropdown(options=[1], description="block")
    weight = Dropdown(options=[w.split(".")[1] for w in WEIGHTS], description="site")
    first = IntSlider(2, 1, 3, description="first task")
    second = IntSlider(3, 1, 3, description="second task")
    play = Play(min=1, max=3, value=3, interval=700, repeat=True, description="through the tasks")
    jslink((second, "value"), (play, "value"))

    def adjust() -> None:
        n = min(len(run_of(side).accuracy_matrix) for side in (left, right))
        for moving in (first, second, play):
            moving.max = n
        names = related(run_of(left))
        depth = [int(b) + 1 for b in dict.fromkeys(name.split(".")[1] for name in names)]
        parts = [w.split(".")[1] for w in WEIGHTS if any(name.endswith(w) for name in names)]
        for choice, options in ((block, depth), (weight, parts)):
            if list(choice.options) != options:
                now = choice.value
                choice.options = options
                choice.value = now if now in options else options[0]

    controls = {"left": left, "right": right, "block": block, "weight": weight}
    controls |= {"first": first, "second": second}
    rows = [(left, right), (block, weight, first, second, play)]
    return Explorer(controls, draw, rows, hint, adjust)


def draw(
    left: Run, right: Run, block: int, weight: str, first: int, second: int
) -> tuple[Screen, str]:
    """The figure of two runs at a weight of a block (from 1), and the numbers of two tasks."""
    name = next(f"blocks.{block - 1}.{w}" for w in WEIGHTS if w.endswith(weight))
    of = [relation(run, name) for run in (left, right)]
    picture, names = built(left, right)
    i, j = first - 1, second - 1
    picture.show(f"block {block}, {weight}", (i, j), of)
    starts = [at_weight(run, name, related(run)) for run in (left, right)]
    rates = [known_rates(run, name) for run in (left, right)]
    said = words(names, of, rates, i, j) + start_words(names, starts, i, j)
    return picture, said


@lru_cache(8)
def built(left: Run, right: Run) -> tuple[OverlapPair, tuple[str, str]]:
    """The two runs' picture, and their names: by method, if that tells them apart."""
    every = [list(related(run).values()) for run in (left, right)]
    off = [np.abs(r.overlap[~np.eye(len(r.overlap), dtype=bool)]) for of in every for r in of]
    names, titles = names_of(left, right)
    own = styles([left.method_name, right.method_name if names != SIDE else SIDE[1]])
    looks = dict(zip(names, own.values(), strict=True))
    sizes = [len(of[0].overlap) for of in every]
    sigma = [r.sigma for of in every for r in of]
    strongest = max(np.nanmax(s, initial=0) for s in sigma)  # of a weight that no task changed
    widest = max(s.shape[1] for s in sigma)
    return OverlapPair(looks, titles, sizes, max(map(np.max, off)), strongest, widest), names


def names_of(left: Run, right: Run) -> tuple[tuple[str, str], list[str]]:
    """Two runs' names, their methods' or, of one method, their sides; and what each is, at
    length."""
    names = (left.method_name, right.method_name)
    if names[0] != names[1]:
        return names, [title_of(name) for name in names]
    own = told_apart([left, right]) if left != right else [f"{title_of(names[0])}, one run"] * 2
    return SIDE, [f"{side}: {which}" for side, which in zip(SIDE, own, strict=True)]


def words(
    names: Sequence[str], of: Sequence[Relation], rates: Sequence[Array], i: int, j: int
) -> str:
    """The chosen pair's numbers, and the overlap and collision rate of its first task with every
    task."""
    titles = [title_of(name) for name in names]
    pair = {
        "overlap": [signed(r.overlap[i, j]) for r in of],
        "collision rate": [percent(rate[i, j]) for rate in rates],
        "smallest angle, written to": [smallest(r.outputs[i, j]) for r in of],
        "smallest angle, read from": [smallest(r.inputs[i, j]) for r in of],
        f"size of task {i + 1}": [f"{size(r, i):.2f}" for r in of],
        f"size of task {j + 1}": [f"{size(r, j):.2f}" for r in of],
    }
    n = min(len(r.overlap) for r in of)
    others = {
        f"task {t + 1}": [signed(r.overlap[i, t]) for r in of] + [percent(r[i, t]) for r in rates]
        for t in range(n)
        if t != i
    }
    columns = [f"{of}, {title}" for of in ("overlap", "collision") for title in titles]
    return (
        table(f"Tasks {i + 1} and {j + 1}", titles, pair)
        + table(f"Of task {i + 1} with", columns, others)
        + "<small>Size: ‖ΔW‖, the root of the sum of squared singular values. Collision rate: "
        "share of the weight's numbers that both tasks change.</small>"
    )


def start_words(names: Sequence[str], starts: Sequence[tuple[Array, Array]], i: int, j: int) -> str:
    """How much of the two tasks' spaces lies in what their factors started from."""
    sides = dict(zip(SIDES, ("written to", "read from"), strict=True))
    rows = {
        f"task {t + 1}, {sides[side]}": [
            said(share[t, n], chance[t, n]) for share, chance in starts
        ]
        for t in dict.fromkeys((i, j))
        for n, side in enumerate(SIDES)
    }
    return table("Of its start", [title_of(name) for name in names], rows) + (
        "<small>Chance: what a space that has nothing to do with the start has of it.</small>"
    )


def smallest(cosines: Array) -> str:
    """The smallest principal angle; none where a task changed nothing."""
    angles = degrees_of(cosines)
    return f"{angles[0]:.0f}°" if len(angles) else "–"


def percent(rate: float) -> str:
    """A rate in percent; none of a run that came without it."""
    return "–" if np.isnan(rate) else f"{100 * rate:.1f}%"


def size(of: Relation, task: int) -> float:
    """‖ΔW‖_F of one task's update."""
    return float(np.sqrt(np.nansum(np.square(of.sigma[task], dtype=float))))
