"""The one place that bars come from, and what is said beside results; all of it on stderr.

A bar is a widget in a notebook and a bar in a terminal. Elsewhere, in a log file or a pipe, it is
plain lines: one where a task begins, at most one a minute besides. Under `--quiet` it is nothing.
Where a notebook has one picture of it all (`heard_by`), bars only count, and it draws.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from typing import Any, ClassVar, Self

from tqdm import tqdm

TOLD = "FMLORA_BARS"
"""Says what bars are to be, "terminal", "lines" or "none", to a process that cannot know."""

EVERY = 60.0
"""Seconds from one line to the next, where no task begins."""

write = tqdm.write
"""Print a line of results, for which the bars of a terminal make room."""


_hears: Callable[[str], None] | None = None


def kind() -> str:
    """What a bar is: "notebook", "heard" (of a notebook that shows it otherwise), "terminal",
    "lines" or "none"."""
    if sys.stderr is None or TOLD in os.environ:
        return os.environ.get(TOLD, "none")
    if type(sys.stderr).__module__.startswith("ipykernel."):
        return "notebook" if _hears is None else "heard"
    return "terminal" if sys.stderr.isatty() else "lines"


@contextmanager
def heard_by(hears: Callable[[str], None]) -> Iterator[None]:
    """In a notebook, what is said in here goes to `hears` line by line, and bars only count: how
    far they are is `standing`."""
    global _hears
    before, _hears = _hears, hears
    try:
        yield
    finally:
        _hears = before


def standing() -> str:
    """The bars that are open and heard, the outer one first; nothing where there is none."""
    return " | ".join(map(str, [*Lines.shown]))


def quieten() -> None:
    """No bars from now on and no talk, in this process and those that it starts."""
    # The other is for the hub's client, which reads it when it is imported.
    os.environ |= {TOLD: "none", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def beside_others() -> None:
    """For a process among several of a terminal or a notebook: they would draw over each other."""
    if kind() != "none":
        os.environ[TOLD] = "lines"
    Lines.inner = True
    # tqdm's own is shared among processes; one that is killed would leave it behind.
    tqdm.set_lock(threading.RLock())


def into_a_file() -> None:
    """For a process whose stderr is a log of its own, whatever bars its parent has."""
    os.environ[TOLD] = "lines"
    Lines.inner = False


def say(text: str) -> None:
    """A line that is neither a result nor an error."""
    if kind() == "heard" and _hears is not None:
        _hears(text)
    elif kind() != "none":
        tqdm.write(text, file=sys.stderr)


@cache
def once(text: str) -> None:
    """`say` on one line, once in a process: files are looked at for a run's name and again for the
    run itself."""
    say(" ".join(text.split()))


def bar(iterable: Iterable | None = None, **how: Any) -> "Bar":
    """A bar with tqdm's names: `desc`, `total`, `unit`, `unit_scale`, `leave`, `delay`, `initial`.

    Give it what to iterate over, or call its `update`; `set_description` tells that a task begins.
    """
    if (do := _instead.get()) is not None:
        return Unseen(do, iterable, **how)
    match kind():
        case "notebook":
            return _widget()(iterable, **how)
        case "lines":
            return Lines(iterable, **how)
        case "heard":
            return Heard(iterable, **how)
        case "terminal":
            return tqdm(iterable, **_room(), **how)
    return tqdm(iterable, disable=True, **how)


_instead: ContextVar[Callable[[], None] | None] = ContextVar("instead", default=None)


@contextmanager
def instead(do: Callable[[], None]) -> Iterator[None]:
    """No bars in the block, for whoever shows in another way how far things are, and in no other
    thread; `do` is called wherever one would have moved, and may raise."""
    token = _instead.set(do)
    try:
        yield
    finally:
        _instead.reset(token)


class Unseen(tqdm):
    """Such a bar."""

    def __init__(self, do: Callable[[], None], iterable: Iterable | None = None, **how: Any):
        self.do = do
        super().__init__(iterable, disable=True, **how)

    def update(self, n: float | None = 1) -> None:
        self.do()


class Lines:
    """A bar as lines.

    Of bars inside one another the outer one tells of every task, an inner one of its first; a line
    has them all. In a process `beside_others` all are inner ones.
    """

    shown: ClassVar[list[Self]] = []
    spoke: ClassVar[float | None] = None
    inner: ClassVar[bool] = False

    def __init__(
        self,
        iterable: Iterable | None = None,
        desc: str = "",
        total: int | None = None,
        unit: str = "it",
        leave: bool = True,
        delay: float = 0.0,
        initial: int = 0,
        **_: Any,
    ):
        length: Callable | None = getattr(iterable, "__len__", None)
        self.iterable, self.desc, self.unit = iterable, desc, unit
        self.total = length() if total is None and length else total
        self.n, self.done = initial, 0
        self.leave, self.delay, self.told = leave, delay, False
        self.spoken_at: int | None = None
        self.began = time.monotonic()
        Lines.spoke = Lines.spoke or self.began
        Lines.shown.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator:
        with self:
            for item in self.iterable or ():
                yield item
                self.update()

    def update(self, n: int = 1) -> None:
        self.n, self.done = self.n + n, self.done + n
        if time.monotonic() - (Lines.spoke or 0) >= EVERY:
            self._speak()

    def set_description(self, desc: str) -> None:
        self.desc = desc
        if self._outermost() or not self.told:
            self._speak()
        self.told = True

    def close(self) -> None:
        """Its last line, where it is one that stays and does not stand there already."""
        if self not in Lines.shown:
            return
        stays = self.leave and self.spoken_at != self.n
        if stays and self._outermost() and time.monotonic() - self.began >= self.delay:
            self._speak()
        Lines.shown.remove(self)

    def _outermost(self) -> bool:
        return Lines.shown[0] is self and not Lines.inner

    def _speak(self) -> None:
        Lines.spoke = time.monotonic()
        for shown in Lines.shown:
            shown.spoken_at = shown.n
        print(" | ".join(map(str, Lines.shown)), file=sys.stderr, flush=True)

    def __str__(self) -> str:
        """`lora · task 2/5: 240/1,200 img (20%), 00:04 left`."""
        if not self.total:
            return f"{self.desc}: {self.n:,} {self.unit}"
        text = f"{self.desc}: {self.n:,}/{self.total:,} {self.unit} ({self.n / self.total:.0%})"
        if not self.done or self.n >= self.total:
            return text
        left = (time.monotonic() - self.began) / self.done * (self.total - self.n)
        return f"{text}, {tqdm.format_interval(left)} left"


class Heard(Lines):
    """A bar that counts and leaves it to others to draw."""

    def _speak(self) -> None:
        pass


Bar = tqdm | Lines


def _room() -> dict[str, int]:
    """A size for a terminal that has none, as some containers': tqdm would draw nothing there."""
    with suppress(OSError, ValueError):
        if 0 in os.get_terminal_size(sys.stderr.fileno()):
            return {"ncols": 80, "nrows": 24}
    return {}


