"""Stored runs as a table: what differs, to sort, filter and tick; what is ticked is drawn.

The grid is itables', which comes with all it needs, so that it works without a network.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from fmlora_lab import plots, progress
from fmlora_lab.analysis.tables import compared, curves, readable
from fmlora_lab.config import BadInput
from fmlora_lab.runs.frame import labelled, overview
from fmlora_lab.runs.stored import Run, Runs

if TYPE_CHECKING:
    pass

ROWS = 60
"""Of a plain table; more are left out in the middle."""
PAGES = [15, 50, 200]
"""Rows of the grid, of which a person chooses; more are on further pages."""
TICK = "$.fn.dataTable.render.select()"
"""A column of DataTables that has the boxes."""
HINT = "Click rows to tick them; what is ticked is drawn below, and named by what differs."
CODE = """\
from IPython.display import display

from fmlora_lab import load_runs, plots
from fmlora_lab.analysis.tables import compared, curves, readable
from fmlora_lab.runs.frame import labelled

names = [
{names}
]
found = labelled([run for run in load_runs({where}) if run.id in names])
display(plots.accuracy_over_tasks(curves(found)))
display(plots.over(found, "method"))
display(readable(compared(found)))
"""


def as_text(found: Sequence[Run]) -> str:
    """The table where there is text alone."""
    if not found:
        return "no complete runs"
    return overview(found).to_string(max_rows=ROWS, float_format="{:.1f}".format, na_rep="–")


def as_bundle(found: Runs, **how: Any) -> dict[str, Any]:
    """The table by MIME type: a plain one, and where a notebook can show it the one to tick."""
    plain = {"text/plain": as_text(found)}
    if not found:
        return plain
    shown = overview(found)
    html = shown.to_html(max_rows=ROWS, float_format="{:.1f}".format, na_rep="–")
    living = RunsTable(found).widget._repr_mimebundle_(**how) if _is_notebook() else None
    return {**(living or {}), **plain, "text/html": html}


def _is_notebook() -> bool:
    return progress.kind() in ("notebook", "heard")


class RunsTable:
    """The grid, and what is drawn of its ticked rows.

    A tick is answered at once; pictures are drawn in a thread, in which only the last one waits.
    """

    def __init__(self, found: Runs):
        from ipywidgets import HTML, Button, HBox, Layout, Textarea, VBox
        from itables.typing import JavascriptCode
        from itables.widget import ITable

        self.found = found
        self.grid = ITable(
            grid_of(found),
            showIndex=False,
            select={"style": "multi"},
            columnDefs=[
                {
                    "targets": 0,
                    "render": JavascriptCode(TICK),
                    "orderable": False,
                    "columnControl": [],
                }
            ],
            columnControl=["order", "searchDropdown"],
            ordering={"indicators": False},
            pageLength=PAGES[0],
            lengthMenu=PAGES,
            maxBytes=0,  # pages keep it quick
            scrollX=True,
            style="width:100%",
            text_in_header_can_be_selected=False,
        )
        self.copy = Button(description="Copy as code", tooltip="Python that draws what is ticked")
        self.code = Textarea(layout=Layout(width="100%", height="17em", display="none"))
        self.hint, self.drawn = HTML(HINT), HTML()
        top = HBox([self.copy, self.hint])
        self.widget: VBox = VBox([self.grid, top, self.code, self.drawn])
        self._lock, self._thread = Lock(), None
        self._waiting: list[Run] | None = None
        self.grid.observe(self._ticked, "selected_rows")
        self.copy.on_click(self._copy)

    def ticked(self) -> list[Run]:
        return [self.found[k] for k in self.grid.selected_rows]

    def wait(self) -> None:
        """Until the last tick is drawn."""
        while (thread := self._thread) is not None:
            thread.join()

    def _copy(self, _button: Any) -> None:
        self.code.value = code(self.ticked(), self.found.runs_dir)
        self.code.layout.display = None

    def _ticked(self, _change: Any) -> None:
        self.code.layout.display = "none"
        with self._lock:
            self._waiting = self.ticked()
            if self._thread is None:
                self._thread = Thread(target=self._catch_up, daemon=True)
                self._thread.start()

    def _catch_up(self) -> None:
        while True:
            with self._lock:
                runs, self._waiting = self._waiting, None
                if runs is None:
                    self._thread = None
                    return
            self.drawn.value = drawn(runs)


def grid_of(found: Sequence[Run]) -> pd.DataFrame:
    """`overview` as the grid has it: boxes first, short names, rounded numbers."""
    shown = overview(found)
    shown.insert(0, "run", [run.id[:8] for run in found])
    shown.insert(0, "tick", "")
    for name in shown.select_dtypes("float"):  # text that the grid sorts as numbers
        shown[name] = ["" if pd.isna(x) else f"{x:.1f}" for x in shown[name]]
    return shown


def code(ticked: Sequence[Run], runs_dir: Any) -> str:
    """Python that finds these runs again and draws what the table draws of them."""
    if not ticked:
        return "# tick some runs first"
    labels = labelled(ticked)["method"]
    rows = (f'    "{run.id}",  # {label}' for run, label in zip(ticked, labels, strict=True))
    where = "" if runs_dir is None else f'"{runs_dir}"'
    return CODE.format(names="\n".join(rows), where=where)


def drawn(runs: Sequence[Run]) -> str:
    """Curves, bars and table of some runs, as HTML; where they cannot be beside each other, why."""
    if not runs:
        return ""
    try:
        found = labelled(runs)
        table = readable(compared(found)).to_html()
        figures = [plots.accuracy_over_tasks(curves(found)), plots.over(found, "method")]
    except BadInput as lacking:
        return escape(str(lacking))
    return "".join(map(_image, figures)) + table


def _image(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    said = escape(" ".join(text.get_text() for text in figure.texts), quote=True)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{said}" style="max-width: 48%" src="data:image/png;base64,{data}">'
