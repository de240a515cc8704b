"""Lines of the lab's source as they are today, so that a lesson cannot drift from the code."""

import inspect
from pathlib import Path
from typing import Any

from IPython.display import Markdown

import fmlora_lab

ROOT = Path(fmlora_lab.__file__).parents[1]


def show(what: Any, since: str | None = None, until: str | None = None) -> Markdown:
    """The source of a function, method or class, under its file and line numbers.

    Only from the first line that contains `since` to the next one that contains `until`, where
    they are given; ValueError if the source has no such line any more.
    """
    what = inspect.unwrap(what)  # else a decorator's file is named
    lines, number = inspect.getsourcelines(what)
    first = 0 if since is None else _line_with(since, lines, 0, what)
    last = len(lines) - 1 if until is None else _line_with(until, lines, first, what)
    file = Path(inspect.getfile(what)).relative_to(ROOT).as_posix()
    code = inspect.cleandoc("\n" + "".join(lines[first : last + 1]))
    where = (
        f"lines {number + first} to {number + last}" if last > first else f"line {number + first}"
    )
    return Markdown(f"`{file}`, {where}\n\n```python\n{code}\n```")


def _line_with(text: str, lines: list[str], start: int, what: Any) -> int:
    for i in range(start, len(lines)):
        if text in lines[i]:
            return i
    raise ValueError(f"{what.__qualname__} has no line with {text!r} from its line {start + 1} on")
