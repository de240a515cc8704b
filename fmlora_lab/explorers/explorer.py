"""What all explorers share: controls, a picture, words beside it, and redrawing that keeps up.

A move of a control is answered at once; the picture is drawn in a thread, and while one is being
drawn only the last move waits. So a slider that is dragged never queues up pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from threading import Lock, Thread
from typing import Any

from ipywidgets import HTML, HBox, Image, Layout, ValueWidget, VBox, Widget
from matplotlib.figure import Figure

from fmlora_lab.config import BadInput
from fmlora_lab.plots.screen import WIDTH, Screen

Draw = Callable[..., tuple[Screen, str]]


def table(heading: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A small HTML table: a line a row, its cells under the columns' names."""
    line = "<tr><th scope='row' style='text-align:left;font-weight:normal'>{}</th>{}</tr>".format
    cell = "<td style='text-align:right;padding-left:1em'>{}</td>".format
    head = "".join(f"<th scope='col' style='padding-left:1em'>{name}</th>" for name in columns)
    body = "".join(line(name, "".join(map(cell, cells))) for name, cells in rows.items())
    return (
        f"<table style='line-height:1.35;white-space:nowrap'><thead><tr>"
        f"<th style='text-align:left'>{heading}</th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


class Explorer:
    """Controls over a figure function.

    `draw` takes the controls' values by name and returns the figure and words beside it (HTML);
    where it raises BadInput, its sentence stands in their place. `adjust` brings the controls'
    ranges into agreement before each drawing. `rows` are the widgets as they stand above the
    picture, controls among them; `hint` says what to look for.
    """

    def __init__(
        self,
        controls: Mapping[str, ValueWidget],
        draw: Draw,
        rows: Sequence[Sequence[Widget]],
        hint: str,
        adjust: Callable[[], None] = lambda: None,
    ):
        self.controls, self.draw, self.adjust = controls, draw, adjust
        # As wide as it was drawn where there is room; less, so that the words stand beside it.
        fits = {"flex": "1 1 700px", "min_width": "0", "max_width": f"{WIDTH}px"}
        self.image = Image(format="png", layout=Layout(**fits, align_self="flex-start"))
        self.words = HTML(layout=Layout(margin="0 0 0 12px", max_width="385px"))
        wrap = Layout(flex_flow="row wrap")
        beside = HBox([self.image, self.words], layout=wrap)
        look = HTML(
            f"<div style='line-height:1.4'><b>What to look for:</b> {hint}</div>",
            layout=Layout(max_width="75em"),
        )
        self.widget = VBox([*(HBox(list(row), layout=wrap) for row in rows), look, beside])
        self.figure: Figure | None = None
        self._lock = Lock()
        self._waiting: dict[str, Any] | None = None
        self._thread: Thread | None = None
        self._adjusting = False
        self._redraw(self._values())
        for control in controls.values():
            control.observe(self._moved, "value")

    def shown(self, static: bool) -> VBox | Figure:
        """The page, or, with `static`, its figure as it is now; BadInput where there is none."""
        if not static:
            return self.widget
        if self.figure is None:
            raise BadInput(self.words.value)
        return self.figure

    def wait(self) -> None:
        """Until the last move is on the picture."""
        while (thread := self._thread) is not None:
            thread.join()

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
            picture, words = self.draw(**values)
            self.image.value = picture.png()
            self.figure = picture.figure
            self.image.layout.display = None
        except BadInput as lacking:
            words, self.image.layout.display = str(lacking), "none"
        self.words.value = words
