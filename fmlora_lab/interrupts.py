"""An interrupt is told in one sentence: where the work stopped, and how it goes on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class Stopped(KeyboardInterrupt):
    """Somebody stopped the work `where` it stands, such as "after task 2 of 10".

    It is a KeyboardInterrupt: it ends a cell, and no cell after it runs. What is seen of it, in a
    notebook, in a script and on the command line, is its sentence and no traceback.
    """

    def __init__(self, where: str, then: str = "run again to go on"):
        super().__init__(f"stopped {where}; {then}")
        self.where = where

    def _render_traceback_(self) -> list[str]:
        """How IPython shows it."""
        return [str(self)]


@contextmanager
def stopping(where: str) -> Iterator[None]:
    """An interrupt in here is `Stopped` there; what knows better where it stopped says so."""
    try:
        yield
    except Stopped:
        raise
    except KeyboardInterrupt as interrupt:
        raise Stopped(where) from interrupt


_shown_before = sys.excepthook


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What a script ends with."""
    if isinstance(error, Stopped):
        print(error, file=sys.stderr)
    else:
        _shown_before(kind, error, trace)


sys.excepthook = _show
