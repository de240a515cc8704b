"""Published accuracies with their sources, to be printed beside measured ones.

Of FM-LoRA's own tables one row is known, ImageNet-R at N = 20; its other results, ablations and
costs are not, and are shown as "not known", never guessed. The rivals' rows are those of SD-LoRA's
paper: tables 2 and 3 agree with the pictures of them in its authors' repository, tables 4 and 6
are known from a summary of the paper. CIFAR-100 adds what authors' logs and two ports say. RanPAC's
rows are its authors' tables, with and without its adapter and its random features.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from fmlora_lab.config import BadInput, title_of

NUMBERS = pd.read_csv(Path(__file__).with_suffix(".csv"), index_col=["benchmark", "tasks"])
"""Acc and AAA in percent, empty where not known; who printed them; the pre-trained model. A name
that no method of the lab has is a variant or a second source; "one frozen direction" is SD-LoRA's
ablation nearest to shared bases: the first task's direction, frozen. "no adapter" is RanPAC without
its first phase, ridge regression on a frozen backbone."""

CAUTIONS = {
    "imagenet-r": "FM-LoRA's row stands beside SD-LoRA's: its margins (1.21 and 0.75 points) are "
    "those over SD-LoRA's own table. Its pre-trained weights, split and class order are not known.",
    "domainnet": "These numbers are class-incremental: 345 classes, 69 a task. FM-LoRA speaks of "
    "domain-incremental learning over six domains, which is another problem.",
    "cifar-100": "L2P, DualPrompt (both from ports), InfLoRA's logs and RanPAC's table start from "
    "ImageNet-21k alone, the other rows from weights tuned on ImageNet-1k too. SD-LoRA's log has "
    "the very numbers of the paper's variant RR, so it may be a run of that one.",
    "cub-200": "Pre-training matters more than the method here: Geo-LoRA's paper has SD-LoRA at "
    "63.74 (Acc), 14 points lower, from ImageNet-21k alone.",
}
"""What to print under a benchmark's published numbers."""


def published(benchmark: str, tasks: int) -> pd.DataFrame:
    """Published numbers of one benchmark at N = `tasks`: columns acc, aaa, source, backbone.

    One row a method of which something is known, and variants and second sources under names of
    their own. Raises BadInput for a benchmark that is not in CAUTIONS.
    """
    if benchmark not in CAUTIONS:
        raise BadInput(f"benchmark is {benchmark!r}; published are {', '.join(CAUTIONS)}")
    return NUMBERS[NUMBERS.index == (benchmark, tasks)].set_index("method")


def known(value: float | str | None) -> str:
    """A published value as text: percent with two decimals, or "not known"."""
    if isinstance(value, str):
        return value
    return "not known" if value is None or math.isnan(value) else f"{value:.2f}"


def published_beside(
    shown: pd.DataFrame, tables: Mapping[str, pd.DataFrame], methods: Iterable[str]
) -> pd.DataFrame:
    """A table to read, its rows methods by their titles, with a column of published Acc / AAA for
    each of `tables`, which `published` gave, under its heading.

    Published numbers are of ViT-B/16, another backbone than that of most measured ones.
    """
    table, names = shown.copy(), {title_of(name): name for name in methods}
    for heading, numbers in tables.items():
        table[f"published, {heading} (ViT-B/16: Acc / AAA)"] = [
            " / ".join(known(numbers[value].get(names.get(row))) for value in ("acc", "aaa"))
            for row in table.index
        ]
    return table
