"""What the notebooks published when nbmake executed them: `make test` reads this last."""

import json
from pathlib import Path

EXECUTED = Path(__file__).parents[2] / "build" / "notebooks"


def results(name: str) -> dict:
    return json.loads((EXECUTED / "figures" / name / "results.json").read_text())


def test_the_quickstart_publishes_its_numbers_and_pictures():
    methods = results("quickstart")["methods"]
    assert list(methods) == ["fm-lora", "lora", "full", "linear-probe", "prototypes", "joint"]
    for row in methods.values():
        assert 0 <= row["acc"] <= 100
        assert row["test_images"] == 200 and row["tasks"] == 5
        assert (EXECUTED / "runs" / row["runs"] / "result.json").exists()
    assert methods.pop("joint")["forgetting"] is None
    for row in methods.values():  # forgetting counts from a task's best, which may come later
        assert row["acc"] >= row["learning_accuracy"] - row["forgetting"] * 4 / 5 - 1e-3
    assert methods["prototypes"]["acc"] > 10  # ten times chance: the backbone knows characters
    folder = EXECUTED / "figures" / "quickstart"
    for name in ("stream", "accuracy_over_tasks", "accuracy_matrices", "trade_off"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
        assert "</svg>" in (folder / f"{name}.svg").read_text()
