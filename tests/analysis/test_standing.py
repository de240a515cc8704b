"""Titles name one that stands first only where intervals part it from all others."""

import numpy as np
import pandas as pd
import pytest

from fmlora_lab.analysis.standing import level_with_first, of_draws, standing, table_of

pytestmark = pytest.mark.unit

BASE = np.array([50.0, 54, 58])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lora": BASE, "full": BASE - [5, 5, 6]}, "highest sequential LoRA 54%"),
        (
            {"lora": BASE, "full": BASE - [5, -5, 6]},
            "sequential LoRA 54%, full fine-tuning 52%: no interval tells who leads",
        ),
        (
            {
                "lora": BASE,
                **{f"m{i}": BASE + np.array([5, -5, -i]) for i in range(1, 5)},
                "far": BASE - 9,
            },
            "highest mean sequential LoRA 54%, level with 4 of 5 others",
        ),
        ({"lora": [50.0], "full": [40.0]}, "from full fine-tuning 40% to sequential LoRA 50%"),
        ({"R = 4": [50.0], "R = 8": [40.0]}, "from R = 8: 40% to R = 4: 50%"),
        ({"lora": BASE}, "sequential LoRA 54%"),
    ],
)
def test_who_leads_is_said_as_far_as_the_intervals_say_it(values, said):
    assert standing(table_of(values)) == said


def test_pairs_that_are_lacking_part_nothing():
    values = {"lora": BASE, "full": [40.0]}
    assert level_with_first(table_of(values)) == ("lora", ["full"])
    assert level_with_first(table_of({"a": BASE, "b": BASE - 9}), most=False) == ("b", [])


def test_series_are_paired_by_their_orders_and_not_by_their_places():
    """One point more in each order that both have, whatever others one of them has."""
    own = pd.Series(BASE, pd.Index([0, 1, 2], name="order_seed"))
    of_later_orders = pd.Series([55.0, 59, 90], pd.Index([1, 2, 3], name="order_seed"))
    table = table_of({"lora": own, "inflora": of_later_orders})
    assert table.index.tolist() == [0, 1, 2, 3]
    assert (table.inflora - table.lora).dropna().tolist() == [1, 1]


def test_columns_of_a_frame_know_no_orders_and_are_paired_by_their_places():
    """As `found.groupby(...)` gives them, each with the numbers of its own rows."""
    found = pd.DataFrame({"acc": [*BASE, *BASE + 9], "rank": ["a"] * 3 + ["b"] * 3})
    columns = {name: own.acc for name, own in found.groupby("rank")}
    assert level_with_first(table_of(columns)) == ("b", [])


class Drawn:
    def __init__(self, order):
        self.config = {"order_seed": order, "data_seed": 0, "seed": 0}


@pytest.mark.parametrize(("n", "said"), [(1, " (one seed)"), (3, " (n = 3 class orders)")])
def test_a_title_says_of_how_many_draws_it_is(n, said):
    assert of_draws(pd.DataFrame({"run": [Drawn(k) for k in range(n)]})) == said
