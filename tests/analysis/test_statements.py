"""Sentences: true whichever method wins, and no more certain than the class orders allow."""

import numpy as np
import pandas as pd
import pytest

from fmlora_lab.analysis.statements import (
    answer,
    by_head,
    capital,
    leader,
    listed,
    margin,
    orders_said,
)
from fmlora_lab.runs.frame import by_draw, frame

pytestmark = pytest.mark.unit

RIVALS = ["full", "lora"]


@pytest.fixture
def table(stored_run):
    """`table(method=(first, then, new), ...)`: a sweep of a run each; a list is a run an order."""

    def make(**methods) -> pd.DataFrame:
        rows = []
        for name, accs in methods.items():
            method = name.replace("_", "-")
            for order, own in enumerate(accs if isinstance(accs, list) else [accs]):
                run = stored_run(method, *own, joint=method == "joint", order=order)
                rows.append(({"method": method}, run))
        return frame(rows)

    return make


def flat(*accs: float) -> list[tuple[float, float, float]]:
    """Runs that forget nothing, one an order."""
    return [(acc, acc, acc) for acc in accs]


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
    assert "**Yes: it remembers what FM-LoRA forgets.** (one" in said
    assert "FM-LoRA forgets 70.0 points" in said
    assert [x[:17] for x in said.splitlines() if x.startswith("- ")] == ["- Against FM-LoRA"]


@pytest.mark.parametrize(
    ("accs", "gap", "verdict"),
    [
        ([62, 52, 73], "+2.3 ± 1.4", "better"),
        ([58, 48, 67], "-2.3 ± 1.4", "worse"),
        ([62, 48, 73], "+1.0 ± 6.6", "no difference that 3 class orders can tell"),
    ],
)
def test_a_difference_is_one_only_where_its_paired_interval_says_so(table, accs, gap, verdict):
    found = table(fm_lora=flat(*accs), lora=flat(60, 50, 70))
    said = answer(found, "fm-lora", RIVALS)
    line = next(x for x in said.splitlines() if x.startswith("- Against"))
    assert line.startswith(f"- Against sequential LoRA: Acc {gap} points ({verdict}), learning")


def test_what_one_class_order_shows_is_marked_as_such(table):
    said = answer(table(fm_lora=(90, 85, 88), full=(90, 20, 95)), "fm-lora", RIVALS)
    assert "forgets.** (one class order: no interval) Full" in said
    assert "Acc +29.0 points (one class order: no interval)" in said
    assert "One class order: no interval, so a few points may be chance." in said


def test_several_orders_decide_by_the_interval_what_one_order_seems_to_say(table):
    level = table(fm_lora=[(90, 85, 88), (90, 10, 88)], full=[(90, 20, 95), (90, 20, 95)])
    assert "**No: it does not clearly forget less" in answer(level, "fm-lora", RIVALS)
    clear = table(fm_lora=[(90, 85, 88), (90, 84, 88)], full=[(90, 20, 95), (90, 20, 95)])
    assert "**Yes: it remembers what full fine-tuning forgets.** Full" in answer(
        clear, "fm-lora", RIVALS
    )


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ([40, 31, 51], "FM-LoRA with 60.3%"),
        (
            [57, 48, 75],
            "FM-LoRA with 60.3% (no difference from sequential LoRA that 3 class orders can tell)",
        ),
        ([99], "sequential LoRA with 99.0% (one class order: no interval)"),
    ],
)
def test_the_leader_is_named_with_those_it_cannot_be_told_from(table, lora, said):
    own = flat(60, 50, 71) if len(lora) > 1 else flat(60)
    assert leader(by_draw(table(fm_lora=own, lora=flat(*lora)), "acc")) == said


def test_many_that_the_leader_cannot_be_told_from_are_counted(table):
    others = {name: flat(50, 61) for name in ("lora", "full", "l2p", "sd_lora")}
    said = leader(by_draw(table(fm_lora=flat(60, 52), **others), "acc"))
    assert said == "FM-LoRA with 56.0% (no difference from 4 others that 2 class orders can tell)"


def test_the_best_is_named_whichever_it_is(table):
    said = answer(table(lora=(80, 70, 70), fm_lora=(80, 60, 60)), "fm-lora", RIVALS)
    assert "place 2; the highest is sequential LoRA's with 70.0%" in said


