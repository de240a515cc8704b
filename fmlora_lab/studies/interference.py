"""27: do the updates of different tasks collide, and does that predict forgetting?"""

import numpy as np
import pandas as pd

from fmlora_lab import plots
from fmlora_lab.analysis.subspaces import measured
from fmlora_lab.runs.store import Run
from fmlora_lab.studies.study import LOW_RANK, Found, Study, listed, title_of


class Interference(Study):
    name = "interference"
    title = "Do the tasks' updates collide?"
    question = "Whose task updates overlap, and does overlap predict forgetting?"
    methods = LOW_RANK
    only = LOW_RANK

    def cells(self):
        for method in self.chosen:
            for seed in self.seed_list:
                yield self.cell(method, seed)

    def figures(self, found: Found):
        collisions, angles = (
            {m: between(measured(found.one(method=m))[what]) for m in self.chosen}
            for what in ("collision", "input_cosine")
        )
        table = self._numbers(found)
        alike = table.input_cosine.idxmax()
        worst, least = table.collision.idxmax(), table.collision.idxmin()
        pairs = {m: self._pairs(found.one(method=m)) for m in self.chosen}
        rho = {m: spearman(*pair) for m, pair in pairs.items()}
        strongest = max(rho, key=lambda m: abs(rho[m]))
        return {
            "collision": plots.heatmaps(
                collisions,
                "task",
                "task",
                "|⟨ΔW$_i$, ΔW$_j$⟩| / (‖ΔW$_i$‖ ‖ΔW$_j$‖)",
                f"{title_of(worst)}'s updates collide most (mean {table.collision[worst]:.2f}), "
                f"{title_of(least)}'s least ({table.collision[least]:.2f})",
                low=0,
            ),
            "input_angles": plots.heatmaps(
                angles,
                "task",
                "task",
                "mean cosine of the principal angles",
                f"Tasks read from the most alike directions in {title_of(alike)} (mean cosine "
                f"{table.input_cosine[alike]:.2f})",
                low=0,
                high=1,
            ),
            "collision_and_forgetting": plots.scatter(
                pairs,
                "collision of ΔW$_t$ with task i's ΔW$_i$",
                "accuracy lost on task i while t is learned (points)",
                f"Collision says little of what is lost (strongest: {title_of(strongest)}, "
                f"{rho[strongest]:+.2f})"
                if abs(rho[strongest]) < 0.3
                else f"Collision goes with what is lost most in {title_of(strongest)} "
                f"({rho[strongest]:+.2f})",
            ),
        }

    def table(self, found: Found) -> pd.DataFrame:
        table = self._numbers(found)
        shown = pd.DataFrame(
            {
                "mean collision of two tasks": table.collision.map("{:.3f}".format),
                "mean signed overlap": table.overlap.map("{:+.3f}".format),
                "cosine of input directions": table.input_cosine.map("{:.2f}".format),
                "cosine of output directions": table.output_cosine.map("{:.2f}".format),
                "‖ΔW‖ of a task": table.norm.map("{:.2f}".format),
                "forgetting (points)": table.forgetting.map("{:.1f}".format),
                "Spearman, collision with loss": table.rho.map("{:+.2f}".format),
            }
        )
        shown.index = [title_of(m) for m in shown.index]
        return shown

    def answer(self, found: Found) -> str:
        table = self._numbers(found)
        said = [f"{title_of(m)} {row.collision:.2f}" for m, row in table.iterrows()]
        rho = [f"{title_of(m)} {row.rho:+.2f}" for m, row in table.iterrows()]
        forgets = [f"{title_of(m)} {row.forgetting:.1f}" for m, row in table.iterrows()]
        return (
            f"Mean absolute normalised product of two tasks' updates: {listed(said)} (0 for "
            f"updates that do not touch, 1 for the same up to a factor). Forgetting: "
            f"{listed(forgets)}. Pair by pair, the correlation of collision with what the earlier "
            f"task loses while the later one is learned: {listed(rho)} (Spearman). "
            f"{self.seeds_said}."
        )

    def headline(self, found: Found):
        return self._numbers(found).to_dict(orient="index")

    def _numbers(self, found: Found) -> pd.DataFrame:
        """A row a method: means over pairs of different tasks, of the first seed."""
        rows = {}
        for method in self.chosen:
            run = found.one(method=method)
            of = measured(run)
            apart = ~np.eye(len(of["norms"]), dtype=bool)
            rows[method] = {
                "collision": np.array(of["collision"])[apart].mean(),
                "overlap": np.array(of["overlap"])[apart].mean(),
                "input_cosine": np.array(of["input_cosine"])[apart].mean(),
                "output_cosine": np.array(of["output_cosine"])[apart].mean(),
                "norm": np.mean(of["norms"]),
                "forgetting": run.result["forgetting"],
                "rho": spearman(*self._pairs(run)),
            }
        return pd.DataFrame(rows).T

    def _pairs(self, run: Run) -> tuple[np.ndarray, np.ndarray]:
        """For every i < t: collision of their updates, and what task i lost while t was learned."""
        collision, a = np.array(measured(run)["collision"]), run.accuracy_matrix
        i, t = np.triu_indices(len(a), 1)
        return collision[i, t], a[t - 1, i] - a[t, i]


def between(table: list[list[float]]) -> np.ndarray:
    """A table of pairs (N, N) without what a task has with itself, which says nothing."""
    a = np.array(table)
    np.fill_diagonal(a, np.nan)
    return a


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one of them never changes."""
    return float(np.nan_to_num(pd.Series(x).rank().corr(pd.Series(y).rank())))
