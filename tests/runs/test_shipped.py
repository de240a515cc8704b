"""The tables that the README and the documentation show are those of the runs that ship."""

from pathlib import Path

import pytest

from fmlora_lab import grid, sweep
from fmlora_lab.analysis.tables import compared, readable, to_markdown
from fmlora_lab.runs.sweep import load_frame

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
METHODS = (
    "fm-lora", "still-lora", "loda", "ortho-lora", "rank1-pool", "slao", "lilora", "c-lora",
    "block-lora", "sd-lora", "n-lora", "xgb-lora", "inflora", "sora", "o-lora", "ranpac", "lora",
    "hide-prompt", "coda-prompt", "dualprompt", "l2p", "full", "linear-probe", "prototypes",
    "joint",
)  # fmt: skip
COLUMNS = {
    "README.md": ("acc_trained", "acc_best", "best_head", "within_task", "trainable_parameters"),
    "docs/results.md": (
        "acc_trained", "acc_best", "best_head", "learning_accuracy", "forgetting", "within_task",
        "within_task_forgetting", "confusion", "trainable_parameters", "kept_parameters",
        "passes_a_task", "inference_mflops", "draws",
    ),
}  # fmt: skip


ON_PHOTOGRAPHS = (
    "acc_trained", "acc_best", "best_head", "within_task", "within_task_forgetting", "confusion",
    "trainable_parameters", "kept_parameters",
)  # fmt: skip


@pytest.mark.parametrize(("stored", "orders"), [("cifar100", 5), ("caltech101", 3)])
def test_photographs_are_shown_as_their_runs_say(stored, orders):
    table = compared(load_frame(stored))
    assert set(table.draws) == {orders}
    page = ROOT / "docs/results.md"
    if not page.is_file():
        pytest.skip("docs/results.md is not here")
    assert to_markdown(readable(table, ON_PHOTOGRAPHS)) in page.read_text("utf-8")


@pytest.mark.parametrize("page", COLUMNS)
def test_the_comparison_is_shown_as_its_runs_say(page, tmp_path):
    """Ten class orders under the demo profile; nothing is trained for it."""
    if not (ROOT / page).is_file():
        pytest.skip(f"{page} is not here")
    found = sweep(grid("demo", method=METHODS, order_seed=range(10)), tmp_path)
    assert not list(tmp_path.iterdir())
    shown = to_markdown(readable(compared(found), COLUMNS[page]))
    assert shown in (ROOT / page).read_text("utf-8")


@pytest.mark.parametrize("preset", ["fair", "closed-form"])
def test_forty_trials_are_shown_as_their_runs_say(preset, tmp_path):
    page = ROOT / "docs/results.md"
    if not page.is_file():
        pytest.skip("docs/results.md is not here")
    tuned = "fm-lora still-lora ortho-lora rank1-pool sd-lora n-lora inflora sora o-lora ranpac"
    tuned = (*tuned.split(), "lora", "full", "linear-probe")
    asked = grid("demo-forty", preset=preset, method=tuned, order_seed=range(10))
    table = compared(sweep(asked, tmp_path))
    assert not list(tmp_path.iterdir())
    shown = ("acc_trained", "acc_best", "best_head", "within_task", "trainable_parameters", "draws")
    assert to_markdown(readable(table, shown)) in page.read_text("utf-8")
