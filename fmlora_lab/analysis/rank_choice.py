"""What the rank selector chose in a stored run, and what it would choose at other settings; and
what training left where no selector chose."""

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmlora_lab.analysis.updates import Array
from fmlora_lab.config import BadInput
from fmlora_lab.methods.fm_lora.scores import scores
from fmlora_lab.runs.stored import Run

if TYPE_CHECKING:
    from pandas import DataFrame

FORMS = ("calibrated", "paper")
ESTIMATES = ("early_loss", "early_gradient", "means_error")
"""What might stand in for H without a preliminary epoch, as a run records it where it is asked to:
loss and gradient of the first batches, and how often class means err before anything is learned."""


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

    def winners(self, form: str, tau: float, cost: float) -> list[int]:
        """The candidate of the highest probability, of every task (N,)."""
        return self.candidates[self.probabilities(form, tau, cost).argmax(1)].tolist()

    def at(self, H: ArrayLike, form: str, tau: float, cost: float) -> Array:
        """p(r | H) of tasks that are as hard as H (k,) says: (k, c), with the last task's w and
        the temperature τ."""
        H = np.asarray(H, float)[:, None, None]
        return self._p(H, self.w[-1], form, tau, cost).mean(1)

    def _p(self, H: Array, w: Array, form: str, tau: Any, cost: float) -> Array:
        """docs/method.md, section 3, by the function that training calls."""
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
    if run.config["method"].get("adapt") == "first-task":
        raise BadInput(
            f"run {run.id} chose no ranks for its tasks, since only the first adapts; train one "
            "with `fmlora-lab run --method fm-lora --set method.adapt=every-task`"
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
        cost=0.0 if drs["form"] == "paper" else float(records[-1]["cost"].item()),
        ln_k=ln_k,
    )


def tasks_of(run: Run) -> "DataFrame":
    """A row a task, counted from 1 (`task`): the `rank` that was chosen, `H`, and each of
    ESTIMATES that was measured. Where every site chose for itself, the mean over sites."""
    from pandas import DataFrame  # here, for explorers open sooner without it

    records = [run.task(t) for t in range(run.result["task_files"])]
    known = [name for name in ("rank", "H", *ESTIMATES) if name in records[0]]
    rows = [{name: float(np.mean(record[name])) for name in known} for record in records]
    return DataFrame(rows, index=np.arange(1, len(rows) + 1)).rename_axis("task")


def ranks_by_site(run: Run) -> Array:
    """The rank of every task at every site (N, S): of FM-LoRA what was chosen, of SoRA how many
    directions stay. BadInput for a run that gives tasks no rank."""
    records = [run.task(t) for t in range(run.result["task_files"])]
    if "rank" not in records[0]:
        raise BadInput(f"run {run.id} is of {run.method_name}, which gives tasks no rank")
    return np.stack([record["rank"].astype(float).ravel() for record in records])


def within_task_error(run: Run) -> Array:
    """How hard each task was: the error in percent (N,) just after it was learned, the task given,
    by the head that ranks the run. Among all classes seen the error grows with the task's place in
    the stream, whatever the task. BadInput where it was not measured."""
    if "within_task_matrix" not in run.result:
        raise BadInput(
            f"how hard the tasks of run {run.id} were is not known: it is older than accuracy "
            "within a task is measured; compute it anew with --fresh"
        )
    return 100 - np.array(run.result["within_task_matrix"], float).diagonal()


def classes_a_task(run: Run) -> int:
    """A stream of domains shows all its classes in every task; any other cuts them into equals."""
    everything, tasks = run.environment["class_names"], run.environment["tasks"]
    benchmark = run.config["benchmark"]
    domains = benchmark["name"] in ("glyph-domains", "domains")
    domains |= benchmark.get("scenario") == "domain-incremental"
    return len(everything) if domains else len(everything) // len(tasks)


def smaller_ranks(run: Run) -> dict[str, Any]:
    """`explorers.examples.truncated` of the run; BadInput that says how to make it."""

    def missing() -> dict[str, Any]:
        raise BadInput(
            f"run {run.id} was not evaluated at smaller ranks; `fmlora-lab examples {run.id[:8]}` "
            "does that"
        )

    return run.derived("truncated", missing)
