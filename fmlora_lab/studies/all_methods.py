"""30: every method on one stream, and what its accuracy costs."""

from typing import ClassVar

import pandas as pd

from fmlora_lab import plots
from fmlora_lab.analysis.names import TITLES
from fmlora_lab.analysis.tables import FULL, curves, readable, summary_table
from fmlora_lab.studies.study import Found, Study, listed, title_of

COSTS = {
    "kept": ("kept_parameters", "numbers kept from task to task", True),
    "trained": ("trainable_parameters", "numbers trained a task", True),
    "seconds": ("seconds_a_task", "seconds a task", False),
    "inference": ("inference_mflops", "operations a prediction (Mflop)", False),
}


class AllMethods(Study):
    name = "all_methods"
    title = "All methods, and what accuracy costs"
    question = "Which methods does no other beat in both accuracy and cost?"
    methods = tuple(TITLES)
    seeds: ClassVar = {"paper": 3, "demo": 3}

    def cells(self):
        for method in self.chosen:
            for seed in self.seed_list:
                yield self.cell(method, seed)

    def figures(self, found: Found):
        drawn = {"along_the_stream": plots.accuracy_over_tasks(curves(found.runs()))}
        for name, (column, label, log) in COSTS.items():
            points = {
                m: (own.acc.to_numpy(), own[column].mean())
                for m, own in found.frame.groupby("method", sort=False)
                if m != "joint"  # the reference is no rival
            }
            drawn[f"accuracy_over_{name}"] = plots.pareto(points, label, log)
        return drawn

    def table(self, found: Found) -> pd.DataFrame:
        return readable(summary_table(found.runs()), FULL)

    def answer(self, found: Found) -> str:
        own = found.frame.groupby("method", sort=False)
        acc, means = own.acc.mean(), own.acc_prototype.mean()
        rivals = acc.drop("joint", errors="ignore").sort_values(ascending=False)
        said = [f"{title_of(m)} {v:.1f}%" for m, v in rivals.items()]
        text = f"By the trained head, from the first to the last: {listed(said)}."
        best = means.drop("joint", errors="ignore").idxmax()
        text += (
            f" Asked by class means, {title_of(best)}'s weights come to {means[best]:.1f}%, more "
            f"than any trained head."
            if means[best] > rivals.max()
            else ""
        )
        if "joint" in acc:
            text += f" Joint training stands at {acc['joint']:.1f}%."
        return f"{text} {self.seeds_said}."

    def headline(self, found: Found):
        own = found.frame.groupby("method", sort=False)
        return {
            "acc": own.acc.mean().to_dict(),
            "forgetting": own.forgetting.mean().dropna().to_dict(),
        }
