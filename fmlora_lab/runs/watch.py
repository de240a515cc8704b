"""How a sweep goes, for whoever watches: in a notebook one panel that lives, elsewhere lines.

A launcher tells `current()` where its runs stand, and asks it which of them to skip.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fmlora_lab import progress
from fmlora_lab.config import RunConfig
from fmlora_lab.runs.stored import differing

What = Literal["queued", "running", "done", "failed", "skipped", "stopped"]


@dataclass
class State:
    """Where a run stands that was not stored, and what it said last."""

    what: What = "queued"
    said: str = ""


@dataclass(frozen=True)
class Skipped:
    """In the place of a run that somebody skipped; what it had learned is stored."""

    run_id: str


class Watch:
    """Of runs that others compute, a line once a minute at most, when it has changed: how many are
    queued, and why, at work and done."""

    def __init__(self, ended: Callable[[], object] = lambda: None):
        self._ended = ended
        self.spoke, self.counts = time.monotonic(), ""

    def ended(self, run: Any) -> None:
        """The next run, in the order that was asked for, is there, or in its place why not."""
        self._ended()

    def stand(self, names: Sequence[str], states: Mapping[str, State]) -> None:
        """Where runs stand that others compute: `names` are of all runs, in order, `states` of
        those that were not stored."""
        counts = counted(state.what for state in states.values())
        whys = {state.said: None for state in states.values() if state.what == "queued"}
        if said := ", ".join(filter(None, whys)):
            counts += f"; waiting: {said}"
        if time.monotonic() - self.spoke >= progress.EVERY and counts != self.counts:
            self.spoke, self.counts = time.monotonic(), counts
            progress.say(counts)

    def at_work(self, number: int) -> AbstractContextManager:
        """Around the computing of a run in this process, the `number`th, from 0."""
        return nullcontext()

    def skipped(self, number: int) -> Skipped | None:
        """Whether an interrupt of the run at work was to skip it."""
        return None

    def to_skip(self) -> set[str]:
        """The runs, by name, that others are to compute no further."""
        return set()


_open: list[Watch] = []


def current() -> Watch:
    """Whom a launcher tells."""
    return _open[-1] if _open else Watch()


@contextmanager
def following(
    labels: Sequence[Mapping[str, Any]], configs: Sequence[RunConfig], runs_dir: Path | str | None
) -> Iterator[Watch]:
    """Show in here how the sweep of these configurations goes, as `current()` is told."""
    if progress.kind() == "notebook":
        from fmlora_lab.runs.panel import Panel  # here, since it brings the widgets

        shown = watch = Panel(words(labels, configs), configs, runs_dir)
    else:
        shown = progress.bar(desc="runs", total=len(configs), unit="run")
        watch = Watch(shown.update)
    with shown:
        _open.append(watch)
        try:
            yield watch
        finally:
            _open.remove(watch)


def counted(what: Iterable[str]) -> str:
    """`12 runs: 3 queued, 2 running, 7 done`."""
    found = Counter(what)
    total = found.total()
    return f"{total} run{'s' * (total != 1)}: " + ", ".join(
        f"{n} {name}" for name, n in found.items()
    )


def words(
    labels: Sequence[Mapping[str, Any]], configs: Sequence[RunConfig]
) -> list[dict[str, str]]:
    """What tells each run of a grid from the others: labels of several values, and where these do
    not, settings; of runs that nothing tells apart their method."""
    names = dict.fromkeys(name for own in labels for name in own)
    values = {name: [str(own.get(name, "–")) for own in labels] for name in names}
    several = [name for name, own in values.items() if len({*own}) > 1]
    found = [{name: values[name][k] for name in several} for k in range(len(labels))]
    if len({*map(str, found)}) < len(found):
        settings = differing([config.model_dump(mode="json") for config in configs])
        found = [
            own | {name: str(value) for name, value in more.items() if name not in names}
            for own, more in zip(found, settings, strict=True)
        ]
    each = zip(found, configs, strict=True)
    return [own or {"method": config.method.name} for own, config in each]
