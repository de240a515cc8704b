"""Prompt drift: where the meta-prompt goes, and what is forgotten on the way."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from ipywidgets import Dropdown, IntSlider, Play, VBox, jslink
from matplotlib.figure import Figure

from fmlora_lab.analysis.prompt_drift import drift_of, prompts_of
from fmlora_lab.explorers.explorer import Explorer, table
from fmlora_lab.explorers.offer import dropdown, offered, run_of
from fmlora_lab.interrupts import stopping
from fmlora_lab.metrics import acc_over_time
from fmlora_lab.plots.prompt_path import PromptPath
from fmlora_lab.plots.screen import Screen
from fmlora_lab.runs.stored import Run

ALL = -1
"""In the place of a token. (A dropdown takes None for nothing chosen and shows no line.)"""
HINT = """every task trains the same prompt, so it leaves what earlier tasks had trained. Does it
move in one direction or wander? Are the steps largest early, do its tokens grow? Then look below at
the earlier task: does its accuracy fall where the prompt moves most? Weights and classifier change
at the same time, so a fall together with a step is a question, not a proof."""


@stopping("before the explorer was open")
def prompt_drift(runs_dir: Path | str | None = None, static: bool = False) -> VBox | Figure:
    """The explorer; with `static`, the figure that it opens with.

    Offers the example runs and those in `runs_dir`. BadInput for a stored file that is damaged.
    """
    return explorer(runs_dir).shown(static)


def suits(run: Run) -> bool:
    """Whether a run trained a prompt that all tasks share."""
    return run.method_name == "fm-lora"


def explorer(runs_dir: Path | str | None = None) -> Explorer:
    """The page, for who wants its controls."""
    run = dropdown("run", offered(runs_dir, suits), "fm-lora")
    n = len(run_of(run).accuracy_matrix)
    task = IntSlider(n, 1, n, description="after task")
    earlier = IntSlider(1, 1, n, description="accuracy on task")
    token = Dropdown(options=[("all", ALL)], description="token")
    play = Play(min=1, max=n, value=n, interval=700, description="through the tasks")
    jslink((task, "value"), (play, "value"))

    def adjust() -> None:
        for moving in (task, earlier, play):
            moving.max = len(run_of(run).accuracy_matrix)
        m = run_of(run).config["method"]["prompt"]["tokens"]
        options = [("all", ALL), *((str(k + 1), k) for k in range(m))]
        if list(token.options) != options:
            token.options = options

    controls = {"run": run, "task": task, "of_token": token, "earlier": earlier}
    return Explorer(controls, draw, [(run, token), (task, play, earlier)], HINT, adjust)


def draw(run: Run, task: int, of_token: int, earlier: int) -> tuple[Screen, str]:
    """The figure after a task (from 1) with the accuracy on another (from 1), and its numbers."""
    picture = built(run)
    t, i, one = task - 1, earlier - 1, None if of_token == ALL else of_token
    picture.show(t, one, i)
    return picture, words(picture, t, one, i)


@lru_cache(8)
def built(run: Run) -> PromptPath:
    a = run.accuracy_matrix
    return PromptPath(drift_of(prompts_of(run)), a, acc_over_time(a, run.result["test_images"]))


def words(picture: PromptPath, t: int, token: int | None, i: int) -> str:
    """What the picture shows after task t, as numbers."""
    drift, a = picture.drift, picture.a
    picked = slice(None) if token is None else [token]
    first, before, norm = (
        float(np.mean(of[t, picked])) for of in (drift.to_first, drift.to_previous, drift.norms)
    )
    who = "mean of all" if token is None else f"token {token + 1}"
    prompt = {
        "cosine to after task 1": [f"{first:.3f}"],
        "cosine to the task before": ["–" if np.isnan(before) else f"{before:.3f}"],
        "length": [f"{norm:.3f}"],
    }
    accuracy = {"when it was learned": [f"{a[i, i]:.1f}%"]}
    if t >= i:
        accuracy |= {"now": [f"{a[t, i]:.1f}%"], "change": [f"{a[t, i] - a[i, i]:+.1f} points"]}
    return table(f"Prompt after task {t + 1}", [who], prompt) + table(
        f"Of task {i + 1}", ["accuracy"], accuracy
    )
