"""The panel of a sweep in a notebook: a row a run, its curves as they grow, Stop and Skip.

A thread draws it, so that it is up to date whatever the sweep is busy with. What a run has learned
so far is read from its folder, whoever computes it. Stop and Skip interrupt the main thread, as
the front end's own button does.
"""

import json
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import display
from ipywidgets import HTML, Button, HBox, VBox
from safetensors import SafetensorError, safe_open

from fmlora_lab import progress
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.metrics import acc_over_time, accuracy_matrix
from fmlora_lab.runs import clicks
from fmlora_lab.runs.folder import PROGRESS, RunFolder
from fmlora_lab.runs.identity import identity
from fmlora_lab.runs.run import ranking_head
from fmlora_lab.runs.stored import Run, run_folder
from fmlora_lab.runs.watch import Skipped, State, Watch, What, counted
from fmlora_lab.runs.workers import LOG, last_line

EVERY = 0.5
"""Seconds from one drawing to the next."""
SHOWN = 24
"""Rows; of more runs, those that wait and those that are done give way."""
POINTS = 40
"""Of a curve."""
WIDTH, HEIGHT = 120, 26
"""Of a run's picture, in pixels."""
CHECKPOINT = "checkpoint.safetensors"

Curve = list[tuple[float, float]]
"""Points: how much of the stream was seen, from 0 to 1, and what was measured then."""


@dataclass
class Row:
    """A run: `losses` of its epochs, and `accs`, in percent, after its tasks."""

    words: dict[str, str]
    config: RunConfig
    folder: RunFolder | None = None
    state: State = field(default_factory=State)
    said_at: float = 0.0
    losses: Curve = field(default_factory=list)
    accs: Curve = field(default_factory=list)
    changed_at: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        named = self.words.items()
        return ", ".join(value if name == "method" else f"{name} {value}" for name, value in named)

    def stands(self, what: What, said: str = "") -> None:
        if said != self.state.said:
            self.said_at = time.monotonic()
        self.state = State(what, said)

    def look(self) -> None:
        """Read the curves as far as the run's folder has them."""
        # Others write these files, and may delete them: what is not there now is there later.
        with suppress(OSError, BadInput, SafetensorError, KeyError):
            if self.folder is not None and self._new(PROGRESS):
                self.losses = losses(self.folder, self.config)
            if self.folder is not None and self._new(CHECKPOINT):
                self.accs = accuracies(self.folder, self.config)

    def _new(self, name: str) -> bool:
        """Whether that file has changed since it was last asked for."""
        assert self.folder is not None
        before = self.changed_at.get(name)
        self.changed_at[name] = (self.folder.path / name).stat().st_mtime_ns
        return self.changed_at[name] != before

    def left(self) -> str:
        """The time left, as the run said it, less what went by since."""
        said = re.search(r"(?:(\d+):)?(\d+):(\d+) left", self.state.said)
        if said is None or self.state.what != "running":
            return ""
        hours, minutes, seconds = (int(part or 0) for part in said.groups())
        whole = 3600 * hours + 60 * minutes + seconds
        minutes, seconds = divmod(max(0, round(whole - (time.monotonic() - self.said_at))), 60)
        return f"{minutes}:{seconds:02d}"

    def task(self) -> str:
        said = re.search(r"task (\d+/\d+)", self.state.said)
        return said[1] if said else ""


def losses(folder: RunFolder, config: RunConfig) -> Curve:
    """The mean loss of each epoch that a run has behind it."""
    tasks, epochs = len(folder.read_json("environment.json")["tasks"]), config.training.epochs
    return [
        (min(1.0, (line["task"] + (line["epoch"] + 1) / epochs) / tasks), line["loss"])
        for line in folder.read_progress()
        if line["stage"] == "train" and line["loss"] is not None
    ]


def accuracies(folder: RunFolder, config: RunConfig) -> Curve:
    """Acc in percent after each task that a run has behind it, by the head that will rank it. Of
    its checkpoint the notes alone are read."""
    counts = folder.read_json("environment.json")["test_images"]
    with safe_open(folder.path / CHECKPOINT, framework="numpy") as opened:
        correct = json.loads(opened.metadata()["notes"])["position"]["correct"]
    right = correct.get(ranking_head(config, correct))
    return along(acc_over_time(accuracy_matrix(right, counts), counts), counts) if right else []


def along(curve: Iterable[float], counts: Sequence[int]) -> Curve:
    return [((t + 1) / len(counts), float(a)) for t, a in enumerate(curve) if not np.isnan(a)]


