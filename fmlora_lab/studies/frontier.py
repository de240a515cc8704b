"""28: each method's curve between learning and forgetting as its learning rate changes."""

import pandas as pd

from fmlora_lab import plots
from fmlora_lab.studies.study import Found, Study, listed, title_of

RATES = {
    "fm-lora": ("method.lr", "method.bases.lr"),
    "linear-probe": ("training.lr_head",),
}
"""The rates that are moved together; `method.lr` alone for any other method."""


class Frontier(Study):
    name = "frontier"
    title = "One learning rate proves little: curves, not points"
    question = "Is FM-LoRA's curve of learning against forgetting beyond those of the others?"
    methods = ("fm-lora", "sd-lora", "inflora", "lora", "full")

    @property
    def factors(self) -> tuple[float, ...]:
        return (0.5, 1) if self.smoke else (0.25, 0.5, 1, 2, 4)

    def cells(self):
        for method in self.chosen:
            for factor in self.factors:
                rates = {
                    key: float(f"{self.tuned(method, key) * factor:.6g}")
                    for key in RATES.get(method, ("method.lr",))
                }
                for seed in self.seed_list:
                    yield self.cell(method, seed, rates, factor=factor)

    def figures(self, found: Found):
        curves = {}
        for method in self.chosen:
            rows = self._means(found).loc[method]
            labels = [f"×{factor:g}" for factor in rows.index]
            curves[method] = (rows.forgetting, rows.learning_accuracy, labels)
        best = self._best(found)
        top = best.idxmax()
        title = (
            f"At its best rate {title_of(top)} ends highest ({best[top]:.0f}%); "
            f"FM-LoRA reaches {best['fm-lora']:.0f}%"
            if "fm-lora" in best and top != "fm-lora"
            else f"At its best rate {title_of(top)} ends highest ({best[top]:.0f}%)"
        )
        tasks = len(found.runs()[0].result["test_images"])
        return {"frontier": plots.frontier(curves, tasks, title)}

    def table(self, found: Found) -> pd.DataFrame:
        rows = self._means(found).reset_index()
        return pd.DataFrame(
            {
                "method": rows.method.map(title_of),
                "rate × tuned": rows.factor.map("{:g}".format),
                "learning accuracy (%)": rows.learning_accuracy.map("{:.1f}".format),
                "forgetting (points)": rows.forgetting.map("{:.1f}".format),
                "Acc (%)": rows.acc.map("{:.1f}".format),
                "Acc by class means (%)": rows.acc_prototype.map("{:.1f}".format),
            }
        ).set_index("method")

    def answer(self, found: Found) -> str:
        means, best = self._means(found), self._best(found)
        said = [f"{title_of(m)} {best[m]:.1f}%" for m in best.sort_values(ascending=False).index]
        text = f"Best Acc over {len(self.factors)} rates: {listed(said)}."
        if "fm-lora" not in best:
            return text
        beaten = []
        for other in best.index.drop("fm-lora"):
            if dominates(means.loc[other], means.loc["fm-lora"]):
                beaten.append(title_of(other))
        verdict = (
            f"No: for each of FM-LoRA's points there is one of {listed(beaten)} each that learns "
            "at least as much and forgets no more."
            if beaten
            else "No other method's points beat all of FM-LoRA's at once; at some rates it keeps "
            "more than they do at equal learning."
        )
        ahead = [
            m for m in best.index.drop("fm-lora") if dominates(means.loc["fm-lora"], means.loc[m])
        ]
        if ahead:
            verdict += f" It is itself beyond {listed(map(title_of, ahead))}."
        own, at_one = means.loc["fm-lora"], means.xs(1, level="factor")
        return (
            f"{verdict} {text} By its rate alone FM-LoRA goes from learning accuracy "
            f"{own.learning_accuracy.min():.1f}% to {own.learning_accuracy.max():.1f}% and from "
            f"forgetting {own.forgetting.min():.1f} to {own.forgetting.max():.1f}; the methods at "
            f"their tuned rates span {at_one.learning_accuracy.min():.1f} to "
            f"{at_one.learning_accuracy.max():.1f}% and {at_one.forgetting.min():.1f} to "
            f"{at_one.forgetting.max():.1f}. {self.seeds_said}."
        )

    def headline(self, found: Found):
        return {"best_acc": self._best(found).to_dict()}

    def _means(self, found: Found) -> pd.DataFrame:
        values = ["learning_accuracy", "forgetting", "acc", "acc_prototype"]
        return found.frame.groupby(["method", "factor"], sort=False)[values].mean()

    def _best(self, found: Found) -> pd.Series:
        return self._means(found).acc.groupby(level="method", sort=False).max()


def dominates(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether for every point of `other` a point of `one` learns as much and forgets no more."""
    return all(
        (
            (one.learning_accuracy >= point.learning_accuracy)
            & (one.forgetting <= point.forgetting)
        ).any()
        for point in other.itertuples()
    )
