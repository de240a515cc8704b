"""Features: how the test images of a task move in a plane that stays, and where [CLS] looks."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ipywidgets import IntSlider, Play, VBox, jslink
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fmlora_lab import progress
from fmlora_lab.config import BadInput
from fmlora_lab.explorers.explorer import Explorer, Spots, table
from fmlora_lab.explorers.offer import dropdown, offered, run_of
from fmlora_lab.interrupts import stopping
from fmlora_lab.plots.feature_plane import FeaturePlane, Followed
from fmlora_lab.plots.screen import Screen
from fmlora_lab.runs.folder import Arrays
from fmlora_lab.runs.stored import Run

if TYPE_CHECKING:
    from fmlora_lab.explorers.images import TestImages

KEPT = "features"
"""Under which a run keeps what is computed of it for this explorer."""
SMALL = {
    "benchmark.train_images": 12, "benchmark.test_images": 25, "training.epochs": 3,
}  # fmt: skip
"""A run that trains in about half a minute, where there is none."""
HINT = """go from just before a task is learned to the end. Learning it draws its classes apart,
for which the plane was chosen. While later tasks are learned the points move on, and with them the
stars, their classes' means. A diamond stays where the mean was kept, a cross is that mean
carried along the drift: which of the two is nearer to the star? Ringed images are called wrongly.
Beside it: does [CLS] look where it looked before the task, and does it without the prompt? Point at
an image to see it, press it to choose it."""


@stopping("before the explorer was open")
def features(runs_dir: Path | str | None = None, static: bool = False) -> VBox | Figure:
    """The explorer; with `static`, the figure that it opens with.

    Offers the runs of which features are kept, and those in `runs_dir` that have their factors, of
    which they are computed once. Where there is none, a small run is trained. BadInput for a stored
    file that is damaged.
    """
    return explorer(runs_dir).shown(static)


def explorer(runs_dir: Path | str | None = None) -> Explorer:
    """The page, for who wants its controls."""
    run = dropdown("run", offered_or_trained(runs_dir), "fm-lora")
    n = len(run_of(run).accuracy_matrix)
    block = IntSlider(1, 1, n, description="classes of task")
    after = IntSlider(1, 0, n, description="after task")
    image = IntSlider(1, 1, 1, description="image")
    play = Play(min=0, max=n, value=1, interval=900, description="through the tasks")
    jslink((after, "value"), (play, "value"))

    def adjust() -> None:
        last = len(run_of(run).accuracy_matrix)
        block.max = after.max = play.max = last
        after.min = play.min = block.value - 1
        image.max = len(kept_of(run_of(run))[f"attended.{block.value - 1}"])

    def press(axis: Axes, x: float, y: float) -> None:
        picture, k = built(run_of(run)), block.value - 1
        if axis is picture.plane:
            now = picture.tasks[k].points[after.value - k]
            attended = kept_of(run_of(run))[f"attended.{block.value - 1}"]
            image.value = 1 + int(np.hypot(*(now[attended] - (x, y)).T).argmin())

    controls = {"run": run, "block": block, "after": after, "image": image}
    rows = [(run, block), (after, play, image)]
    return Explorer(controls, draw, rows, HINT, adjust, press, spots, waiting)


def offered_or_trained(runs_dir: Path | str | None) -> dict[str, Run]:
    """What suits, by label; a small run where nothing does."""
    try:
        return offered(runs_dir, suits)
    except BadInput:
        from fmlora_lab import configure, run  # which bring torch

        progress.say("no run here has its trained factors: a small one is trained, once")
        run(configure("fm-lora", "glyphs", "demo", SMALL), runs_dir)
        return offered(runs_dir, suits)


def suits(run: Run) -> bool:
    """Whether features are kept with a run, or can be computed of it."""
    if run.label.updates is None or run.label.one_task:
        return False
    return not run.shipped or run.folder.has(f"derived/{KEPT}.safetensors")


@lru_cache(4)
def kept_of(run: Run) -> Arrays:
    """What `feature_states.measured` has of a run, kept with it."""

    def compute() -> Arrays:
        from fmlora_lab.explorers.feature_states import measured  # which brings torch

        return measured(run)

    return run.derived_arrays(KEPT, compute)


def waiting(run: Run, **_others: Any) -> str:
    """What is said while features are computed; nothing where they are kept."""
    if run.folder.has(f"derived/{KEPT}.safetensors"):
        return ""
    return f"The features of run {run.id} are being computed, once: about a minute."


@lru_cache(4)
def images_there(run: Run) -> "TestImages | None":
    """The run's test images; None where they are not here."""
    from fmlora_lab.explorers.images import images_of  # which brings torch

    try:
        return images_of(run)
    except BadInput:
        return None


