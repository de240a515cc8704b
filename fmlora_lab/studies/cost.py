"""29: what a method costs: numbers, a training step's time and memory, a prediction's work."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from fmlora_lab import plots
from fmlora_lab.analysis.names import TITLES
from fmlora_lab.bench import bench
from fmlora_lab.config import Backbone
from fmlora_lab.files import write_atomically
from fmlora_lab.runs.store import RESULTS, use_shipped
from fmlora_lab.studies.study import Found, Study, listed, title_of

STEPS = {
    "fm-lora": "fm-lora-20",
    "sd-lora": "sd-lora-20",
    "inflora": "inflora-20",
    "lora": "lora",
    "full": "full",
}
"""The row of `bench` that times a method's step, at the 20th task where that matters."""


class Cost(Study):
    name = "cost"
    title = "What a method costs"
    question = "What do a task and a prediction cost, in numbers, time, memory and operations?"
    methods = tuple(m for m in TITLES if m != "joint")

    def cells(self):
        for method in self.chosen:
            for seed in self.seed_list:
                yield self.cell(method, seed)

    def run(self, runs_dir: Path | str | None = None) -> Found:
        found = super().run(runs_dir)
        found.steps = measured_steps(Path(found.pairs[0][1].folder.root), self.smoke)
        return found

    def figures(self, found: Found):
        steps = self._ratios(found)
        slowest = max(steps, key=steps.get)
        by = found.frame.groupby("method", sort=False)
        kept = {m: (own.acc.to_numpy(), own.kept_parameters.mean()) for m, own in by}
        work = {m: (own.acc.to_numpy(), own.inference_mflops.mean()) for m, own in by}
        return {
            "steps": plots.dots(
                {name: {"median": ratio} for name, ratio in steps.items()},
                "time of a training step / that of a frozen backbone",
                f"Slowest step: {slowest}, {steps[slowest]:.1f} times the floor",
            ),
            "accuracy_over_kept": plots.pareto(kept, "numbers kept from task to task", True),
            "accuracy_over_inference": plots.pareto(work, "operations a prediction (Mflop)", False),
        }

    def table(self, found: Found) -> pd.DataFrame:
        own = found.frame.groupby("method", sort=False).mean(numeric_only=True)
        rows = {row["name"]: row for row in found.steps["rows"]}
        timed = [rows.get(STEPS.get(m)) for m in own.index]
        shown = pd.DataFrame(
            {
                "trained a task": own.trainable_parameters.map("{:,.0f}".format),
                "kept": own.kept_parameters.map("{:,.0f}".format),
                "inference (Mflop)": own.inference_mflops.map("{:,.1f}".format),
                "step / floor": [f"{row['train_ratio']:.2f}" if row else "–" for row in timed],
                "step's peak memory (MB)": [
                    f"{row['peak_memory_mb']:.0f}" if row and row["peak_memory_mb"] else "–"
                    for row in timed
                ],
                "seconds a task": own.seconds_a_task.map("{:.1f}".format),
                "Acc (%)": own.acc.map("{:.1f}".format),
            }
        )
        shown.index = [title_of(m) for m in shown.index]
        return shown

    def answer(self, found: Found) -> str:
        own = found.frame.groupby("method", sort=False).mean(numeric_only=True)
        trains = own.trainable_parameters[own.trainable_parameters > 0].sort_values()
        said = [f"{title_of(m)} {n:,.0f}" for m, n in trains.items()]
        passes = own.inference_mflops / own.inference_mflops.min()
        dear = [f"{title_of(m)} {x:.1f}" for m, x in passes.items() if x > 1.05]
        steps = ", ".join(f"{name} {ratio:.2f}" for name, ratio in self._ratios(found).items())
        of = found.steps
        return (
            f"Numbers trained a task: {listed(said)}. A prediction costs one pass of the backbone, "
            f"except for {listed(dear)} times that. A training step against a frozen backbone's "
            f"({of['backbone']}, batch {of['batch_size']}, {of['device']}, {of['threads']} "
            f"threads): {steps}."
        )

    def headline(self, found: Found):
        own = found.frame.groupby("method", sort=False).mean(numeric_only=True)
        columns = ["trainable_parameters", "kept_parameters", "inference_mflops"]
        return {
            "costs": own[columns].to_dict(orient="index"),
            "steps": self._ratios(found),
        }

    def _ratios(self, found: Found) -> dict[str, float]:
        """Time of a step over the floor's, by `bench`'s rows."""
        return {step_title(row["name"]): row["train_ratio"] for row in found.steps["rows"]}


def step_title(row: str) -> str:
    """`FM-LoRA, task 20` for `bench`'s row fm-lora-20."""
    method, _, task = row.rpartition("-")
    if task.isdigit():
        return f"{title_of(method)}, task {task}"
    return {"peft-lora": "PEFT's LoRA", "floor": "frozen backbone"}.get(row, title_of(row))


def measured_steps(root: Path, quick: bool) -> dict[str, Any]:
    """`bench`'s rows: as stored beside the runs, as shipped, or measured now and stored."""
    for stored in (root / "bench.json", RESULTS / "bench.json"):
        if stored.is_file() and (use_shipped() or stored.parent == root):
            return json.loads(stored.read_text("utf-8"))
    found = bench(Backbone(), 8 if quick else 64, 1 if quick else 10)
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(root / "bench.json", lambda file: file.write(text.encode()))
    return found
