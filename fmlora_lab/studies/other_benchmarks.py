"""21: other benchmarks, cut by classes as published and by domains as FM-LoRA says."""

import pandas as pd

from fmlora_lab import plots
from fmlora_lab.analysis.published import published
from fmlora_lab.analysis.tidy import pivot, summarize
from fmlora_lab.studies.study import Found, Study, listed, published_beside, title_of

STREAMS = {
    "paper": {
        "CIFAR-100, N = 10": ("cifar100", 10),
        "CUB-200, N = 10": ("cub-200", 10),
        "DomainNet, N = 5": ("domainnet", 5),
        "DomainNet, six domains": ("domains", None),
    },
    "cifar100-tiny": {"CIFAR-100, N = 10": ("classes", 10)},
    "demo": {"Glyphs, N = 5": ("classes", 5), "Glyphs, six styles": ("domains", None)},
}
"""A stream's name for readers, the profile's stream, and N where classes are cut."""
PUBLISHED = {
    "CIFAR-100, N = 10": ("cifar-100", 10),
    "CUB-200, N = 10": ("cub-200", 10),
    "DomainNet by classes, N = 5": ("domainnet", 5),
}


class OtherBenchmarks(Study):
    name = "other_benchmarks"
    title = "Other benchmarks, by classes and by domains"
    question = "Does the order of the methods hold on other streams, and when domains change?"
    methods = (
        "fm-lora",
        "sd-lora",
        "inflora",
        "lora",
        "full",
        "linear-probe",
        "prototypes",
        "joint",
    )

    @property
    def streams(self) -> dict[str, tuple[str, int | None]]:
        return STREAMS.get(self.profile, STREAMS["demo"])

    def cells(self):
        for label, (stream, n) in self.streams.items():
            for method in self.chosen:
                if method == "joint" and n:
                    continue  # the reference matters where it is not known from another table
                for seed in self.seed_list:
                    cut = {"benchmark.tasks": n} if n else {}
                    yield self.cell(method, seed, cut, stream, on=label)

    def figures(self, found: Found):
        rows = {
            method: {
                label: found.rows(method=method, on=label).acc.to_numpy()
                for label in self.streams
                if found.one(method=method, on=label)
            }
            for method in self.chosen
        }
        means = self._means(found)
        best = [
            f"{title_of(means[s].drop('joint', errors='ignore').idxmax())} on {s}" for s in means
        ]
        title = f"First at the end: {'; '.join(best)}"
        return {"acc_by_stream": plots.dots(rows, "accuracy after the last task, Acc (%)", title)}

    def table(self, found: Found) -> pd.DataFrame:
        summary = summarize(found.frame, ["method", "on"], ["acc"])
        measured = pivot(summary, "method", "on", "acc")
        known = {label: published(*where) for label, where in PUBLISHED.items()}
        return published_beside(measured, known, self.chosen)

    def answer(self, found: Found) -> str:
        means = self._means(found).drop("joint", errors="ignore")
        said = []
        for label in means:
            order = means[label].dropna().sort_values(ascending=False)
            text = f"on {label} {title_of(order.index[0])} is first with {order.iloc[0]:.1f}%"
            if "fm-lora" in order.index[1:]:
                place = list(order.index).index("fm-lora") + 1
                text += f", FM-LoRA {order['fm-lora']:.1f}% (place {place} of {len(order)})"
            said.append(text)
        lost = found.frame.groupby("on", sort=False).forgetting.mean()
        forgets = [f"{value:.1f} points on {label}" for label, value in lost.items()]
        return (
            f"The methods' order depends on the stream: {'; '.join(said)}. Mean forgetting of all "
            f"methods: {listed(forgets)}. {self.seeds_said}."
        )

    def headline(self, found: Found):
        means = self._means(found)
        return {"acc": {s: means[s].dropna().to_dict() for s in means}}

    def _means(self, found: Found) -> pd.DataFrame:
        table = found.frame.groupby(["method", "on"], sort=False).acc.mean().unstack()
        return table.reindex(index=self.chosen, columns=list(self.streams))
