"""The walkthrough: solutions are right, mistakes are known, each lesson leads to the next."""

import inspect
import re
import runpy
from pathlib import Path

import nbformat
import pytest

from fmlora_lab.config import BadInput
from fmlora_lab.lessons import check, show
from fmlora_lab.lessons.exercises import EXERCISES
from fmlora_lab.methods.low_rank.lora import LoRA
from fmlora_lab.metrics import summary

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("1?_*.ipynb"))
MISTAKES = [(n, i) for n, exercise in EXERCISES.items() for i in range(len(exercise.mistakes))]


def asked(lesson: Path) -> list[str]:
    """The exercises of a lesson, in its order."""
    cells = nbformat.read(lesson, 4).cells
    return [name for cell in cells for name in re.findall(r'^check\("(\w+)"', cell.source, re.M)]


@pytest.mark.unit
def test_every_exercise_is_in_one_lesson():
    found = [name for lesson in LESSONS for name in asked(lesson)]
    assert sorted(found) == sorted(EXERCISES)
    assert all(2 <= len(asked(lesson)) <= 4 for lesson in LESSONS)


@pytest.mark.unit
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_the_solutions_are_right(lesson):
    solutions = runpy.run_path(str(NOTEBOOKS / "solutions" / f"{lesson.stem}.py"))
    for name in asked(lesson):
        verdict = check(name, solutions[name])
        assert verdict.right is True, (name, verdict.says)
        assert verdict.says == EXERCISES[name].praise


@pytest.mark.unit
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_lesson_as_it_is_given_out_is_unanswered_and_raises_nothing(lesson):
    cells = [
        cell for cell in nbformat.read(lesson, 4).cells if re.search(r"^check\(", cell.source, re.M)
    ]
    for cell, name in zip(cells, asked(lesson), strict=True):
        scope = {"check": check}
        exec(cell.source, scope)
        verdict = check(name, scope[name])
        assert verdict.right is None
        assert repr(verdict) == "Not answered yet."  # and no hint


@pytest.mark.unit
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_what_the_answers_need_is_imported_before_the_first_exercise(lesson):
    cells = nbformat.read(lesson, 4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    before = "\n".join(code[: next(i for i, c in enumerate(code) if c.find("\ncheck(") > 0)])
    solutions = (NOTEBOOKS / "solutions" / f"{lesson.stem}.py").read_text()
    assert ("import numpy as np" in before) >= ("import numpy as np" in solutions)
    assert sum("import numpy as np" in cell for cell in code) <= 1


@pytest.mark.unit
def test_a_lesson_leads_to_the_next_one():
    last = [nbformat.read(lesson, 4).cells[-1].source for lesson in LESSONS]
    for said, after in zip(last, LESSONS[1:], strict=False):
        assert f"]({after.name})" in said.split("Next: ")[1].splitlines()[0], after
    for lesson, said in zip(LESSONS, last, strict=True):
        assert f"`notebooks/solutions/{lesson.stem}.py`" in said
        for link in re.findall(r"\]\((\w+\.ipynb)\)", said):
            assert (NOTEBOOKS / link).exists()


@pytest.mark.unit
def test_right_and_wrong_differ_in_words_and_colours_that_can_be_read():
    def luminance(color):
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(k * c for k, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    verdicts = [check("guessing", answer) for answer in (..., 100 / 30, 10)]
    looks = []
    for verdict, word in zip(verdicts, ("Not answered yet.", "Right.", "Not yet."), strict=True):
        page = verdict._repr_html_()
        color, ground = re.search(r"color:(#\w+);background:(#\w+)", page).groups()
        assert f"<b>{word}</b>" in page and page.isascii() and repr(verdict).startswith(word)
        assert (luminance(ground) + 0.05) / (luminance(color) + 0.05) >= 4.5
        looks.append((color, ground))
    assert len(set(looks)) == 3


@pytest.mark.unit
def test_a_verdict_shows_code_as_code_and_takes_an_answer_for_no_markup():
    def broken(a):
        raise ValueError("<b> & `x`")

    page = check("forgetting", broken)._repr_html_()
    assert "&lt;b&gt; &amp; <code" in page and ">x</code>" in page


@pytest.mark.unit
@pytest.mark.parametrize(("name", "number"), MISTAKES)
def test_a_typical_mistake_is_known(name, number):
    wrong, says = EXERCISES[name].mistakes[number]
    verdict = check(name, wrong)
    assert verdict.right is False and verdict.says == says
    assert says != EXERCISES[name].praise


@pytest.mark.unit
def test_what_is_said_of_other_wrong_answers():
    def says(answer, name="forgetting"):
        verdict = check(name, answer)
        assert verdict.right is False
        return verdict.says

    assert says(3.0) == "A function is asked for here, and this is a float."
    assert says(max, "guessing") == "A value is asked for here, and this is a function."
    assert says(lambda a: None) == "Your function returns nothing: does it have a `return`?"
    assert says(lambda a: a.mode()).startswith("Your function raises AttributeError: 'numpy")
    assert says(lambda a: 1.0).startswith("On a trial it gives 1.0, and 25 is right. For each")
    assert says(lambda a: a[0]).startswith("The result has the shape (3,), not (). For each")
    assert says("many", "guessing") == says(7, "guessing") == EXERCISES["guessing"].hint
    assert check("forgetting", ...).right is None
    with pytest.raises(BadInput, match="no exercise 'nonsense'; known: forgetting"):
        check("nonsense", 1)


@pytest.mark.unit
def test_show_prints_the_real_lines():
    whole = show(summary).data
    lines, number = inspect.getsourcelines(summary)
    assert whole.startswith(
        f"`fmlora_lab/metrics.py`, lines {number} to {number + len(lines) - 1}\n\n```python\n"
    )
    assert "".join(lines).strip() in whole
    part = show(summary, since="diagonal, last", until="best =").data
    assert len(part.splitlines()) == 6 and part.splitlines()[3].startswith("diagonal, last, n = ")
    decorated = show(LoRA.begin_task, since="U.zero_()", until="U.zero_()").data
    assert re.match(r"`fmlora_lab/methods/low_rank/lora.py`, line \d+\n", decorated)
    with pytest.raises(ValueError, match="summary has no line with 'no such words'"):
        show(summary, since="no such words")