class Panel(Watch):
    """How the sweep of these configurations goes, of which `words` tell each from the others.

    Its last picture stays in the notebook: a control without a kernel is an error message there.
    """

    def __init__(
        self,
        words: Sequence[dict[str, str]],
        configs: Sequence[RunConfig],
        runs_dir: Path | str | None,
    ):
        super().__init__()
        self.runs_dir = runs_dir
        self.rows = [Row(own, config) for own, config in zip(words, configs, strict=True)]
        self.over = 0  # runs, in their order
        self.notes: list[str] = []
        self.here: int | None = None  # which of the runs this process is computing
        self.skips: set[str] = set()
        self.stopped = self.closed = False
        self.lock, self.wake = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self._live, daemon=True)
        # An interrupt is for the main thread.
        in_main = threading.current_thread() is threading.main_thread()
        self.clickable = in_main and clicks.reach()
        self.stop_button = Button(description="Stop", tooltip="Stop the sweep; what is done stays")
        self.clicked: clicks.Clicked = {clicks.key(self.stop_button): self.stop}
        self.skip_buttons: dict[str, Button] = {}
        self.buttons, self.page = HBox(), HTML()
        self.widget = VBox([self.buttons, self.page])
        self.within = ExitStack()

    def __enter__(self) -> "Panel":
        self.shown: Any = display(self.widget, display_id=True)
        self.within.enter_context(progress.heard_by(self.notes.append))
        self.within.enter_context(clicks.heard(self.clicked))
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self.lock:
            self.closed = True  # no click interrupts from now on
        self.within.close()
        self.wake.set()
        self.thread.join()
        for row in self.rows:
            if row.state.what == "running":
                row.look()
                row.stands("stopped", row.state.said)
        last = {"text/plain": self.text(), "text/html": self.html(last=True)}
        self.shown.update(last, raw=True)
        for own in (*self.skip_buttons.values(), self.stop_button, *self.widget.children):
            own.close()
        self.widget.close()

    # --- what launchers tell

    def ended(self, run: Any) -> None:
        row = self.rows[self.over]
        self.over += 1
        if isinstance(run, Run):
            counts = run.result["test_images"]
            row.look()
            row.accs = along(acc_over_time(run.accuracy_matrix, counts), counts)
            row.stands("done")
        elif isinstance(run, Skipped):
            row.stands("skipped", row.state.said)
            self.notes.append(f"skipped: {row}; asked for again, it goes on where it stopped")
        else:
            row.stands("failed", run.why)

    def stand(self, names: Sequence[str], states: Mapping[str, State]) -> None:
        for row, name in zip(self.rows[self.over :], names[self.over :], strict=True):
            state = states.get(name, State("done"))
            row.folder = row.folder or run_folder(name, self.runs_dir)
            row.stands(state.what, state.said)

    @contextmanager
    def at_work(self, number: int) -> Iterator[None]:
        row = self.rows[number]
        row.folder = run_folder(identity(row.config), self.runs_dir)
        row.stands("running")
        self.here = number
        try:
            yield
        finally:
            with self.lock:  # a click comes before, or finds that this run is over
                self.here = None

    def skipped(self, number: int) -> Skipped | None:
        name = self._name(self.rows[number])
        return Skipped(name) if name in self.skips and not self.stopped else None

    def to_skip(self) -> set[str]:
        with self.lock:
            skips, self.skips = self.skips, set()
        return skips

    # --- what people click

    def stop(self) -> None:
        """End the sweep as an interrupt does."""
        with self.lock:
            if not self.closed:
                self.stopped = True
                self._interrupt()

    def skip(self, name: str) -> None:
        """Compute that run no further, and go on with the next."""
        with self.lock:
            if self.closed:
                return
            self.skips.add(name)
            if self.here is not None and self._name(self.rows[self.here]) == name:
                self._interrupt()

    def _interrupt(self) -> None:
        self.wake.set()
        # By the system, so that it wakes who waits.
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    # --- the picture

    def _live(self) -> None:
        while not self.closed:
            self.draw()
            self.wake.wait(EVERY)
            self.wake.clear()

    def draw(self) -> None:
        """The picture as things are now."""
        if self.here is not None:
            self.rows[self.here].stands("running", progress.standing())
        going = [row for row in self.rows if row.state.what == "running"]
        for row in going:
            if self.here is None and row.folder is not None:
                row.stands("running", last_line(row.folder.path / LOG) or row.state.said)
            row.look()
        if self.clickable:
            self._offer({self._name(row): row for row in going})
        self.page.value = self.html()

    def _name(self, row: Row) -> str:
        return "" if row.folder is None else row.folder.run_id

    def _offer(self, going: Mapping[str, Row]) -> None:
        """A button for each run that can be skipped, which is that run's alone: a click that comes
        late skips no other."""
        if self.skip_buttons.keys() == going.keys() and self.buttons.children:
            return
        for name in self.skip_buttons.keys() - going.keys():
            button = self.skip_buttons.pop(name)
            del self.clicked[clicks.key(button)]
            button.close()
        for name in list(going)[:SHOWN]:
            if name not in self.skip_buttons:
                button = Button(
                    description=f"Skip {going[name]}",
                    tooltip="Compute this run no further, and go on with the next",
                    layout={"width": "auto"},
                )
                self.skip_buttons[name] = button
                self.clicked[clicks.key(button)] = lambda name=name: self.skip(name)
        self.buttons.children = (self.stop_button, *self.skip_buttons.values())

    def text(self) -> str:
        """What is left of the panel where there is text alone."""
        lines = [f"{row}: {row.state.what}" for row in self.rows if row.state.what != "done"]
        return "\n".join([self._counts(), *lines[:SHOWN], *self.notes])

    def html(self, last: bool = False) -> str:
        """The table and what was said. At the `last` only runs that are not done stay."""
        shown = [row for row in self.rows if row.state.what != "done"] if last else self.rows
        names = dict.fromkeys(name for row in self.rows for name in row.words)
        heads = [*names, "state", "task", "left", "loss", "Acc", KEY]
        head = "".join(f"<th scope='col'>{name}</th>" for name in heads)
        body = "".join(_line(row, list(names)) for row in self._some(shown))
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        said = [self._counts(), *self.notes[-SHOWN:]]
        if not self.clickable and not last:
            said.append("interrupt the kernel to stop; what is done stays")
        below = "".join(f"<div>{escape(line)}</div>" for line in said)
        return f"{STYLE}<div class='fmlora-sweep'>{table if shown else ''}{below}</div>"

    def _some(self, rows: Sequence[Row]) -> list[Row]:
        """As many as there is room for: those that go on or went wrong, and what is near them."""
        quiet = ("queued", "done")
        order = sorted(
            range(len(rows)), key=lambda k: (rows[k].state.what in quiet, abs(k - self.over))
        )
        return [rows[k] for k in sorted(order[:SHOWN])]

    def _counts(self) -> str:
        return counted(row.state.what for row in self.rows)


