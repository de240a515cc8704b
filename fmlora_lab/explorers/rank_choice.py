"""Rank choice: the selector's formula, moved by hand over what a run recorded."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from ipywidgets import FloatLogSlider, FloatSlider, ToggleButtons, VBox
from matplotlib.figure import Figure

from fmlora_lab.analysis.rank_choice import (
    FORMS,
    Choices,
    choices_of,
    ranks_by_site,
    smaller_ranks,
    tasks_of,
    within_task_error,
)
from fmlora_lab.config import BadInput
from fmlora_lab.explorers.explorer import Explorer, table
from fmlora_lab.explorers.offer import dropdown, offered, run_of
from fmlora_lab.interrupts import stopping
from fmlora_lab.plots.rank_choice import RankChoice, RanksLeft
from fmlora_lab.plots.screen import Screen
from fmlora_lab.runs.stored import Run

DROPS = "sora"
"""The method whose ranks are what training leaves of `rank` directions, not choices."""
HIGHEST = 1.5
"""Complexity is drawn up to here: 1 is what guessing has."""
TAU_STEP, COST_STEP = 0.02, 0.01
"""Of the sliders: τ in powers of ten, λ. A browser moves a slider's value to the nearest step."""
HINT = """with the paper's form, move H: the bars sharpen, but the winner never changes, so a task's
difficulty cannot choose its rank. With the calibrated form the winner passes through the candidates
as H grows; a larger λ moves that to harder tasks, a larger τ makes all probabilities alike without
changing the winner. Below: how little accuracy is often lost at a smaller rank. A run of SoRA has
no probabilities: it shows how many directions training left, by task and site."""


@stopping("before the explorer was open")
def rank_choice(runs_dir: Path | str | None = None, static: bool = False) -> VBox | Figure:
    """The explorer; with `static`, the figure that it opens with.

    Offers the example runs and those in `runs_dir`. BadInput for a stored file that is damaged.
    """
    return explorer(runs_dir).shown(static)


def suits(run: Run) -> bool:
    """Whether the ranks of a run were chosen, or left by training."""
    return run.method_name in ("fm-lora", DROPS)


def explorer(runs_dir: Path | str | None = None) -> Explorer:
    """The page, for who wants its controls."""
    run = dropdown("run", offered(runs_dir, suits), "fm-lora")
    form = ToggleButtons(options=FORMS, description="form", style={"button_width": "6em"})
    H = FloatSlider(0.4, min=0.02, max=HIGHEST, step=0.01, description="H")
    tau = FloatLogSlider(1, min=-1.5, max=1, step=TAU_STEP, description="τ", readout_format=".2f")
    cost = FloatSlider(0, min=0, max=6, step=COST_STEP, description="λ")
    standing: list[Run] = []  # the run whose settings the sliders began with

    def adjust() -> None:
        now = run_of(run)
        for control in (form, H, tau, cost):
            control.disabled = now.method_name == DROPS
        if now.method_name == DROPS:
            return
        if standing != [now]:
            standing[:] = [now]
            found = choices_of(now)
            form.value, tau.value = found.form, found.tau
            cost.max = max(6.0, 2 * found.cost)
            cost.value = found.cost or 1.0
        cost.disabled = form.value == "paper"

    controls = {"run": run, "form": form, "H": H, "tau": tau, "cost": cost}
    return Explorer(controls, draw, [(run, form), (H, tau, cost)], HINT, adjust)


def draw(run: Run, form: str, H: float, tau: float, cost: float) -> tuple[Screen, str]:
    """The figure of a run at these settings, and its numbers."""
    if run.method_name == DROPS:
        return ranks_left(run), words_left(run)
    picture = built(run)
    tau, cost = exactly(picture.choices, tau, cost)
    picture.show(H, form, tau, cost)
    won = picture.choices.winners(form, tau, cost)
    return picture, words(picture.choices, H, form, tau, cost) + hardness(run, tuple(won))


def exactly(choices: Choices, tau: float, cost: float) -> tuple[float, float]:
    """τ and λ; a slider that stands as near to the run's own value as its steps allow stands for
    that value, so that the run's own choices come out."""
    if abs(np.log10(tau / choices.tau)) <= TAU_STEP / 2:
        tau = choices.tau
    return tau, choices.cost if abs(cost - choices.cost) <= COST_STEP / 2 else cost


@lru_cache(8)
def built(run: Run) -> RankChoice:
    choices = choices_of(run)
    try:
        smaller = smaller_ranks(run)
    except BadInput as lacking:
        smaller = str(lacking)
    return RankChoice(choices, smaller, max(HIGHEST, 1.05 * choices.H.max()))


@lru_cache(8)
def ranks_left(run: Run) -> RanksLeft:
    return RanksLeft(ranks_by_site(run), run.config["method"]["rank"])


@lru_cache(8)
def words_left(run: Run) -> str:
    """How many directions each task kept over its sites, beside how hard it was."""
    rows = {
        f"task {t}": [f"{ranks.mean():.1f}", f"{ranks.min():.0f}", f"{ranks.max():.0f}", error]
        for t, (ranks, error) in enumerate(zip(ranks_by_site(run), errors(run), strict=True), 1)
    }
    return table("Directions that stay", ["mean", "least", "most", "error within the task"], rows)


def words(choices: Choices, H: float, form: str, tau: float, cost: float) -> str:
    """Each candidate's probability at H, and how many of the run's tasks it wins."""
    (p,) = choices.at([H], form, tau, cost)
    won = choices.winners(form, tau, cost)
    own = choices.winners(choices.form, choices.tau, choices.cost)
    rows = {
        f"r = {rank}": [f"{100 * p[k]:.1f}%", str(won.count(rank)), str(own.count(rank))]
        for k, rank in enumerate(choices.candidates)
    }
    heads = [f"at H = {H:.2f}", "tasks won", "in the run"]
    return table("Rank", heads, rows) + (
        f"<small>In the run: the {choices.form} form, τ = {choices.tau:g}"
        + (f", λ = {choices.cost:.2f}" if choices.form != "paper" else "")
        + f". H is in units of guessing, ln {np.exp(choices.ln_k):.0f}.</small>"
    )


@lru_cache(8)
def hardness(run: Run, won: tuple[int, ...]) -> str:
    """How hard each task was by H, in units of guessing, and by its error with the task given,
    beside the rank that `won` at the sliders' settings and the rank that it had in the run."""
    rows = {
        f"task {t}": [f"{H:.2f}", error, str(rank), f"{had:g}"]
        for (t, had), H, error, rank in zip(
            tasks_of(run)["rank"].items(), choices_of(run).H, errors(run), won, strict=True
        )
    }
    heads = ["H", "error within the task", "r won", "r in the run"]
    return table("How hard", heads, rows) + (
        "<small>Task 1 fills the bases, so in the run its rank is their width, whatever wins. "
        "Where a task had less than what won, all that it had is ringed.</small>"
    )


def errors(run: Run) -> list[str]:
    """Each task's error with the task given, "–" where it was not measured."""
    try:
        return [f"{error:.1f}%" for error in within_task_error(run)]
    except BadInput:
        return ["–"] * run.result["task_files"]
