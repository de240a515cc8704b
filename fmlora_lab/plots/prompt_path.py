"""The meta-prompt's way through the tasks, above the accuracy along the same tasks."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fmlora_lab.analysis.prompt_drift import Drift
from fmlora_lab.plots.screen import Screen
from fmlora_lab.plots.sheet import MARK, SMALL, TEXT, drawn, whole_numbers
from fmlora_lab.plots.style import INK, OWN, styles

LOOK = styles([OWN])[OWN]
OURS = LOOK["color"]
GREY = "#BBBBBB"


class PromptPath(Screen):
    """Of one run: `drift` of its prompts, accuracy matrix a (N, N) and Acc_t (N,), in percent."""

    def __init__(self, drift: Drift, a: NDArray, acc: NDArray):
        super().__init__(4.65)
        self.drift, self.a = drift, a
        n, m = drift.norms.shape
        self.tasks = np.arange(1, n + 1)
        plane = self.place(0.55, 1.05, 3.05, 3.1)
        self._add_paths(plane, m)
        bottoms, names = (3.23, 1.97, 0.7), ("cosine", "norm", "accuracy (%)")
        axes = [self.place(4.3, bottom, 2.8, 0.92) for bottom in bottoms]
        titles = ("tokens' cosine to their past", "tokens' length", "accuracy")
        for axis, name, title in zip(axes, names, titles, strict=True):
            axis.set_ylabel(name)
            axis.set_title(title, fontsize=TEXT, pad=3)
            axis.set_xlim(0.6, n + 0.4)
            axis.xaxis.set_major_locator(whole_numbers())
        for axis in axes[:-1]:
            axis.tick_params(labelbottom=False)
        axes[-1].set_xlabel("tasks seen")
        self._add_curves(axes[0], axes[1])
        self._add_accuracy(axes[2], acc)
        self.now = [self.moves(axis.axvline(1, color=INK, linewidth=0.8)) for axis in axes]
        self._add_legend()
        self.headline(plane)

    def show(self, task: int, token: int | None, earlier: int) -> None:
        """The prompt after `task` (from 0), one `token` (from 0) or all, accuracy on `earlier`."""
        drift, t = self.drift, task
        tokens = range(drift.norms.shape[1])
        for k in tokens:
            chosen = token is None or k == token
            ways = drift.path[: t + 1, k]
            self.ways[k].set_data(*ways.T)
            self.ways[k].set_visible(chosen)
            self.marks[k].set_data(*ways[-1:].T)
            self.marks[k].set_alpha(1 if chosen else 0.35)
            self.numbers[k].set_position(ways[-1])
        picked = list(tokens) if token is None else [token]
        values = (drift.to_first, drift.to_previous, drift.norms)
        for line, of in zip(self.means, values, strict=True):
            line.set_data(self.tasks, of[:, picked].mean(axis=1))
        for line in self.now:
            line.set_xdata([t + 1, t + 1])
        self.on_earlier.set_data(self.tasks[earlier:], self.a[earlier:, earlier])
        who = "all tokens" if token is None else f"token {token + 1}"
        cosine = f"{drift.to_first[t, picked].mean():.2f}"
        right = f"{self.a[t, earlier]:.0f}% right" if t >= earlier else "yet to come"
        self.said.set_text(
            f"After task {t + 1}: {who} at cosine {cosine} to after task 1, "
            f"task {earlier + 1} {right}"
        )

    def _add_paths(self, plane: Axes, m: int) -> None:
        for k in range(m):
            plane.plot(*self.drift.path[:, k].T, color=GREY, linewidth=0.7)
            plane.plot(*self.drift.path[:1, k].T, color="white", marker="o", markersize=MARK,
                       markeredgecolor=GREY)  # fmt: skip
        self.ways = [self.moves(plane.plot([], [], color=OURS, linewidth=1.2)[0]) for _ in range(m)]
        look = {**drawn(LOOK, 10), "linestyle": "none"}
        self.marks = [self.moves(plane.plot([], [], **look)[0]) for _ in range(m)]
        said = {"color": "white", "fontsize": SMALL, "ha": "center", "va": "center_baseline"}
        self.numbers = [self.moves(plane.text(0, 0, str(k + 1), **said)) for k in range(m)]
        plane.set_aspect("equal", adjustable="datalim")
        plane.set(xlabel="first principal component", ylabel="second principal component")
        share = f"{100 * self.drift.shown:.0f}%"
        plane.set_title(f"the tokens in one plane ({share} of their variation)", fontsize=TEXT)

    def _add_curves(self, cosine: Axes, norm: Axes) -> None:
        drift = self.drift
        lowest = min(np.nanmin(drift.to_first), np.nanmin(drift.to_previous, initial=1))
        cosine.set_ylim(min(lowest, 0.9) - 0.03, 1.03)
        norm.set_ylim(0, 1.1 * drift.norms.max())
        self.means = []
        for axis, of, dashes in (
            (cosine, drift.to_first, "-"),
            (cosine, drift.to_previous, (0, (2, 1.2))),
            (norm, drift.norms, "-"),
        ):
            known = ~np.isnan(of).any(axis=1)
            band = (self.tasks[known], of[known].min(axis=1), of[known].max(axis=1))
            axis.fill_between(*band, color=OURS, alpha=0.15, linewidth=0)
            self.means.append(
                self.moves(axis.plot([], [], color=OURS, linewidth=1.2, linestyle=dashes)[0])
            )

    def _add_accuracy(self, axis: Axes, acc: NDArray) -> None:
        axis.set_ylim(0, 100)
        axis.plot(self.tasks, acc, **drawn({"color": OURS, "marker": "o"}))
        look = {**drawn({"color": "black", "marker": "s"}), "linestyle": ":"}
        self.on_earlier = self.moves(axis.plot([], [], **look)[0])

    def _add_legend(self) -> None:
        looks = {
            "cosine to after task 1": {"color": OURS},
            "cosine to the task before": {"color": OURS, "linestyle": (0, (2, 1.2))},
            "accuracy on all tasks seen": drawn({"color": OURS, "marker": "o"}),
            "on the earlier task": {**drawn({"color": "black", "marker": "s"}), "linestyle": ":"},
        }
        self.legend([Line2D([], [], **look, label=name) for name, look in looks.items()], 4)
