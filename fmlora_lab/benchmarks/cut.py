"""How many classes each task brings and in which order they come, as the field writes it.

    tasks   10 · "B50-Inc10": 50 classes, then 10 a task · (5, 1, 1): of each task
    order   "drawn" by the order seed · "natural" · a published one by its name ·
            names or positions in a list · a file of these

Positions are those among the benchmark's own classes (or domains), counted from 0.
"""

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fmlora_lab.benchmarks.layout import nfc
from fmlora_lab.config import CUT, BadInput, some

PUBLISHED = tomllib.loads(Path(__file__).with_name("orders.toml").read_text("utf-8"))
"""Class orders by name."""
PILOT = re.compile(r"pilot-(\d+)")
"""NumPy's own permutation with that seed: PyCIL's, PILOT's and their descendants' convention,
`np.random.seed(1993); np.random.permutation(n)`."""


def sizes(tasks: int | str | Sequence[int], n_classes: int) -> tuple[int, ...]:
    """Classes of each task; a number of tasks makes them as equal as can be, larger ones first.

    The last increment of "B50-Inc10" is what is left. BadInput where it does not come out.
    """
    if isinstance(tasks, int):
        if not 1 <= tasks <= n_classes:
            raise BadInput(
                f"benchmark.tasks is {tasks}; allowed for {n_classes} classes: 1 to {n_classes}"
            )
        return tuple(len(part) for part in np.array_split(np.arange(n_classes), tasks))
    if isinstance(tasks, str):
        notation = CUT.fullmatch(tasks)
        assert notation is not None  # which the configuration has seen to
        base, step = map(int, notation.groups())
        if base > n_classes:
            raise BadInput(f"benchmark.tasks is {tasks!r}, but there are {n_classes} classes")
        steps, rest = divmod(n_classes - base, step)
        return tuple(filter(None, (base, *[step] * steps, rest)))
    if sum(tasks) != n_classes:
        raise BadInput(
            f"benchmark.tasks is {list(tasks)}, {sum(tasks)} classes together, but there are "
            f"{n_classes}"
        )
    return tuple(tasks)


def shortest(each: Sequence[int]) -> int | tuple[int, ...]:
    """The plainest `tasks` that gives these sizes, so that one stream has one name."""
    return len(each) if tuple(each) == sizes(len(each), sum(each)) else tuple(each)


def sizes_said(each: Sequence[int]) -> str:
    """`3 tasks of 3, 2 and 2 classes`; of many, runs of equal ones are counted."""
    runs: list[list[int]] = []
    for size in each:
        if runs and runs[-1][0] == size:
            runs[-1][1] += 1
        else:
            runs.append([size, 1])
    *most, last = [f"{size}" if n == 1 else f"{n} × {size}" for size, n in runs]
    listed = f"{', '.join(most)} and {last}" if most else last
    return f"{len(each)} tasks of {listed} classes"


def arranged(
    order: str | Sequence[str | int], names: Sequence[str], order_seed: int, what: str = "classes"
) -> list[int]:
    """The order of arrival, as positions in `names`. BadInput where `order` is none of them."""
    n = len(names)
    if order == "drawn":
        return np.random.default_rng(order_seed).permutation(n).tolist()
    if order == "natural":
        return list(range(n))
    if isinstance(order, str):
        if known := PILOT.fullmatch(order):
            return np.random.RandomState(_seed(known)).permutation(n).tolist()
        if order in PUBLISHED:
            if len(PUBLISHED[order]) != n:
                raise BadInput(
                    f"benchmark.order is {order!r}, which is of {len(PUBLISHED[order])} {what}; "
                    f"there are {n}"
                )
            return list(PUBLISHED[order])
        return _positions(_of_file(Path(order)), names, what, order)
    return _positions(order, names, what, "a list")


def _seed(name: re.Match[str]) -> int:
    seed = int(name[1])
    if seed >= 2**32:
        raise BadInput(f"benchmark.order is {name[0]!r}; NumPy's seeds end at {2**32 - 1}")
    return seed


def _of_file(file: Path) -> list[str | int]:
    """Entries of a JSON list, or the lines of a text file."""
    try:
        text = file.expanduser().read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise BadInput(
            f"benchmark.order is {str(file)!r}; allowed: drawn, natural, pilot-SEED, "
            f"{', '.join(PUBLISHED)}, a list, or a text file of names or positions, which this is "
            f"not ({getattr(error, 'strerror', None) or 'no UTF-8 text'})"
        ) from error
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise BadInput(f"benchmark.order: {file} is no JSON list ({error})") from error
        if not all(type(entry) in (str, int) for entry in found):
            raise BadInput(f"benchmark.order: {file} must hold names or positions only")
        return found
    return [line.strip() for line in text.splitlines() if line.strip()]


def _positions(
    entries: Sequence[str | int], names: Sequence[str], what: str, where: str
) -> list[int]:
    place = {nfc(name): k for k, name in enumerate(names)}
    numbers = all(str(entry).isdecimal() for entry in entries)
    if numbers and not all(str(entry) in place for entry in entries):
        entries = [int(entry) for entry in entries]
    elif numbers and any(type(entry) is int and place[str(entry)] != entry for entry in entries):
        raise BadInput(
            f"benchmark.order: {what} have numbers for names, so that numbers in {where} may be "
            'names or positions; write names as text, such as "7"'
        )
    found = [
        entry if type(entry) is int else place.get(nfc(str(entry)), entry) for entry in entries
    ]
    unknown = [entry for entry in found if type(entry) is not int or not 0 <= entry < len(names)]
    twice = [entry for entry in dict.fromkeys(found) if found.count(entry) > 1]
    left = [name for k, name in enumerate(names) if k not in set(found)]
    for wrong, said in (
        (unknown, f"has {{}}, not among the {len(names)} {what}"),
        ([names[int(k)] for k in twice] if not unknown else [], "has {} more than once"),
        (left, f"lacks the {what} {{}}"),
    ):
        if wrong:
            raise BadInput(f"benchmark.order: {where} {said.format(some([*map(str, wrong)]))}")
    return [int(entry) for entry in found]
