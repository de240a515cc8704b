"""24: how many prompt tokens, frozen or learning, and whether their drift goes with forgetting."""

import numpy as np
import pandas as pd

from fmlora_lab import plots
from fmlora_lab.analysis.tidy import pivot, summarize
from fmlora_lab.runs.store import Run
from fmlora_lab.studies.study import Found, Study, listed

FROZEN = {"method.prompt.freeze_after_first": True}


class MetaPrompt(Study):
    name = "meta_prompt"
    title = "The meta-prompt: how many tokens, and what their drift does"
    question = (
        "Do prompt tokens help, more so on long streams, and does their drift cause forgetting?"
    )
    methods = ("fm-lora",)
    only = ("fm-lora",)

    @property
    def lengths(self) -> tuple[int, ...]:
        return (2, 5) if self.smoke else (5, 20)

    @property
    def tokens(self) -> tuple[int, ...]:
        return (0, 8) if self.smoke else (0, 2, 4, 8, 16, 32)

    def cells(self):
        for n in self.lengths:
            for m in self.tokens:
                settings = {"benchmark.tasks": n, "method.prompt.tokens": m}
                for seed in self.seed_list:
                    yield self.cell("fm-lora", seed, settings, tasks=n, tokens=m, prompt="learning")
            settings = {"benchmark.tasks": n, **FROZEN}
            for seed in self.seed_list:
                yield self.cell("fm-lora", seed, settings, tasks=n, tokens=8, prompt="frozen")

    def figures(self, found: Found):
        drawn = {
            f"N = {n}": (
                self.tokens,
                found.grid("acc", "tokens", self.tokens, tasks=n, prompt="learning"),
            )
            for n in self.lengths
        }
        gains = self._gains(found)
        best = [f"m = {gains[n].idxmax()} at N = {n}" for n in self.lengths]
        steps = {f"N = {n}": self._steps(found, n) for n in self.lengths}
        rho = self._correlation(found)
        return {
            "acc_over_tokens": plots.lines(
                drawn,
                "prompt tokens, m",
                "accuracy after the last task, Acc (%)",
                f"Best number of tokens: {', '.join(best)}",
            ),
            "drift": plots.scatter(
                steps,
                "drift of the prompt in a task, ‖P$_t$ − P$_{t−1}$‖ / ‖P$_{t−1}$‖",
                "accuracy lost on earlier tasks (points)",
                f"Drift and forgetting, task by task: Spearman {rho:+.2f}",
            ),
        }

    def table(self, found: Found) -> pd.DataFrame:
        own = found.frame.assign(
            row=[
                f"m = {m}, {p}" for m, p in zip(found.frame.tokens, found.frame.prompt, strict=True)
            ]
        )
        heads = {"acc": "Acc", "learning_accuracy": "learning", "forgetting": "forgetting"}
        parts = [
            pivot(summarize(own, ["row", "tasks"], [v]), "row", "tasks", v).add_prefix(
                f"{head}, N = "
            )
            for v, head in heads.items()
        ]
        return pd.concat(parts, axis=1)

    def answer(self, found: Found) -> str:
        gains, said = self._gains(found), []
        for n in self.lengths:
            best, gain = gains[n].idxmax(), gains[n].max() - gains[n].loc[0]
            said.append(f"with {n} tasks m = {best} is best, {gain:+.1f} points against no prompt")
        frozen = [f"{self._frozen(found, n):+.1f} points at N = {n}" for n in self.lengths]
        text = "; ".join(said)
        return (
            f"{text[0].upper()}{text[1:]}. Freezing the 8 tokens after the first task, against "
            f"going on learning: {listed(frozen)}. Over all tasks the drift of P and what earlier "
            f"tasks lose in the same task have Spearman's correlation "
            f"{self._correlation(found):+.2f}. {self.seeds_said}."
        )

    def headline(self, found: Found):
        gains = self._gains(found)
        return {
            "acc": {str(n): {str(m): v for m, v in gains[n].items()} for n in self.lengths},
            "frozen_minus_learning": {str(n): self._frozen(found, n) for n in self.lengths},
            "spearman_drift_forgetting": self._correlation(found),
        }

    def _gains(self, found: Found) -> pd.DataFrame:
        """Mean Acc by number of tokens (rows) and N (columns)."""
        own = found.rows(prompt="learning")
        return own.groupby(["tokens", "tasks"], sort=False).acc.mean().unstack()

    def _frozen(self, found: Found, n: int) -> float:
        by = found.rows(tasks=n, tokens=8).groupby("prompt").acc.mean()
        return float(by["frozen"] - by["learning"])

    def _steps(self, found: Found, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(drift, loss) of every task after the first, over all runs with N = n that have P."""
        pairs = [
            np.stack([drift(run), lost(run)])
            for m in self.tokens
            if m
            for run in found.runs(tasks=n, tokens=m, prompt="learning")
        ]
        return tuple(np.concatenate(pairs, axis=1))

    def _correlation(self, found: Found) -> float:
        both = np.concatenate([np.stack(self._steps(found, n)) for n in self.lengths], axis=1)
        ranked = pd.DataFrame(both.T).rank()
        return float(ranked[0].corr(ranked[1]))


def drift(run: Run) -> np.ndarray:
    """‖P_t − P_{t−1}‖ / ‖P_{t−1}‖ (N − 1,) of each task after the first."""
    P = np.stack([run.task(t)["prompts"] for t in range(len(run.accuracy_matrix))]).astype(float)
    moved = np.linalg.norm(np.diff(P, axis=0), axis=(1, 2))
    return moved / np.linalg.norm(P[:-1], axis=(1, 2))


def lost(run: Run) -> np.ndarray:
    """What the tasks before t lost on average while t was learned (N − 1,), in points."""
    a = run.accuracy_matrix
    return np.array([np.mean(a[t - 1, :t] - a[t, :t]) for t in range(1, len(a))])
