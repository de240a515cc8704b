"""What a stream's images look like."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fmlora_lab.plots.sheet import COLUMN, PAGE, SMALL, TINY, Width, finish, inches, panels, wrapped
from fmlora_lab.plots.style import INK


def stream_samples(
    tasks: Sequence[tuple[str, NDArray[np.uint8], ArrayLike]],
    class_names: Sequence[str],
    per_task: int = 10,
    width: Width | None = None,
) -> Figure:
    """One image of each of a task's first classes, a row a task; as wide as a column, of five at
    most.

    `tasks` holds (name, pixels uint8 (n, 3, H, W), labels (n,) into `class_names`).
    """
    chosen = [np.unique(labels, return_index=True) for _, _, labels in tasks]
    per_task = min(per_task, 5) if width == "column" else per_task
    columns = min(per_task, max(len(classes) for classes, _ in chosen))
    broad = inches(width, COLUMN if columns <= 3 else PAGE)
    side = min(0.75, (broad - 1) / columns)  # of an image, in inches
    titles = [wrapped(name, side, TINY) for name in class_names]
    tall = side + 0.1 * max(title.count("\n") + 1 for title in titles)
    figure, grid = panels(len(tasks), columns, broad, len(tasks) * tall, layout="compressed")
    for axis in grid.flat:
        axis.axis("off")
    for t, (row, (name, pixels, _), (classes, first)) in enumerate(
        zip(grid, tasks, chosen, strict=True), start=1
    ):
        said = {"transform": row[0].transAxes, "ha": "right", "va": "center", "fontsize": SMALL}
        row[0].text(-0.15, 0.5, f"task {t}\n{name}", **said)
        for axis, label, index in zip(row, classes, first, strict=False):
            axis.imshow(np.moveaxis(pixels[index], 0, -1))
            axis.set_title(titles[label], fontsize=TINY, color=INK, pad=2)
    shown = [set(classes) for classes, _ in chosen]
    fresh = len(set.union(*shown)) == sum(len(classes) for classes in shown)
    said = "brings new classes" if fresh else "shows the same classes anew"
    return finish(figure, f"Each task {said}: tasks 1 to {len(tasks)} of the stream")
