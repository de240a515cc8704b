"""What all explorers share: controls, a picture, words beside it, and redrawing that keeps up.

A move of a control is answered at once; the picture is drawn in a thread, and while one is being
drawn only the last move waits. So a slider that is dragged never queues up pictures.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape, unescape
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qsl

from ipywidgets import HTML, Box, HBox, ToggleButton, ValueWidget, VBox, Widget
from matplotlib.figure import Figure

from fmlora_lab.config import BadInput
from fmlora_lab.explorers.picture import Picture
from fmlora_lab.plots.screen import Screen
from fmlora_lab.plots.sheet import PAGE

Draw = Callable[..., tuple[Screen, str]]
Spots = tuple[list[dict[str, Any]], dict[str, str]]
"""`Picture.spots` and `Picture.images`."""


def table(heading: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A small HTML table: a line a row, its cells under the columns' names."""
    line = "<tr><th scope='row'>{}</th>{}</tr>".format
    head = "".join(f"<th scope='col'>{name}</th>" for name in columns)
    body = "".join(
        line(name, "".join(f"<td>{cell}</td>" for cell in cells)) for name, cells in rows.items()
    )
    return (
        f"<table><thead><tr><th scope='col'>{heading}</th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def in_words(html: str) -> str:
    """HTML as plain text: a table's cells after commas, its rows after semicolons."""
    parts = {r"</t[hd]>\s*(?=<t[hd])": ", ", r"</tr>|</small>|</figcaption>": "; ", r"<[^>]*>": ""}
    for tag, mark in parts.items():
        html = re.sub(tag, mark, html)
    return unescape(re.sub(r"\s+", " ", html)).strip("; ")


class Explorer:
    """Controls over a figure function.

    `draw` takes the controls' values by name and returns the figure and words beside it (HTML);
    where it raises BadInput, its sentence stands in their place. `adjust` brings the controls'
    ranges into agreement before each drawing. `rows` are the widgets as they stand above the
    picture, controls among them; `hint`, or what it gives of the controls' values, says what to
    look for. `press` is told where in the picture's data somebody pressed: axes, x, y; `spots` says
    of a figure and the controls' values what is told of places that are pointed at. What `waiting`
    gives of the controls' values is shown until it is drawn.

    On a page of its own, the page's address has the controls' values, and they begin with its.
    """

    def __init__(
        self,
        controls: Mapping[str, ValueWidget],
        draw: Draw,
        rows: Sequence[Sequence[Widget]],
        hint: str | Callable[..., str],
        adjust: Callable[[], None] = lambda: None,
        press: Callable[..., None] | None = None,
        spots: Callable[..., Spots] | None = None,
        waiting: Callable[..., str] = lambda **values: "",
    ):
        self.controls, self.draw, self.adjust, self.hint = controls, draw, adjust, hint
        self.press, self.spots, self.waiting = press, spots, waiting
        self.picture = Picture(pressable=press is not None)
        self.words = HTML()
        self.look = HTML()
        help_on = ToggleButton(description="?", tooltip="what to look for, and how to read it")
        projector = ToggleButton(description="Projector", tooltip="large, for a class-room")
        ends = _of_class(HBox([help_on, projector]), "fml-ends")
        first, *others = rows
        lines = [_of_class(HBox(list(row)), "fml-row") for row in ([*first, ends], *others)]
        bar = _of_class(VBox([*lines, _of_class(self.look, "fml-hint")]), "fml-bar")
        beside = Box([self.picture, _of_class(self.words, "fml-words")])
        self.widget = _of_class(VBox([bar, _of_class(beside, "fml-main")]), "fml-explorer")
        self.screen: Screen | None = None
        self._lock = Lock()
        self._waiting: dict[str, Any] | None = None
        self._thread: Thread | None = None
        self._adjusting = False
        refused = self._take(asked_of_page())
        self._redraw(self._values())
        if refused:
            self.words.value = f"<p>{refused}</p>{self.words.value}"
        self._help(help_on.value)
        help_on.observe(lambda change: self._help(change["new"]), "value")
        projector.observe(lambda change: self._project(change["new"]), "value")
        for control in controls.values():
            control.observe(self._moved, "value")
        self.picture.observe(self._moved, "room")
        self.picture.observe(self._pressed, "pressed")

    def shown(self, static: bool) -> VBox | Figure:
        """The page, or, with `static`, its figure as it is now; BadInput where there is none."""
        if not static:
            return self.widget
        if self.figure is None:
            raise BadInput(self.words.value)
        return self.figure

    @property
    def figure(self) -> Figure | None:
        """What was drawn last."""
        return None if self.screen is None else self.screen.figure

    def wait(self) -> None:
        """Until the last move is on the picture."""
        while (thread := self._thread) is not None:
            thread.join()

    def _help(self, shown: bool) -> None:
        self.look.layout.display = None if shown else "none"
        self.picture.helped = shown

    def _project(self, shown: bool) -> None:
        (self.widget.add_class if shown else self.widget.remove_class)("fml-projector")

    def _pressed(self, change: Mapping[str, Any]) -> None:
        x, y, _ = change["new"]
        found = None if self.screen is None else self.screen.at(x, y)
        if self.press is not None and found is not None:
            self.press(*found)

    def _values(self) -> dict[str, Any]:
        self._adjusting = True  # moves that come of adjusting are part of the one that caused it
        try:
            self.adjust()
        except BadInput:
            pass  # drawing meets it too, and says so
        finally:
            self._adjusting = False
        return {name: control.value for name, control in self.controls.items()}

    def _moved(self, _change: Any) -> None:
        if self._adjusting:
            return
        values = self._values()
        with self._lock:
            self._waiting = values
            if self._thread is None:
                self._thread = Thread(target=self._catch_up, daemon=True)
                self._thread.start()

    def _catch_up(self) -> None:
        """Draw what waits until nothing does."""
        try:
            while (values := self._taken()) is not None:
                self._redraw(values)
        except BaseException:
            self._thread = None  # the next move tries again
            raise

    def _taken(self) -> dict[str, Any] | None:
        """The last move's values, and none but those; without any the thread is done."""
        with self._lock:
            values, self._waiting = self._waiting, None
            if values is None:
                self._thread = None
            return values

    def _redraw(self, values: Mapping[str, Any]) -> None:
        try:
            if announced := self.waiting(**values):
                self.words.value = announced
            screen, words = self.draw(**values)
            ratio, *_ = self.picture.room or [0]
            screen.fit(PAGE * ratio or None)
            back, front = screen.svg()
            with self.picture.hold_sync():
                self.picture.back, self.picture.front = back, front
                self.picture.alt = f"{screen.said.get_text()}. In numbers: {in_words(words)}."
                if on_page():
                    self.picture.address = {n: str(c.value) for n, c in self.controls.items()}
            if self.spots is not None:  # which are large, and not seen at once
                self.picture.spots, self.picture.images = self.spots(screen, **values)
            self.screen = screen
            self.picture.layout.display = None
        except BadInput as lacking:
            words, self.picture.layout.display = str(lacking), "none"
        self.words.value = words
        hint = self.hint if isinstance(self.hint, str) else self.hint(**values)
        self.look.value = f"<b>What to look for:</b> {hint}"

    def _take(self, asked: Mapping[str, str]) -> str:
        """Set controls as a page's address asks; returns what of it is not possible, in words."""
        refused = []
        for name, control in self.controls.items():
            if name not in asked:
                continue
            self._values()  # what is possible follows from the controls before it
            options = getattr(control, "options", None)
            if options is None:
                low, high = (getattr(control, end) for end in ("min", "max"))
                allowed = f"{low:g} to {high:g}"
                value = number(asked[name], type(control.value))
                possible = value is not None and low <= value <= high
            else:
                values = {str(value): value for _, value in pairs(options)}
                allowed, value = ", ".join(values), values.get(asked[name])
                possible = asked[name] in values
            if possible:
                control.value = value
            else:
                refused.append(
                    f"the address has {name}={escape(asked[name])}; allowed: {escape(allowed)}"
                )
        return "; ".join(refused)


def on_page() -> bool:
    """Whether this kernel serves a page of Voilà's, whose address is the explorer's."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("voila")


def asked_of_page() -> dict[str, str]:
    """What the page's address asks for, by name."""
    return dict(parse_qsl(os.environ.get("QUERY_STRING", ""))) if on_page() else {}


def number(text: str, kind: Callable[[str], Any]) -> Any:
    """The number that a text says; None where it says none."""
    try:
        return kind(text)
    except ValueError:
        return None


def pairs(options: Sequence[Any]) -> list[tuple[str, Any]]:
    """A choice's options with their labels."""
    return [o if isinstance(o, tuple) else (str(o), o) for o in options]


def _of_class(widget: Any, name: str) -> Any:
    widget.add_class(name)
    return widget