KEY = "Acc —, loss ┄"
STYLE = (
    "<style>.fmlora-sweep tr td, .fmlora-sweep tr th {text-align: left; padding: 1px 1em 1px 0}"
    ".fmlora-sweep tr td.n {text-align: right; font-variant-numeric: tabular-nums}"
    ".fmlora-sweep {line-height: 1.5} .fmlora-sweep svg {display: block}</style>"
)


def _line(row: Row, names: Sequence[str]) -> str:
    words = [row.words.get(name, "") for name in names]
    where = row.state.said if row.state.what in ("queued", "failed") else row.task()
    numbers = [
        row.left(),
        f"{row.losses[-1][1]:.3g}" if row.losses else "",
        f"{row.accs[-1][1]:.1f}" if row.accs else "",
    ]
    cells = [f"<td>{escape(word)}</td>" for word in (*words, row.state.what, where)]
    cells += [f"<td class='n'>{number}</td>" for number in numbers]
    return f"<tr>{''.join(cells)}<td>{_picture(row)}</td></tr>"


def _picture(row: Row) -> str:
    """The curves, in whatever colour text has."""
    highest = max((loss for _, loss in row.losses), default=0.0)
    lines = [
        _polyline(row.accs, 100.0, "stroke-width='1.5'"),
        _polyline(row.losses, highest, "stroke-dasharray='2 2'"),
    ]
    if not any(lines):
        return ""
    said = [f"Acc {acc:.1f}% at {seen:.0%} of the stream" for seen, acc in row.accs[-1:]]
    said += [f"loss {loss:.3g}" for _, loss in row.losses[-1:]]
    size = f"width='{WIDTH}' height='{HEIGHT}' viewBox='0 0 {WIDTH} {HEIGHT}'"
    how = "fill='none' stroke='currentColor'"
    label = f"role='img' aria-label='{', '.join(said)}'"
    return f"<svg {size} {how} {label}>{''.join(lines)}</svg>"


def _polyline(curve: Curve, highest: float, look: str) -> str:
    if not curve:
        return ""
    kept = curve[:: -(-len(curve) // POINTS)]
    kept = kept if kept[-1] == curve[-1] else [*kept, curve[-1]]
    inside = HEIGHT - 4
    points = [(x * (WIDTH - 4) + 2, 2 + inside * (1 - y / (highest or 1))) for x, y in kept]
    if len(points) == 1:
        (x, y), *_ = points
        return f"<circle cx='{x:.0f}' cy='{y:.1f}' r='1.5' fill='currentColor'/>"
    return f"<polyline {look} points='{' '.join(f'{x:.0f},{y:.1f}' for x, y in points)}'/>"
