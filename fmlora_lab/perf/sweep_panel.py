"""How late the panel of a sweep is, how long Stop and Skip take, and how soon a sweep goes on.

Measured at a real kernel, by the clock of this machine: from the moment that an epoch's loss is
stored until the panel with that loss is there; from a click, while the cell runs, until the cell
has ended, or the panel says "skipped"; from asking again until the panel says which task is being
learned.
"""

import json
import re
import time
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fmlora_lab.perf.kernel import Person, kernel

BEGIN = """
import json, time
from fmlora_lab import grid, sweep
from fmlora_lab.runs.folder import FolderKeeper

stored, log = [], FolderKeeper.log

def noting(keeper, line):
    log(keeper, line)
    stored.append((time.time(), format(line["loss"] or 0, ".3g")))

FolderKeeper.log = noting
asked = grid("smoke", method="lora", seed=range(9), overrides={"training.epochs": 12})
"""
TOLD = "print(json.dumps(stored))"
LOSSES = 3
"""New losses on the panel, until a button is pressed."""
TASK = re.compile(r"<td>running</td><td>\d")
LOSS = re.compile(r"<td>running</td><td>[^<]*</td><td class='n'>[^<]*</td><td class='n'>([^<]+)<")
AIMS = {"update": 1.0, "goes on": 2.0, "Skip": 2.0, "Stop": 2.0}


class Watcher:
    """Someone who watches the panel and clicks: `losses` says what was seen when, and when
    that round had begun."""

    def __init__(self, person: Person):
        self.person = person
        self.times: dict[str, list[float]] = {name: [] for name in AIMS}
        self.losses: list[tuple[float, float, str]] = []
        self.began = self.clicked = 0.0

    def round(self) -> Iterator[None]:
        """See some losses, skip the run, see some of the next, and stop; a step a message."""
        self.began = time.time()
        while not TASK.search(self.person.page()):
            yield
        self.times["goes on"].append(time.time() - self.began)
        yield from self._see_losses()
        clicked = self._click("Skip")
        while "<td>skipped</td>" not in self.person.page():
            yield
        self.times["Skip"].append(time.time() - clicked)
        yield from self._see_losses()
        self.clicked = self._click("Stop")

    def _click(self, words: str) -> float:
        button = self.person.button(words)
        assert button is not None, f"the panel of a sweep at work has {words}"
        return self.person.click(button)

    def _see_losses(self) -> Iterator[None]:
        before = len(self.losses)
        while len(self.losses) < before + LOSSES:
            shown = LOSS.search(self.person.page())
            if shown and shown[1] not in [loss for *_, loss in self.losses[-1:]]:
                self.losses.append((self.began, time.time(), shown[1]))
            yield


def bench(rounds: int) -> list[dict[str, Any]]:
    """The objects that `--json` prints, in seconds. In each round a sweep is asked for, of which
    a run is skipped, and stopped; then asked for again in the same kernel."""
    with TemporaryDirectory() as runs, kernel() as person:
        person.run(BEGIN)
        watcher = Watcher(person)
        for _ in range(1 + rounds):
            steps = watcher.round()
            cell = person.run(f"sweep(asked, {runs!r})", lambda steps=steps: next(steps, None))
            watcher.times["Stop"].append(cell.ended - watcher.clicked)
        stored = json.loads(person.run(TOLD).printed)
    del watcher.times["goes on"][0]  # the first time it only begins
    for began, shown, loss in watcher.losses:  # a loss of an earlier round is no news
        since = [shown - at for at, said in stored if said == loss and began <= at <= shown]
        watcher.times["update"] += since[-1:]
    return [{"what": n, "aim_s": AIMS[n], **_spread(own)} for n, own in watcher.times.items()]


def _spread(times: list[float]) -> dict[str, float]:
    middle, highest = np.percentile(times, [50, 100])
    return {"times": len(times), "median_s": round(middle, 3), "max_s": round(highest, 3)}


def to_text(found: list[dict[str, Any]]) -> str:
    """The measurements as a table."""
    lines = [f"{'':<8} {'times':>5} {'median s':>8} {'max s':>7} {'aim s':>6}"]
    lines += [
        f"{row['what']:<8} {row['times']:>5} {row['median_s']:>8.2f} {row['max_s']:>7.2f} "
        f"{row['aim_s']:>6.1f}"
        for row in found
    ]
    return "\n".join(lines)
