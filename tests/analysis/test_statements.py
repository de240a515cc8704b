"""Sentences: true whichever method wins, and no more certain than the test images allow."""

import numpy as np
import pandas as pd
import pytest

from fmlora_lab.analysis.statements import answer, capital, listed, margin, seeds_said
from fmlora_lab.analysis.tables import compared
from fmlora_lab.runs.frame import frame

pytestmark = pytest.mark.unit

RIVALS = ["full", "lora"]


@pytest.fixture
def table(stored_run):
    """`table(method=(first, then, new), ...)`: the comparison of a run each."""

    def make(**methods) -> pd.DataFrame:
        named = {name.replace("_", "-"): accs for name, accs in methods.items()}
        runs = {m: stored_run(m, *accs, joint=m == "joint") for m, accs in named.items()}
        return compared(frame([({"method": m, "seed": 0}, run) for m, run in runs.items()]))

    return make


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        ((90, 85, 88), "**Yes: it remembers what full fine-tuning forgets.**"),
        ((50, 45, 50), "**Only in part"),
        ((95, 10, 88), "**No"),
        ((90, 22, 95), "**No"),
    ],
)
def test_the_answer_is_the_numbers_own(table, own, verdict):
    said = answer(table(fm_lora=own, full=(90, 20, 95)), "fm-lora", RIVALS)
    assert verdict in said
    assert f"{(own[1] + own[2]) / 2:.1f}%" in said and "57.5%" in said


def test_any_method_may_be_asked_about_and_any_be_its_rivals(table):
    found = table(fm_lora=(90, 20, 95), lora=(90, 85, 88), full=(80, 70, 70))
    said = answer(found, "lora", ["fm-lora"])
    assert "**Yes: it remembers what FM-LoRA forgets.** FM-LoRA forgets 70.0 points" in said
    assert [x[:17] for x in said.splitlines() if x.startswith("- ")] == ["- Against FM-LoRA"]


@pytest.mark.parametrize(
    ("acc", "verdict"), [(70, "clearly better"), (50, "clearly worse"), (61, "no clear difference")]
)
def test_a_difference_is_clear_only_beyond_the_margin(table, acc, verdict):
    said = answer(table(fm_lora=(80, acc, acc), lora=(80, 60, 60)), "fm-lora", RIVALS)
    line = next(x for x in said.splitlines() if x.startswith("- Against"))
    assert verdict in line
    assert f"Acc {acc - 60:+.1f} points" in line


def test_the_best_is_named_whichever_it_is(table):
    said = answer(table(lora=(80, 70, 70), fm_lora=(80, 60, 60)), "fm-lora", RIVALS)
    assert "place 2; the best is sequential LoRA with 70.0%" in said


@pytest.mark.parametrize(
    ("bound", "said"), [(85, "25.0 points are left to gain"), (40, "no upper bound here")]
)
def test_what_sees_all_tasks_at_once_is_a_bound_and_no_rival(table, bound, said):
    found = answer(table(fm_lora=(80, 60, 60), joint=(0, bound, bound)), "fm-lora", RIVALS)
    assert f"Joint training, which sees all tasks at once, stands at {bound}.0%: {said}" in found
    assert "Against" not in found


def test_margin_is_twice_the_standard_error():
    draws = np.random.default_rng(0).binomial(400, 0.6, size=(2, 20_000)) / 4
    assert margin(60, 60, 400) == pytest.approx(2 * np.std(draws[0] - draws[1]), rel=0.03)


def test_a_table_without_the_method_says_so():
    assert "no answer" in answer(pd.DataFrame(index=["lora"]), "fm-lora", RIVALS)


@pytest.mark.parametrize(
    ("words", "said"), [("abc", "a, b and c"), ("ab", "a and b"), ("a", "a"), ("", "none")]
)
def test_words_are_listed(words, said):
    assert listed(word for word in words) == said


def test_how_many_seeds_the_numbers_are_of():
    assert seeds_said(pd.DataFrame({"seed": [0, 0]})).startswith("One seed of training, so")
    assert seeds_said(pd.DataFrame({"seed": [0, 4, 7, 4]})) == "Means over 3 seeds of training"


def test_a_sentence_begins_with_a_capital():
    assert capital("joint") == "Joint training" and capital("fm-lora") == "FM-LoRA"
