"""The studies by name, one page each; `plan` makes one."""

from collections.abc import Sequence

from fmlora_lab.config import BadInput
from fmlora_lab.studies import (  # noqa: F401  (a page registers itself)
    all_methods,
    bases,
    components,
    cost,
    frontier,
    imagenet_r,
    interference,
    meta_prompt,
    other_benchmarks,
    quickstart,
    rank_selector,
    stream_length,
)
from fmlora_lab.studies.study import Cell, Found, Study

__all__ = ["Cell", "Found", "Study", "plan"]


def plan(
    name: str,
    profile: str = "demo",
    methods: Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
) -> Study:
    """The study of that name, with a profile, methods and seeds (its own by default).

    `seeds` is their number, or a list. BadInput for anything unknown, with what is known.
    """
    if name not in Study.known:
        raise BadInput(f"there is no study {name!r}; known: {', '.join(sorted(Study.known))}")
    return Study.known[name](profile, methods, seeds)