@lru_cache(4)
def built(run: Run) -> FeaturePlane:
    kept, names = kept_of(run), run.environment["class_names"]

    def of_task(k: int) -> Followed:
        points, means, attention = (
            kept[f"{name}.{k}"].astype(float) for name in ("points", "means", "attention")
        )
        labels, classes = kept[f"labels.{k}"], kept[f"classes.{k}"]
        return Followed(points, labels, classes, [names[c] for c in classes], means, attention)

    return FeaturePlane([of_task(k) for k in range(run.result["task_files"])])


def draw(run: Run, block: int, after: int, image: int) -> tuple[Screen, str]:
    """The figure of a task's images (tasks from 1) after a task, 0 for none, and of one of them
    (from 1) the attention."""
    kept, k = kept_of(run), block - 1
    picture, s, number = built(run), after - k, image - 1
    place = int(kept[f"attended.{k}"][number])
    wrong = wrong_ones(run, k, after)
    when = f"after task {after}" if after else "before task 1"
    if wrong is None:
        said = f"The images of task {block} {when}, before it is learned"
    else:
        said = f"The images of task {block} {when}: {wrong.sum()} of {len(wrong)} called wrongly"
    pixels = np.ones((2, 2, 3))
    found = images_there(run)
    if found is not None:
        pixels = found.pixels(int(kept[f"images.{k}"][place]))
    picture.show(k, s, wrong, place, number, pixels, said)
    return picture, words(picture, k, s, number)


def wrong_ones(run: Run, k: int, after: int) -> NDArray[np.bool_] | None:
    """Which of task k's images the trained head calls wrongly after a task (from 1); None before
    task k is learned, and where it is not known."""
    said = {} if after <= k else run.said(after - 1)
    if "trained" not in said:
        return None
    kept = kept_of(run)
    return said["trained"][kept[f"images.{k}"]] != kept[f"labels.{k}"]


def spots(screen: Screen, run: Run, block: int, after: int, **_others: Any) -> Spots:
    """What each point is, and all of the task's images."""
    assert isinstance(screen, FeaturePlane)
    k, kept, names = block - 1, kept_of(run), run.environment["class_names"]
    numbers, labels = kept[f"images.{k}"].tolist(), kept[f"labels.{k}"].tolist()
    said = run.said(after - 1).get("trained") if after > k else None
    where = screen.shown_at(screen.plane, screen.tasks[k].points[after - k]).round(4).tolist()
    entries = []
    for (x, y), number, label in zip(where, numbers, labels, strict=True):
        text = names[label]
        if said is not None and said[number] != label:
            text += f", called {names[said[number]]}"
        entries.append({"x": x, "y": y, "text": text, "image": str(number)})
    return entries, addresses(run, k)


@lru_cache(4)
def addresses(run: Run, k: int) -> dict[str, str]:
    """Of task k's images, by their number; none where they are not here."""
    found = images_there(run)
    if found is None:
        return {}
    return {str(n): found.address(n) for n in kept_of(run)[f"images.{k}"].tolist()}


def words(picture: FeaturePlane, k: int, s: int, number: int) -> str:
    """How far kept and carried means are off, and the attention in numbers."""
    of_task = picture.tasks[k]
    now, kept, carried = of_task.means[:, s]
    off = {
        name: ["–" if np.isnan(of).all() else f"{np.hypot(*(of - now).T).mean():.3f}"]
        for name, of in (("kept", kept), ("carried", carried))
    }
    looks = {}
    for when, state in (("before", s - 1), ("after", s)):
        for n, how in enumerate((", with prompt", ", without") if picture.prompted else ("",)):
            shares = [of(of_task.attention[state, n, number]) for of in LOOKS.values()]
            said = [f"{100 * share:.0f}%" if state >= 0 else "–" for share in shares]
            looks[f"{when}{how}"] = said
    return (
        table("Class means", ["off by, in the plane"], off)
        + "<small>Distance from the mean of the class's training images as they are now, as a mean "
        "over the task's classes; a feature has length 1.</small>"
        + table("[CLS] looks at", list(LOOKS), looks)
        + "<small>In the last block, as a mean over its heads.</small>"
    )


LOOKS = {
    "itself": lambda a: a[0],
    "prompt": lambda a: a[1],
    "image": lambda a: a[2:].sum(),
    "one patch": lambda a: a[2:].max(),
}
"""What is said of the attention to [CLS], to the prompt and to each patch."""
