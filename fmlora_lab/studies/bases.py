"""26: where the bases come from, how wide they are, and what of later tasks does not fit."""

import numpy as np
import pandas as pd

from fmlora_lab import plots
from fmlora_lab.analysis.subspaces import measured_span
from fmlora_lab.analysis.tidy import pivot, summarize
from fmlora_lab.studies.study import Found, Study

SOURCES = {
    "first task": "first-task",
    "weight's SVD": "weight-svd",
    "first task's gradient": "first-task-gradient",
    "random": "random",
}
ADAPTED = {"q, k and v": ["attn.qkv"], "the MLPs": ["mlp.fc1", "mlp.fc2"]}
"""Where else adapters might sit than in every linear layer."""
WIDE, OWN = 128, 12
"""Basis rank and directions a task of the variant in which every task has directions of its own."""


class Bases(Study):
    name = "bases"
    title = "Where the bases come from, and where they limit FM-LoRA"
    question = (
        "Where should the bases come from, how wide must they be, and what falls outside them?"
    )
    methods = ("fm-lora", "lora")
    only = ("fm-lora", "lora")

    @property
    def ranks(self) -> tuple[int, ...]:
        return (4, 16) if self.smoke else (4, 8, 16, 32, 64, 128)

    @property
    def default_rank(self) -> int:
        return self.tuned("fm-lora", "method.basis_rank")

    @property
    def variants(self) -> dict[str, dict]:
        """Settings by name: sources, and what the lab tries beyond the paper."""
        fixed = {"method.bases.from": "weight-svd", "method.drs.enabled": False}
        fixed |= {"method.basis_rank": WIDE, "method.rank": OWN}
        found = {name: {"method.bases.from": source} for name, source in SOURCES.items()}
        found["first task, shared by all blocks"] = {"method.bases.shared": True}
        if not self.smoke:
            for part, layers in ADAPTED.items():
                found[f"first task, {part} alone"] = {"method.layers": layers}
            found["weight's SVD, R = 64"] = {
                "method.bases.from": "weight-svd",
                "method.basis_rank": 64,
            }
            found[f"weight's SVD, R = {WIDE}, r = {OWN}"] = fixed
            found[f"weight's SVD, R = {WIDE}, r = {OWN}, a task's own (ours)"] = {
                **fixed,
                "method.directions": "own",
            }
        return found

    def cells(self):
        for seed in self.seed_list:
            for variant, settings in self.variants.items():
                yield self.cell("fm-lora", seed, settings, variant=variant, R=0)
            for R in self.ranks:
                yield self.cell("fm-lora", seed, {"method.basis_rank": R}, variant="", R=R)
            yield self.cell("lora", seed, variant="free LoRA", R=0)

    def figures(self, found: Found):
        spans = self._spans(found)
        tasks = np.arange(2, len(next(iter(spans.values()))) + 1)
        drawn = {f"R = {R}": (tasks, span[1:]) for R, span in spans.items()}
        wide, narrow = max(spans), self.default_rank if self.default_rank in spans else min(spans)
        by = found.rows(variant="").groupby("R").acc.mean()
        variants = {
            v: {"Acc": found.rows(variant=v).acc.to_numpy()} for v in [*self.variants, "free LoRA"]
        }
        acc = "accuracy after the last task, Acc (%)"
        return {
            "share_in_span": plots.lines(
                drawn,
                "task",
                "share of a free LoRA's ΔW in the bases' span",
                f"At R = {narrow} the bases hold {held(spans[narrow]):.0f}% of what a free LoRA "
                f"does to later tasks; at R = {wide}, {held(spans[wide]):.0f}%",
            ),
            "acc_over_rank": plots.lines(
                {"FM-LoRA": (self.ranks, found.grid("acc", "R", self.ranks, variant=""))},
                "basis rank, R",
                acc,
                f"Accuracy is highest at R = {by.idxmax()} ({by.max():.0f}%)",
                log_x=True,
                references={"free LoRA": found.rows(variant="free LoRA").acc.mean()},
            ),
            "sources": plots.dots(variants, acc, self._best_said(found)),
        }

    def table(self, found: Found) -> pd.DataFrame:
        own = found.frame.assign(
            row=[
                v or f"first task, R = {R}"
                for v, R in zip(found.frame.variant, found.frame.R, strict=True)
            ]
        )
        heads = {
            "acc": "Acc (%)",
            "learning_accuracy": "learning accuracy (%)",
            "forgetting": "forgetting (points)",
            "acc_prototype": "Acc by class means (%)",
        }
        parts = [
            pivot(summarize(own.assign(head=head), ["row", "head"], [v]), "row", "head", v)
            for v, head in heads.items()
        ]
        return pd.concat(parts, axis=1)

    def answer(self, found: Found) -> str:
        acc = found.frame[found.frame.variant != ""].groupby("variant", sort=False).acc.mean()
        sources = acc[list(SOURCES)]
        by, spans = found.rows(variant="").groupby("R").acc.mean(), self._spans(found)
        R = self.default_rank if self.default_rank in spans else min(spans)
        text = (
            f"{self._best_said(found)}. Of the four sources at R = {self.default_rank} they stand "
            f"between {sources.min():.1f} and {sources.max():.1f}% (free LoRA: "
            f"{acc['free LoRA']:.1f}%). Wider bases: {by.iloc[0]:.1f}% at R = {by.index[0]}, "
            f"{by.iloc[-1]:.1f}% at R = {by.index[-1]}, best {by.max():.1f}% at R = {by.idxmax()}. "
            f"Of a free LoRA's update to the tasks after the first, {held(spans[R]):.0f}% of the "
            f"energy lies in the span of the bases at R = {R}"
        )
        own = [v for v in acc.index if "ours" in v]
        if own:
            plain = acc[f"weight's SVD, R = {WIDE}, r = {OWN}"]
            text += (
                f". Directions of its own for each task (our variant) change Acc from "
                f"{plain:.1f} to {acc[own[0]]:.1f}%"
            )
        return f"{text}. {self.seeds_said}."

    def headline(self, found: Found):
        by = found.rows(variant="").groupby("R").acc.mean()
        named = found.frame[found.frame.variant != ""].groupby("variant", sort=False).acc.mean()
        return {
            "acc_by_rank": {str(R): v for R, v in by.items()},
            "acc_by_variant": named.to_dict(),
            "share_in_span": {str(R): span for R, span in self._spans(found).items()},
        }

    def _spans(self, found: Found) -> dict[int, list[float]]:
        """Share of each task's free update in the span of the bases, by R, of the first seed."""
        seed = self.seed_list[0]
        free = found.one(variant="free LoRA", seed=seed)
        return {R: measured_span(free, found.one(variant="", R=R, seed=seed)) for R in self.ranks}

    def _best_said(self, found: Found) -> str:
        acc = (
            found.frame[~found.frame.variant.isin(["", "free LoRA"])].groupby("variant").acc.mean()
        )
        best = acc.idxmax()
        return f"Highest of FM-LoRA's: {best}, {acc[best]:.0f}%"


def held(span: list[float]) -> float:
    """Percent of the tasks after the first that lies in the span, on average."""
    return 100 * float(np.mean(span[1:]))
