"""22: accuracy along the stream and at its end as the same classes are cut into more tasks."""

import numpy as np
import pandas as pd

from fmlora_lab import plots
from fmlora_lab.analysis.tables import curves
from fmlora_lab.analysis.tidy import pivot, summarize
from fmlora_lab.studies.study import Found, Study, listed, title_of


class StreamLength(Study):
    name = "stream_length"
    title = "How methods age as the stream grows"
    question = "What is left at the end when the same classes come in more and more tasks?"
    methods = ("fm-lora", "inflora", "lora", "full", "linear-probe", "prototypes")

    @property
    def lengths(self) -> tuple[int, ...]:
        return (2, 5) if self.smoke else (5, 10, 20, 50)

    def cells(self):
        for n in self.lengths:
            for method in self.chosen:
                for seed in self.seed_list:
                    yield self.cell(method, seed, {"benchmark.tasks": n}, tasks=n)

    def figures(self, found: Found):
        longest = self.lengths[-1]
        drawn = {
            method: (self.lengths, found.grid("acc", "tasks", self.lengths, method=method))
            for method in self.chosen
        }
        falls = self._falls(found)
        title = (
            f"From {self.lengths[0]} to {longest} tasks {title_of(falls.idxmax())} loses most "
            f"({falls.max():.0f} points), {title_of(falls.idxmin())} least ({falls.min():.0f})"
        )
        along = curves(found.runs(tasks=longest))
        return {
            "acc_over_length": plots.lines(
                drawn, "tasks, N", "accuracy after the last task, Acc (%)", title, log_x=True
            ),
            f"along_the_stream_{longest}": plots.accuracy_over_tasks(along),
        }

    def table(self, found: Found) -> pd.DataFrame:
        return pivot(self._summary(found), "method", "tasks", "acc")

    def latex(self, found: Found) -> str:
        from fmlora_lab.analysis.latex import to_latex

        caption, label = f"Acc (%) by number of tasks. {self.question}", f"tab:{self.name}"
        return to_latex(self._summary(found), "method", "tasks", "acc", caption, label)

    def answer(self, found: Found) -> str:
        falls = self._falls(found).sort_values()
        said = [f"{title_of(m)} {fall:.1f}" for m, fall in falls.items()]
        last = self._means(found)[self.lengths[-1]].drop("prototypes", errors="ignore")
        by_means = found.rows(tasks=self.lengths[-1]).groupby("method").acc_prototype.mean()
        text = (
            f"Every method with a trained head ends lower when the same classes come in "
            f"{self.lengths[-1]} tasks instead of {self.lengths[0]}. Points of Acc lost: "
            f"{listed(said)}. At {self.lengths[-1]} tasks the best trained head is "
            f"{title_of(last.idxmax())}'s with {last.max():.1f}%"
        )
        if "full" in last:
            text += f"; full fine-tuning ends at {last['full']:.1f}%"
        best = by_means.idxmax()
        return (
            f"{text}. The same weights, asked by class means, stand at {by_means.min():.1f} to "
            f"{by_means.max():.1f}% (best: {title_of(best)}): with so few classes a task it is the "
            "rows of the head, trained apart from each other, that stop being comparable."
        )

    def headline(self, found: Found):
        means = self._means(found)
        return {"acc": {m: {str(n): row[n] for n in self.lengths} for m, row in means.iterrows()}}

    def _summary(self, found: Found) -> pd.DataFrame:
        return summarize(found.frame, ["method", "tasks"], ["acc", "acc_prototype"])

    def _means(self, found: Found) -> pd.DataFrame:
        table = found.frame.groupby(["method", "tasks"], sort=False).acc.mean().unstack()
        return table.reindex(self.chosen)

    def _falls(self, found: Found) -> pd.Series:
        means = self._means(found)
        return (means[self.lengths[0]] - means[self.lengths[-1]]).astype(np.float64)
