"""23: what the rank selector chooses, what it is worth, and what could stand in for H."""

from typing import ClassVar

import numpy as np
import pandas as pd

from fmlora_lab import plots
from fmlora_lab.analysis.tidy import pivot, summarize
from fmlora_lab.studies.study import Found, Study

OFF = {"method.drs.enabled": False}
ESTIMATES = {
    "early_loss": "first batches' loss",
    "early_gradient": "first batches' gradient",
    "means_error": "class means' error",
}


class RankSelectorStudy(Study):
    name = "rank_selector"
    title = "What the rank selector does"
    question = "Is a rank chosen for each task better than one rank for all, and what chooses it?"
    methods = ("fm-lora",)
    only = ("fm-lora",)
    seeds: ClassVar = {"paper": 3, "demo": 3}

    @property
    def choices(self) -> dict[str, dict]:
        """How the rank is chosen, and the settings that do it."""
        ranks = (2, 8) if self.smoke else (2, 4, 8, 16, 32)
        fixed = {f"fixed {r}": {**OFF, "method.rank": r} for r in ranks}
        if 32 in ranks:  # a rank is capped by the width of the bases
            fixed["fixed 32"]["method.basis_rank"] = max(
                32, self.tuned("fm-lora", "method.basis_rank")
            )
        return {
            **fixed,
            "DRS, calibrated": {"method.drs.estimates": True},
            "DRS, paper": {"method.drs.form": "paper"},
        }

    def cells(self):
        for choice, settings in self.choices.items():
            for seed in self.seed_list:
                yield self.cell("fm-lora", seed, settings, choice=choice)

    def figures(self, found: Found):
        by = found.frame.groupby("choice", sort=False)
        cost = {c: (own.acc.to_numpy(), own.trainable_parameters.mean() / 1e3) for c, own in by}
        run = found.one(choice="DRS, calibrated")
        tasks = self._tasks(found)
        ranks = tasks["rank"]
        title = (
            f"The calibrated form chooses {ranks.nunique()} different ranks in {len(ranks)} tasks "
            f"after the first"
        )
        first = run.task(0)
        drawn = plots.rank_probabilities(
            np.stack(
                [run.task(t)["probabilities"].mean(0) for t in range(len(run.accuracy_matrix))]
            ),
            [int(r) for r in first["candidates"]],
            [int(run.task(t)["rank"][0]) for t in range(len(run.accuracy_matrix))],
            [float(np.ravel(run.task(t)["H"])[0]) for t in range(len(run.accuracy_matrix))],
            title=title,
        )
        estimates = {
            label: (tasks["H"].rank(), tasks[name].rank()) for name, label in ESTIMATES.items()
        }
        rho = self._correlations(tasks)
        best = rho[list(ESTIMATES)].abs().idxmax()
        return {
            "accuracy_over_trained": plots.pareto(cost, "thousands of numbers trained a task"),
            "rank_probabilities": drawn,
            "difficulty": plots.scatter(
                {"tasks": (tasks["error"], tasks["rank"])},
                "error just after learning, at fixed rank 8 (%)",
                "rank chosen",
                f"Harder tasks do {'' if rho['rank'] > 0.3 else 'not '}clearly get larger ranks "
                f"(Spearman {rho['rank']:+.2f})",
            ),
            "estimates": plots.scatter(
                estimates,
                "task's place by complexity H",
                "task's place by the cheaper estimate",
                f"Orders the tasks most as H does: {ESTIMATES[best]} ({rho[best]:+.2f})",
            ),
        }

    def table(self, found: Found) -> pd.DataFrame:
        values = ["acc", "learning_accuracy", "forgetting", "acc_prototype"]
        summary = summarize(found.frame, ["choice"], [*values, "trainable_parameters"])
        heads = (
            "Acc (%)",
            "learning accuracy (%)",
            "forgetting (points)",
            "Acc by class means (%)",
        )
        columns = [
            pivot(summary.assign(head=head), "choice", "head", value)
            for value, head in zip(values, heads, strict=True)
        ]
        table = pd.concat(columns, axis=1)
        table["trained a task"] = [f"{n:,.0f}" for n in summary.trainable_parameters]
        return table

    def answer(self, found: Found) -> str:
        by = found.frame.groupby("choice", sort=False)
        acc, trained = by.acc.mean(), by.trainable_parameters.mean()
        fixed = acc[[c for c in acc.index if c.startswith("fixed")]]
        best, own = fixed.idxmax(), acc["DRS, calibrated"]
        tasks = self._tasks(found)
        rho = self._correlations(tasks)
        paper = {
            int(run.task(t)["rank"][0])
            for run in found.runs(choice="DRS, paper")
            for t in range(1, len(run.accuracy_matrix))
        }
        counts = tasks["rank"].value_counts().sort_index()
        chosen = ", ".join(f"{r:.0f} in {n}" for r, n in counts.items())
        said = ", ".join(f"{label} {rho[name]:+.2f}" for name, label in ESTIMATES.items())
        return (
            f"The best fixed rank ({best.split()[1]}) ends at {fixed.max():.1f}%, the calibrated "
            f"selector at {own:.1f}% with {trained['DRS, calibrated'] / trained[best]:.1f} times "
            f"the numbers a task, the paper's form at {acc['DRS, paper']:.1f}%. Of {len(tasks)} "
            f"tasks after the first the calibrated form chose rank {chosen}; the paper's form "
            f"chose {', '.join(map(str, sorted(paper)))}, whatever the task. Rank against measured "
            f"difficulty: Spearman {rho['rank']:+.2f}. Standing in for H (Spearman with it): "
            f"{said}. {self.seeds_said}."
        )

    def headline(self, found: Found):
        tasks = self._tasks(found)
        return {
            "acc": found.frame.groupby("choice", sort=False).acc.mean().to_dict(),
            "ranks": [int(r) for r in tasks["rank"]],
            "candidates": [
                int(r) for r in found.one(choice="DRS, calibrated").task(0)["candidates"]
            ],
            "spearman_with_H": self._correlations(tasks).to_dict(),
        }

    def _tasks(self, found: Found) -> pd.DataFrame:
        """A row a task after the first and seed: rank, H, estimates, error at fixed rank 8."""
        rows = []
        for run in found.runs(choice="DRS, calibrated"):
            plain = found.one(choice="fixed 8", seed=run.config["seed"])
            for t in range(1, len(run.accuracy_matrix)):
                task = run.task(t)
                row = {name: float(np.ravel(task[name])[0]) for name in ("H", "rank", *ESTIMATES)}
                rows.append({**row, "error": 100 - plain.accuracy_matrix[t, t]})
        return pd.DataFrame(rows)

    def _correlations(self, tasks: pd.DataFrame) -> pd.Series:
        """Spearman's: of each estimate with H, and of the chosen rank with measured difficulty."""
        ranked = tasks.rank()
        found = {name: ranked[name].corr(ranked["H"]) for name in ESTIMATES}
        found["rank"] = ranked["rank"].corr(ranked["error"])
        return pd.Series(found).fillna(0.0)  # one value everywhere orders nothing