@pytest.mark.parametrize(
    ("bound", "said"), [(85, "25.0 points are left to gain"), (40, "no upper bound here")]
)
def test_what_sees_all_tasks_at_once_is_a_bound_and_no_rival(table, bound, said):
    found = answer(table(fm_lora=(80, 60, 60), joint=(0, bound, bound)), "fm-lora", RIVALS)
    assert f"Joint training, which sees all tasks at once, stands at {bound}.0%: {said}" in found
    assert "Against" not in found


def test_methods_that_other_heads_rank_are_compared_by_each_ones_best(stored_run):
    own = stored_run("fm-lora", 60, 60, 60, heads={"lda": {"acc": 62.0}})
    trained = stored_run("lora", 50, 50, 50, heads={"lda": {"acc": 70.0}})
    by_ridge = stored_run("ranpac", 90, 90, 90, head="ridge", heads={"ridge": {"acc": 90.0}})
    runs = {"fm-lora": own, "lora": trained, "ranpac": by_ridge}
    said = answer(frame([({"method": m}, run) for m, run in runs.items()]), "fm-lora", [*runs])
    lines = [line for line in said.splitlines() if line.startswith("- ")]
    assert lines[0].startswith("- Against sequential LoRA: Acc +10.0 points")
    assert "best closed-form head Acc -8.0 points" in lines[0]
    assert lines[1].startswith("- Against RanPAC: by each one's best closed-form head Acc -28.0")
    assert "each by its best closed-form head, its mean stands in place 3; the highest is RanPAC's"\
        in said  # fmt: skip


READ = {"ridge": {"acc": 70.0}}


def test_what_heads_give_is_said_beside_the_frozen_backbone(stored_run):
    methods = ("prototypes", "lora", "joint")
    runs = [
        ({"method": m}, stored_run(m, 50, 50, 50, joint=m == "joint", heads=READ)) for m in methods
    ]
    found = by_head(frame(runs))
    assert [own.tolist() for own in found["found"]["lora"][:2]] == [[50], [70]]  # one order each
    assert list(found["found"]) == ["lora"] and found["frozen"] == found["joint"] == 70
    assert found["title"] == (
        "A closed-form head changes Acc by +20 to +20 points; features give +0 over the frozen "
        "backbone's"
    )


@pytest.mark.parametrize("methods", [("prototypes", "joint"), ("joint",), ("prototypes",)])
def test_where_there_are_only_references_they_are_what_is_drawn(stored_run, methods):
    runs = [
        ({"method": m}, stored_run(m, 50, 50, 50, joint=m == "joint", heads=READ)) for m in methods
    ]
    table = frame(runs)
    found = by_head(table)
    assert list(found["found"]) == list(methods)
    assert "frozen backbone" not in found["title"] and "nan" not in found["title"]
    without = by_head(table.drop(columns="acc_trained"))
    assert without["title"] == "No trained head here: Acc by the best closed-form one"


def test_margin_is_twice_the_standard_error():
    draws = np.random.default_rng(0).binomial(400, 0.6, size=(2, 20_000)) / 4
    assert margin(60, 60, 400) == pytest.approx(2 * np.std(draws[0] - draws[1]), rel=0.03)


def test_a_table_without_the_method_says_so(table):
    assert "no answer" in answer(table(lora=(80, 60, 60)), "fm-lora", RIVALS)


@pytest.mark.parametrize(
    ("words", "said"), [("abc", "a, b and c"), ("ab", "a and b"), ("a", "a"), ("", "none")]
)
def test_words_are_listed(words, said):
    assert listed(word for word in words) == said


def test_how_many_orders_the_numbers_are_of(table, stored_run):
    assert orders_said(table(lora=flat(60))).startswith("One class order: no interval, so")
    several = orders_said(table(lora=flat(60, 61, 62), full=flat(60)))
    assert several == "Means over 3 class orders; ± is half the width of their 95% t interval"
    seeds = frame([({"method": "lora"}, stored_run("lora", 9, 9, 9, seed)) for seed in (0, 4)])
    assert orders_said(seeds).startswith("Means over 2 seeds of training;")


def test_a_sentence_begins_with_a_capital():
    assert capital("joint") == "Joint training" and capital("fm-lora") == "FM-LoRA"
