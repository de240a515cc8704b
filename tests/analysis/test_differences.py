"""Differences are paired by class order, and are differences where the interval excludes 0."""

import numpy as np
import pandas as pd
import pytest

from fmlora_lab.analysis.differences import differences, gains, readable_differences
from fmlora_lab.analysis.tables import pivot
from fmlora_lab.config import BadInput
from fmlora_lab.metrics import paired_difference
from fmlora_lab.runs.frame import frame

pytestmark = pytest.mark.unit


@pytest.fixture
def found(stored_run):
    """`found(method={order: acc}, ...)`: a sweep; an Acc may be a list, of several seeds."""

    def make(**methods) -> pd.DataFrame:
        rows = []
        for name, by_order in methods.items():
            method = name.replace("_", "-")
            for order, accs in by_order.items():
                for seed, acc in enumerate(np.ravel(accs)):
                    run = stored_run(method, acc, acc, acc, seed, order=order)
                    rows.append(({"method": method}, run))
        return frame(rows)

    return make


def test_runs_are_paired_by_class_order_not_by_place(found):
    own = found(lora={2: 72, 0: 41, 1: 53}, fm_lora={0: 40, 1: 50, 2: 70})
    row = differences(own, "fm-lora").loc["lora"]
    mean, half = paired_difference([41, 53, 72], [40, 50, 70])
    assert (row.difference, row.draws, row.drawn) == (mean, 3, "order_seed") and mean == 2
    assert (row.difference_low, row.difference_high) == pytest.approx((mean - half, mean + half))
    assert not row.apart  # 2.0 ± 2.5
    assert differences(
        found(lora={0: 41.9, 1: 52, 2: 72}, fm_lora={0: 40, 1: 50, 2: 70})
    ).apart.all()


def test_only_orders_that_both_have_count_and_seeds_of_an_order_are_averaged(found):
    own = found(lora={0: [40, 44], 1: 50, 5: 99}, fm_lora={0: 40, 1: 50})
    row = differences(own).loc["lora"]
    assert (row.difference, row.draws) == (1, 2)
    assert differences(found(lora={5: 99}, fm_lora={0: 40})).empty


def test_one_class_order_tells_no_difference(found):
    table = differences(found(lora={0: 90}, fm_lora={0: 10}))
    assert not table.apart.any() and np.isnan(table.difference_low["lora"])
    shown = readable_differences(table, "Acc (points)")
    assert shown.loc["sequential LoRA"].tolist() == [
        "+80.0", "one class order", "one class order: no interval",
    ]  # fmt: skip


def test_differences_read_as_what_they_say(found):
    own = found(
        fm_lora={0: 40, 1: 50, 2: 70}, lora={0: 42, 1: 52.5, 2: 72}, full={0: 30, 1: 41, 2: 60},
        l2p={0: 50, 1: 40, 2: 70},
    )  # fmt: skip
    shown = readable_differences(differences(own), "Acc (points)")
    assert list(shown) == ["Acc (points) ± 95%", "of", "says"]
    assert shown.says.to_dict() == {
        "sequential LoRA": "higher",
        "full fine-tuning": "lower",
        "L2P": "no difference that 3 class orders can tell",
    }
    assert shown.iloc[0].tolist() == ["+2.2 ± 0.7", "3 class orders", "higher"]


def test_what_is_not_there_cannot_be_compared_with(found):
    with pytest.raises(BadInput, match="'full' is not compared; there are lora"):
        differences(found(lora={0: 1}), "full")


def test_gains_are_over_the_frozen_backbone_under_the_same_head(stored_run):
    def run(method, order, acc, **heads):
        heads = {name.replace("_", "-"): {"acc": acc} for name, acc in heads.items()}
        run = stored_run(method, acc, acc, acc, order=order, heads=heads)
        if method == "prototypes":
            del run.result["heads"]["trained"]
        return {"method": method}, run

    own = frame(
        [
            run("lora", 0, 60, means=68, lda=73, lda_carried=78),
            run("prototypes", 0, 64, means=64, lda=76),
            run("lora", 1, 60, means=70, lda=74, lda_carried=80),
            run("prototypes", 1, 65, means=65, lda=78),
        ]
    )
    table = gains(own).set_index(["method", "head"])
    assert table.difference.to_dict() == {  # no trained head to compare with
        ("lora", "means"): 4.5,
        ("lora", "lda"): -3.5,
        ("lora", "lda-carried"): 2,  # the frozen backbone's plain lda
    }
    assert table.draws.tolist() == [2, 2, 2] and table.apart.to_dict()["lora", "lda-carried"]
    shown = pivot(gains(own), "method", "head", "difference")
    assert shown.loc["sequential LoRA", "lda-carried"] == "+2.0 ± 0.0"
