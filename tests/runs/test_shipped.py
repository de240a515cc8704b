"""The tables that the README and the documentation show are those of the runs that ship."""

from pathlib import Path

import pytest

from fmlora_lab.analysis.tables import compared, readable, to_markdown
from fmlora_lab.methods.registry import in_order
from fmlora_lab.runs.archive import collections
from fmlora_lab.runs.frame import frame
from fmlora_lab.runs.stored import Run, load_runs

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PAGES = [page for page in (ROOT / "README.md", ROOT / "docs" / "results.md") if page.is_file()]
COLUMNS = (
    "acc_trained", "acc_best", "best_head", "learning_accuracy", "forgetting", "within_task",
    "confusion", "trainable_parameters", "kept_parameters", "passes_a_task", "seconds_a_task",
    "inference_mflops", "draws",
)  # fmt: skip


def table(found: list[Run]) -> str:
    """The comparison of these runs as Markdown, methods in the order of tables."""
    ranked = sorted(found, key=lambda run: (in_order().index(run.method_name), run.config["seed"]))
    labelled = frame([({"method": r.method_name, "seed": r.config["seed"]}, r) for r in ranked])
    return to_markdown(readable(compared(labelled), COLUMNS))


@pytest.mark.parametrize("name", ["glyphs-10", "cifar100-tiny"])
def test_a_comparison_is_shown_as_its_runs_say(name):
    """Every method that shipped, with the same seeds; a newcomer need not be among them."""
    found = load_runs(collections()[name])
    methods = {run.method_name for run in found}
    assert {(r.method_name, r.config["seed"]) for r in found} == {
        (method, seed) for method in methods for seed in range(3)
    }
    assert any(table(found) in page.read_text("utf-8") for page in PAGES)
