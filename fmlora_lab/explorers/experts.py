"""Experts: which of its pools' experts a domain uses, and what other domains keep."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from ipywidgets import IntSlider, Play, ToggleButtons, VBox, jslink
from matplotlib.figure import Figure

from fmlora_lab.analysis.experts import TOWERS, Course, Experts, course_of, experts_of, suits
from fmlora_lab.explorers.explorer import Explorer, table
from fmlora_lab.explorers.offer import dropdown, offered, run_of
from fmlora_lab.interrupts import stopping
from fmlora_lab.plots.experts import ExpertsUsed
from fmlora_lab.plots.screen import Screen
from fmlora_lab.runs.stored import Run

GIVEN, ALL = "its own domain's", "all domains'"
"""The classes among which an image's is to be found."""
COMMAND = "fmlora-lab run --method rank1-pool --backbone glyphs-clip --benchmark glyph-scripts"
HINT = """move the domain: do its images spread their votes, and in which blocks? In the text tower
nearly all is all or nothing: the router reads the first token, which is the same in every text.
Then look at the right: are columns that two domains use nearer to each other than chance? And does
the accuracy on domains yet to come fall while others are learned?"""


@stopping("before the explorer was open")
def experts(runs_dir: Path | str | None = None, static: bool = False) -> VBox | Figure:
    """The explorer; with `static`, the figure that it opens with.

    Offers the example runs and those in `runs_dir`. BadInput for a stored file that is damaged.
    """
    return explorer(runs_dir).shown(static)


def explorer(runs_dir: Path | str | None = None) -> Explorer:
    """The page, for who wants its controls."""
    run = dropdown("run", offered(runs_dir, suits, COMMAND), "rank1-pool")
    n = len(run_of(run).environment["tasks"])
    domain = IntSlider(min(2, n), 1, n, description="domain")
    other = IntSlider(n, 1, n, description="beside it domain")
    other.style = {"description_width": "initial"}
    classes = ToggleButtons(options=[GIVEN, ALL], description="classes")
    classes.style = {"button_width": "auto"}
    play = Play(min=1, max=n, value=min(2, n), interval=700, description="through the domains")
    jslink((domain, "value"), (play, "value"))

    def adjust() -> None:
        for moving in (domain, other, play):
            moving.max = len(run_of(run).environment["tasks"])

    controls = {"run": run, "domain": domain, "other": other, "classes": classes}
    return Explorer(controls, draw, [(run, classes), (domain, play, other)], HINT, adjust)


def draw(run: Run, domain: int, other: int, classes: str) -> tuple[Screen, str]:
    """The figure of a domain beside another (both from 1), and its numbers."""
    picture = built(run)
    t, i, given = domain - 1, other - 1, classes == GIVEN
    picture.show(t, i, given)
    return picture, words(picture.experts, picture.courses[given], t)


@lru_cache(8)
def built(run: Run) -> ExpertsUsed:
    return ExpertsUsed(experts_of(run), {given: course_of(run, given) for given in (True, False)})


def words(found: Experts, course: Course, t: int) -> str:
    """What the picture shows of domain t, as numbers: its experts by tower, its columns beside
    those of other domains, and accuracy before anything was learned and after domain t."""
    own = [found.within(tower) for tower in TOWERS]
    used = {
        "votes for the merged": [f"{100 * found.share(t, tower):.0f}%" for tower in TOWERS],
        "merged ‖ΔW‖": [f"{np.linalg.norm(found.norm[of, t]):.3f}" for of in own],
        "overlap with others": [f"{np.nanmean(found.cosine[of, t]):.3f}" for of in own],
        "by chance": [f"{found.chance[of].mean():.3f}" for of in own],
    }
    cosine, ago, names = found.cosine.mean(0), found.ago.mean(0), course.names
    others = [i for i in range(len(names)) if i != t]
    columns = {f"{i + 1} {names[i]}": [f"{cosine[t, i]:.3f}", f"{ago[t, i]:.2g}"] for i in others}
    accuracy = {
        f"{i + 1} {names[i]}{'' if i <= t else ' *'}": [
            f"{course.before[i]:.1f}%",
            f"{course.after[t, i]:.1f}%",
            f"{course.after[t, i] - course.before[i]:+.1f}".replace("-", "−"),
        ]
        for i in range(len(names))
    }
    return (
        table(f"{t + 1} {names[t]}", TOWERS, used)
        + table("Its columns and those of", ["overlap", "AGO"], columns)
        + table("Right answers on", ["zero-shot", f"after {t + 1}", "change"], accuracy)
        + "<small>* yet to come. Overlap: mean |cosine| of used columns. AGO: the sum of their "
        "|inner products| at a site, mean over sites, as the pool's loss has it.</small>"
    )
