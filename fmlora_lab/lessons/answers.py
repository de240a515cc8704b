"""Answers to exercises: right, wrong in a way that many are wrong, or not there yet."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from fmlora_lab.config import BadInput
from fmlora_lab.lessons.exercises import EXERCISES, Exercise

LOOKS = {
    None: ("Not answered yet.", "#3d4451", "#f0f1f3"),
    True: ("Right.", "#14532d", "#e3f4e8"),
    False: ("Not yet.", "#7c2d12", "#fdeee3"),
}
"""What a verdict begins with, its colour, and that of its ground, on a dark page too."""


@dataclass(frozen=True)
class Verdict:
    """What a lesson says of an answer; `right` is None while there is none."""

    right: bool | None
    says: str = ""

    def __repr__(self) -> str:
        return f"{LOOKS[self.right][0]} {self.says}".strip()

    def _repr_html_(self) -> str:
        word, color, ground = LOOKS[self.right]
        says = re.sub(r"`(.*?)`", r"<code style='color:inherit;background:none'>\1</code>",
                      escape(self.says))  # fmt: skip
        return (
            f"<div role='status' style='color:{color};background:{ground};padding:6px 10px;"
            f"border-left:5px solid {color};max-width:75em'><b>{word}</b> {says}</div>"
        )


def check(name: str, answer: Any) -> Verdict:
    """Look at the answer to the exercise of this name: a value, or a function that is tried out.

    An answer that is still `...`, or a function that still returns it, is no wrong answer, and gets
    no hint yet.
    BadInput for an exercise that is not there.
    """
    if name not in EXERCISES:
        raise BadInput(f"there is no exercise {name!r}; known: {', '.join(EXERCISES)}")
    exercise = EXERCISES[name]
    if callable(exercise.right) and not callable(answer):
        if answer is ...:
            return Verdict(None)
        return Verdict(
            False, f"A function is asked for here, and this is a {type(answer).__name__}."
        )
    if callable(answer) and not callable(exercise.right):
        return Verdict(False, "A value is asked for here, and this is a function.")
    try:
        given = _values(answer, exercise.cases)
    except Exception as error:  # the reader's own code: whatever it raises is an answer to her
        return Verdict(False, f"Your function raises {type(error).__name__}: {error}")
    if any(value is ... for value in given):
        return Verdict(None)
    if any(value is None for value in given):
        return Verdict(False, "Your function returns nothing: does it have a `return`?")
    if _same(given, _values(exercise.right, exercise.cases)):
        return Verdict(True, exercise.praise)
    for mistake, says in exercise.mistakes:
        if _same(given, _values(mistake, exercise.cases)):
            return Verdict(False, says)
    return Verdict(False, _difference(given, exercise))


def _values(answer: Any, cases: Sequence[tuple]) -> list[Any]:
    """What a function gives for each case; a value stands for itself."""
    return [answer(*case) for case in cases] if callable(answer) else [answer]


def _same(given: list[Any], wanted: list[Any]) -> bool:
    return all(_equal(a, b) for a, b in zip(given, wanted, strict=True))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and a.strip().lower() == b.lower()
    try:
        a, b = np.asarray(a, float), np.asarray(b, float)
    except (TypeError, ValueError):
        return False
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-6)


def _difference(given: list[Any], exercise: Exercise) -> str:
    """The first case where the answer differs, and what it should have given."""
    if not exercise.cases:
        return exercise.hint
    wanted = _values(exercise.right, exercise.cases)
    i = next(i for i, (a, b) in enumerate(zip(given, wanted, strict=True)) if not _equal(a, b))
    shapes = np.shape(given[i]), np.shape(wanted[i])
    if shapes[0] != shapes[1]:
        return f"The result has the shape {shapes[0]}, not {shapes[1]}. {exercise.hint}"
    if np.size(wanted[i]) == 1:
        return f"On a trial it gives {given[i]}, and {wanted[i]:.4g} is right. {exercise.hint}"
    return f"On a trial the numbers differ from the right ones. {exercise.hint}"
