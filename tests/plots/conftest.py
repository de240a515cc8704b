"""25 methods that there are not, in five families, one of which no one has heard of."""

import pytest

from fmlora_lab.config import METHOD_LABELS, MethodLabel

TOYS = {"FM-LoRA": 1, "low-rank": 9, "prompts": 6, "references": 5, "projection": 4}
"""How many there are, by family."""


@pytest.fixture
def toys(monkeypatch) -> dict[str, str]:
    """The family of each toy method by its name; they are known while the test runs."""
    found = {f"toy {family} {i}": family for family, n in TOYS.items() for i in range(n)}
    for name, family in found.items():
        label = MethodLabel(f"{family.title()} no. {name[-1]}", family)
        monkeypatch.setitem(METHOD_LABELS, name, label)
    return found
