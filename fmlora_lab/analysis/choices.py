"""What the rank selector chose in a stored run, and what it would choose at other settings."""

from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmlora_lab.analysis.subspaces import Array
from fmlora_lab.config import BadInput
from fmlora_lab.rank_scores import scores
from fmlora_lab.runs.store import Run

FORMS = ("calibrated", "paper")


@dataclass
class Choices:
    """N tasks, c candidates, n choices a task (1, or one a site)."""

    candidates: NDArray[np.int64]
    """(c,), rising."""
    H: Array
    """(N,): validation loss after the preliminary epoch over ln K, 1 for guessing among K."""
    w: Array
    """(N, n, c)."""
    form: str
    tau: float
    """τ of the first task."""
    tau_decay: float
    """Factor on τ after each task."""
    cost: float
    """λ; 0 in the paper's form."""
    ln_k: float
    """ln of the number of a task's classes."""

    def probabilities(self, form: str, tau: float, cost: float) -> Array:
        """p(r | T_t) of every task (N, c), the mean over its n choices; τ is the first task's."""
        taus = tau * self.tau_decay ** np.arange(len(self.H))
        return self._p(self.H[:, None, None], self.w, form, taus[:, None, None], cost).mean(1)

    def at(self, H: ArrayLike, form: str, tau: float, cost: float) -> Array:
        """p(r | H) of tasks that are as hard as H (k,) says: (k, c), with the last task's w and
        the temperature τ."""
        H = np.asarray(H, float)[:, None, None]
        return self._p(H, self.w[-1], form, tau, cost).mean(1)

    def _p(self, H: Array, w: Array, form: str, tau: Any, cost: float) -> Array:
        """METHOD section 3, by the function that training calls."""
        if form == "paper":
            H, cost = H * self.ln_k, 0.0
        return softmax(scores(H, w, self.candidates, tau, cost))


def softmax(score: Array) -> Array:
    """Over the last axis."""
    grown = np.exp(score - score.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


def choices_of(run: Run) -> Choices:
    """BadInput for a run in which nothing was chosen."""
    drs = run.config["method"].get("drs", {})
    if not drs.get("enabled"):
        raise BadInput(
            f"run {run.id} chose no ranks, since its selector was off; train one with `fmlora-lab "
            "run --method fm-lora --set method.drs.enabled=true`"
        )
    records = [run.task(t) for t in range(run.result["task_files"])]
    ln_k = log(max(classes_a_task(run), 2))
    unit = ln_k if drs["form"] == "paper" else 1.0
    return Choices(
        candidates=records[0]["candidates"].astype(int),
        H=np.array([float(record["H"].item()) / unit for record in records]),
        w=np.stack([record["w"].astype(float) for record in records]),
        form=drs["form"],
        tau=drs["tau"],
        tau_decay=drs["tau_decay"],
        cost=0.0 if drs["form"] == "paper" else float(records[0]["cost"].item()),
        ln_k=ln_k,
    )


def classes_a_task(run: Run) -> int:
    """A stream of domains shows all its classes in every task; any other cuts them into equals."""
    everything, tasks = run.environment["class_names"], run.environment["tasks"]
    benchmark = run.config["benchmark"]
    domains = benchmark["name"] in ("glyph-domains", "domains")
    domains |= benchmark.get("scenario") == "domain-incremental"
    return len(everything) if domains else len(everything) // len(tasks)


def smaller_ranks(run: Run) -> dict[str, Any]:
    """`ahead.truncated` of the run; BadInput that says how to make it."""

    def missing() -> dict[str, Any]:
        raise BadInput(
            f"run {run.id} was not evaluated at smaller ranks; `fmlora-lab examples {run.id[:8]}` "
            "does that"
        )

    return run.derived("truncated", missing)