@cache
def _widget() -> type[tqdm]:
    from IPython.display import display  # here, since they bring the widgets
    from ipywidgets import VBox
    from tqdm.notebook import tqdm as in_notebook

    class Widget(in_notebook):
        """A bar inside another stands below it while it is open. What stays in the notebook is the
        outer one's last words, or nothing: a control without a kernel is an error message there."""

        box: ClassVar[VBox | None] = None
        shown: Any = None

        def __init__(self, *words: Any, **how: Any):
            super().__init__(*words, **how, display=False)
            if not self.delay:
                self.display()

        def display(self, *words: Any, check_delay: bool = True, **how: Any) -> None:
            if check_delay and not self.displayed:
                self.displayed = True
                if Widget.box is None:
                    Widget.box = VBox()
                    self.shown = display(Widget.box, display_id=True)
                Widget.box.children += (self.container,)
            super().display(*words, check_delay=check_delay, **how)

        def close(self) -> None:
            super().close()
            if Widget.box is not None:
                Widget.box.children = [c for c in Widget.box.children if c is not self.container]
            if self.shown is not None:
                self.shown.update({"text/plain": str(self) if self.leave else ""}, raw=True)
                Widget.box = self.shown = None

    return Widget


@contextmanager
def of(library: Any, what: str) -> Iterator[None]:
    """While a library of the hub reads something: its own bars where anyone sees them, else a
    line."""
    if kind() in ("notebook", "terminal") or library.are_progress_bars_disabled():
        yield
        return
    say(f"reading {what}")
    library.disable_progress_bars()
    try:
        yield
    finally:
        library.enable_progress_bars()
