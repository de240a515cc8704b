"""While a notebook's plan is learned nothing is computed: what it asks for first ends it."""

from pathlib import Path
from typing import Any

active = False


class UpToHere(BaseException):
    """Ends a notebook whose plan is wanted. No `except Exception` of its own catches it.

    `asked` are the runs that its sweep asks for, kept in `runs_dir`; None where it would have
    computed a run by itself.
    """

    def __init__(self, asked: list[Any] | None = None, runs_dir: Path | str | None = None):
        super().__init__()
        self.asked, self.runs_dir = asked, runs_dir
