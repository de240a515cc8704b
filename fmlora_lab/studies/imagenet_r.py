"""20: the paper's main table, N = 5, 10, 20; without ImageNet-R, the profile's own stream."""

import pandas as pd

from fmlora_lab import plots
from fmlora_lab.analysis.published import published
from fmlora_lab.analysis.tidy import pivot, summarize
from fmlora_lab.studies.study import Found, Study, published_beside, title_of

PAPER = (5, 10, 20)


class ImageNetR(Study):
    name = "imagenet_r"
    title = "The paper's main table"
    question = "Does FM-LoRA keep the most accuracy at N = 5, 10 and 20 tasks?"

    @property
    def lengths(self) -> tuple[int, ...]:
        return (2, 5) if self.smoke else PAPER

    def cells(self):
        for n in self.lengths:
            for method in self.chosen:
                for seed in self.seed_list:
                    yield self.cell(method, seed, {"benchmark.tasks": n}, tasks=n)

    def figures(self, found: Found):
        drawn = {
            m: (self.lengths, found.grid("acc", "tasks", self.lengths, method=m))
            for m in self.chosen
        }
        means = self._means(found)
        best = [f"{title_of(means[n].idxmax())} at N = {n}" for n in self.lengths]
        title = f"Highest accuracy at the end: {', '.join(best)}"
        label = "accuracy after the last task, Acc (%)"
        return {"acc_by_tasks": plots.lines(drawn, "tasks, N", label, title, log_x=True)}

    def table(self, found: Found) -> pd.DataFrame:
        both = summarize(found.frame, ["method", "tasks"], ["acc", "aaa"])
        measured = [
            pivot(both, "method", "tasks", value).add_prefix(f"{head}, N = ")
            for value, head in (("acc", "Acc"), ("aaa", "AAA"))
        ]
        tables = {f"ImageNet-R, N = {n}": published("imagenet-r", n) for n in PAPER}
        return published_beside(pd.concat(measured, axis=1), tables, self.chosen)

    def latex(self, found: Found) -> str:
        from fmlora_lab.analysis.latex import to_latex

        both = summarize(found.frame, ["method", "tasks"], ["acc"])
        caption = f"Acc (%) by number of tasks. {self.question}"
        return to_latex(both, "method", "tasks", "acc", caption, f"tab:{self.name}")

    def answer(self, found: Found) -> str:
        means = self._means(found)
        said = []
        for n in self.lengths:
            order = means[n].sort_values(ascending=False)
            place = list(order.index).index("fm-lora") + 1 if "fm-lora" in order.index else None
            best = f"{title_of(order.index[0])} with {order.iloc[0]:.1f}%"
            if place == 1:
                said.append(f"at N = {n} it does, {order.iloc[0]:.1f}%")
            elif place:
                own = f"it stands in place {place} of {len(order)} with {order['fm-lora']:.1f}%"
                said.append(f"at N = {n} {own}, the first is {best}")
            else:
                said.append(f"at N = {n} the first is {best}")
        return (
            f"On this profile's stream ({found.stream}): {'; '.join(said)}. Ranked by the trained "
            f"head (nearest class mean has none), {found.test_images:,} test images. "
            f"{self.seeds_said}."
        )

    def headline(self, found: Found):
        means = self._means(found)
        return {"acc": {m: {str(n): row[n] for n in self.lengths} for m, row in means.iterrows()}}

    def _means(self, found: Found) -> pd.DataFrame:
        table = found.frame.groupby(["method", "tasks"], sort=False).acc.mean().unstack()
        return table.reindex(self.chosen)
