"""The tables that the README and the documentation show are those of the runs that ship."""

from pathlib import Path

import pandas as pd
import pytest

from fmlora_lab import grid, sweep
from fmlora_lab.analysis.differences import differences
from fmlora_lab.analysis.tables import compared, readable, to_markdown, with_half_width
from fmlora_lab.runs.sweep import load_frame

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
METHODS = (
    "fm-lora", "still-lora", "loda", "ortho-lora", "rank1-pool", "slao", "lilora", "c-lora",
    "block-lora", "sd-lora", "n-lora", "xgb-lora", "inflora", "sora", "o-lora", "ranpac", "lora",
    "hide-prompt", "coda-prompt", "dualprompt", "l2p", "full", "linear-probe", "prototypes",
    "joint",
)  # fmt: skip
RIVALS = METHODS[:-2]
WHOLE = (
    "acc_trained", "acc_best", "best_head", "learning_accuracy", "forgetting", "within_task",
    "within_task_forgetting", "confusion", "trainable_parameters", "kept_parameters",
    "passes_a_task", "inference_mflops", "draws",
)  # fmt: skip
BY_EACH = {
    "fair": ("acc_trained", "within_task", "trainable_parameters"),
    "closed-form": ("acc_best", "best_head", "trainable_parameters"),
}
"""What the README shows of each choice: a head's Acc is of settings that were chosen by it."""


ON_PHOTOGRAPHS = (
    "acc_trained", "acc_best", "best_head", "within_task", "within_task_forgetting", "confusion",
    "trainable_parameters", "kept_parameters",
)  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "orders"), [("cifar100", 5), ("caltech101-uneven", 5), ("caltech101", 3)]
)
def test_photographs_are_shown_as_their_runs_say(stored, orders):
    table = compared(load_frame(stored))
    assert set(table.draws) == {orders}
    assert to_markdown(readable(table, ON_PHOTOGRAPHS)) in page("docs/results.md")


def page(name: str) -> str:
    if not (ROOT / name).is_file():
        pytest.skip(f"{name} is not here")
    return (ROOT / name).read_text("utf-8")


@pytest.fixture
def forty(tmp_path):
    """Ten class orders of forty trials' choice; nothing is trained for it."""

    def found(preset, methods=RIVALS):
        asked = grid("demo-forty", preset=preset, method=methods, order_seed=range(10))
        runs = sweep(asked, tmp_path)
        assert not list(tmp_path.iterdir())
        return runs

    return found


def test_four_trials_are_shown_as_their_runs_say(tmp_path):
    found = sweep(grid("demo", method=METHODS, order_seed=range(10)), tmp_path)
    assert not list(tmp_path.iterdir())
    assert to_markdown(readable(compared(found), WHOLE)) in page("docs/results.md")


@pytest.mark.parametrize("preset", BY_EACH)
def test_forty_trials_are_shown_as_their_runs_say(preset, forty):
    shown = ("acc_trained", "acc_best", "best_head", "within_task", "trainable_parameters", "draws")
    assert to_markdown(readable(compared(forty(preset)), shown)) in page("docs/results.md")


def test_the_readme_shows_each_head_as_it_was_chosen_by(forty):
    both = [readable(compared(forty(p, METHODS)), shown) for p, shown in BY_EACH.items()]
    assert to_markdown(pd.concat(both, axis="columns")) in page("README.md")


def test_what_adapters_add_is_said_as_their_runs_say(forty):
    """In words: every rival's gain over the frozen backbone, carried ridge, chosen for it."""
    rows = differences(forty("closed-form"), "linear-probe", "acc_ridge-carried")
    gains = {name: with_half_width(row, "difference", "{:+.1f}") for name, row in rows.iterrows()}
    said = {name: gain.replace("-", "−") for name, gain in gains.items()}
    assert len(said) == len(RIVALS) - 1
    (line,) = (
        one
        for one in page("docs/results.md").splitlines()
        if one.startswith("- **Over the frozen backbone, both by carried ridge, each chosen by")
    )
    assert {name for name, gain in said.items() if gain not in line} == set()
    of_readme = ("fm-lora", "lora", "full", "ortho-lora", "slao", "n-lora", "still-lora", "inflora")
    assert {name for name in of_readme if said[name] not in page("README.md")} == set()
