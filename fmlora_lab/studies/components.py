"""25: which part of FM-LoRA does the work, and how much of any method's accuracy is its head's."""

import numpy as np
import pandas as pd

from fmlora_lab import plots
from fmlora_lab.analysis.tidy import pivot, summarize
from fmlora_lab.studies.study import Found, Study, listed, title_of

VARIANTS = {
    "F-LoRA": {"method.drs.enabled": False, "method.prompt.tokens": 0},
    "F-LoRA + DRS": {"method.prompt.tokens": 0},
    "F-LoRA + DMP": {"method.drs.enabled": False},
    "FM-LoRA (all)": {},
}
STREAM_TITLES = {"classes": "by classes", "domains": "by domains"}
HEADED = (
    "fm-lora", "sd-lora", "inflora", "lora", "hide-prompt", "coda-prompt", "dualprompt", "l2p",
    "full", "linear-probe",
)  # fmt: skip
"""Methods with a trained head."""


class Components(Study):
    name = "components"
    title = "Which part does the work: bases, rank selector, prompt, or the head"
    question = "What do the selector and the prompt add to F-LoRA, and what does the head decide?"
    methods = HEADED

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(s for s in STREAM_TITLES if self.has(s))

    def cells(self):
        for stream in self.streams:
            for variant, settings in VARIANTS.items():
                for seed in self.seed_list:
                    yield self.cell(
                        "fm-lora", seed, settings, stream, variant=variant, on=stream, head="linear"
                    )
        for head in ("linear", "cosine"):
            for method in self.chosen:
                if method == "prototypes":
                    continue  # it has no trained head
                for seed in self.seed_list:
                    yield self.cell(
                        method, seed, {"training.head": head}, variant="", on="classes", head=head
                    )

    def figures(self, found: Found):
        parts = {
            variant: {
                STREAM_TITLES[s]: found.rows(variant=variant, on=s).acc.to_numpy()
                for s in self.streams
            }
            for variant in VARIANTS
        }
        best = self._parts(found)["classes"].idxmax()
        heads, table = {}, self._heads(found)
        for method in table.index:
            own = found.rows(method=method, variant="")
            heads[method] = {
                "linear": own[own["head"] == "linear"].acc.to_numpy(),
                "cosine": own[own["head"] == "cosine"].acc.to_numpy(),
                "class means": own[own["head"] == "linear"].acc_prototype.to_numpy(),
            }
        gain = (table["class means"] - table["linear"]).mean()
        spread = table["linear"].std()
        label = "accuracy after the last task, Acc (%)"
        return {
            "parts": plots.dots(parts, label, f"On classes, {best} ends highest"),
            "heads": plots.dots(
                heads,
                label,
                f"Class means lift the methods by {gain:.0f} points; the methods differ by "
                f"{spread:.0f} (standard deviation) under one head",
            ),
        }

    def table(self, found: Found) -> pd.DataFrame:
        own = found.frame[found.frame.variant != ""]
        parts = pivot(summarize(own, ["variant", "on"], ["acc"]), "variant", "on", "acc")
        parts.columns = [f"Acc (%) {STREAM_TITLES[s]}" for s in self.streams]
        heads = self._heads(found).round(1)
        heads.index = [title_of(m) for m in heads.index]
        heads.columns = [f"Acc (%) {name} head" for name in ("linear", "cosine")] + [
            "Acc (%) class means"
        ]
        return pd.concat([parts, heads.map("{:.1f}".format)]).fillna("")

    def answer(self, found: Found) -> str:
        parts, heads = self._parts(found), self._heads(found)
        said = []
        for stream in self.streams:
            alone = parts.loc["F-LoRA", stream]
            adds = [
                f"{'the selector' if 'DRS' in v else 'the prompt' if 'DMP' in v else 'both'} "
                f"{parts.loc[v, stream] - alone:+.1f}"
                for v in list(VARIANTS)[1:]
            ]
            said.append(
                f"cut {STREAM_TITLES[stream]}, F-LoRA alone ends at {alone:.1f}%; {listed(adds)}"
            )
        gain = heads["class means"] - heads["linear"]
        cosine = heads["cosine"] - heads["linear"]
        return (
            f"{'. '.join(s[0].upper() + s[1:] for s in said)}. The head: a cosine head changes Acc "
            f"by {cosine.min():+.1f} to {cosine.max():+.1f} points, class means in its place by "
            f"{gain.min():+.1f} to {gain.max():+.1f} (mean {gain.mean():+.1f}), while under the "
            f"same linear head the methods stand between {heads['linear'].min():.1f} and "
            f"{heads['linear'].max():.1f}%. {self.seeds_said}."
        )

    def headline(self, found: Found):
        parts, heads = self._parts(found), self._heads(found)
        return {
            "parts": {s: parts[s].to_dict() for s in self.streams},
            "heads": heads.to_dict(orient="index"),
        }

    def _parts(self, found: Found) -> pd.DataFrame:
        own = found.frame[found.frame.variant != ""]
        table = own.groupby(["variant", "on"], sort=False).acc.mean().unstack()
        return table.reindex(index=list(VARIANTS), columns=list(self.streams))

    def _heads(self, found: Found) -> pd.DataFrame:
        """Mean Acc by method (rows) under each head (columns)."""
        own = found.frame[found.frame.variant == ""]
        table = own.groupby(["method", "head"], sort=False).acc.mean().unstack()
        linear = own[own["head"] == "linear"].groupby("method", sort=False)
        table["class means"] = linear.acc_prototype.mean()
        return table[["linear", "cosine", "class means"]].astype(np.float64)
