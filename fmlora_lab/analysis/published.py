"""Published accuracies with their sources, to be printed beside measured ones.

Of FM-LoRA's own tables one row is known, ImageNet-R at N = 20; its other results, ablations and
costs are not, and are shown as "not known", never guessed. The rivals' rows are those of SD-LoRA's
paper: tables 2 and 3 agree with the pictures of them in its authors' repository, tables 4 and 6
are known from a summary of the paper. CIFAR-100 adds what authors' logs and two ports say.
"""

import math
from typing import NamedTuple

import pandas as pd

from fmlora_lab.analysis.names import TITLES
from fmlora_lab.config import BadInput


class Number(NamedTuple):
    """Acc and AAA in percent, NaN where not known; who printed them; the pre-trained model."""

    acc: float = math.nan
    aaa: float = math.nan
    source: str | None = None
    backbone: str | None = None


IN_1K = "ViT-B/16, ImageNet-21k then ImageNet-1k"
IN_21K = "ViT-B/16, ImageNet-21k"


def _sd_lora(table: int, **rows: tuple[float, float]) -> dict[str, Number]:
    """Rows of one table of SD-LoRA's paper; `_` in a keyword stands for `-` in a method's name."""
    source = f"SD-LoRA's paper (arXiv 2501.13198), table {table}"
    return {name.replace("_", "-"): Number(*row, source, IN_1K) for name, row in rows.items()}


def _one_direction(acc: float) -> dict[str, Number]:
    """SD-LoRA's ablation nearest to shared bases: the first task's direction, frozen."""
    return {"sd-lora, one frozen direction": _sd_lora(4, row=(acc, math.nan))["row"]}


def _port(acc: float, repository: str) -> Number:
    return Number(acc, math.nan, f"README of {repository}, a port to PyTorch", IN_21K)


NUMBERS: dict[tuple[str, int], dict[str, Number]] = {
    ("imagenet-r", 5): _sd_lora(
        2,
        full=(64.92, 75.57),
        l2p=(73.04, 76.94),
        dualprompt=(69.99, 72.24),
        coda_prompt=(76.63, 80.30),
        hide_prompt=(74.77, 78.15),
        inflora=(76.95, 81.81),
        sd_lora=(79.15, 83.01),
    )
    | _one_direction(78.17),
    ("imagenet-r", 10): _sd_lora(
        2,
        full=(60.57, 72.31),
        l2p=(71.26, 76.13),
        dualprompt=(68.22, 73.81),
        coda_prompt=(74.05, 78.14),
        hide_prompt=(74.65, 78.46),
        inflora=(74.75, 80.67),
        sd_lora=(77.34, 82.04),
    )
    | _one_direction(74.82),
    ("imagenet-r", 20): _sd_lora(
        2,
        full=(49.95, 65.32),
        l2p=(68.97, 74.16),
        dualprompt=(65.23, 71.30),
        coda_prompt=(69.38, 73.95),
        hide_prompt=(73.59, 77.93),
        inflora=(69.89, 76.68),
        sd_lora=(75.26, 80.22),
    )
    | {
        "fm-lora": Number(
            76.47,
            80.97,
            "FM-LoRA's paper (arXiv 2504.08823), as an overview of it says",
            "ViT-B/16, its pre-training not known",
        )
    },
    ("domainnet", 5): _sd_lora(
        3,
        full=(51.46, 67.08),
        l2p=(70.26, 75.83),
        dualprompt=(68.26, 73.84),
        coda_prompt=(70.58, 76.68),
        hide_prompt=(72.20, 77.01),
        inflora=(71.59, 78.29),
        sd_lora=(72.82, 78.89),
    ),
    ("cifar-100", 10): _sd_lora(
        6,
        full=(69.49, 80.35),
        coda_prompt=(86.31, 90.67),
        inflora=(86.75, 91.72),
        sd_lora=(88.01, 92.54),
    )
    | {
        "l2p": _port(83.77, "JH-LEE-KR/l2p-pytorch"),
        "dualprompt": _port(86.13, "JH-LEE-KR/dualprompt-pytorch"),
        "sd-lora, authors' log": Number(
            87.26, 92.05, "WuYichen-97/SD-Lora-CL, logs/C100.log, one seed", IN_1K
        ),
        "inflora, authors' logs": Number(
            86.33, 91.18, "liangyanshuo/InfLoRA, logs/cifar100, mean of five seeds", IN_21K
        ),
    },
    ("cub-200", 10): _sd_lora(
        6,
        full=(51.43, 69.74),
        coda_prompt=(71.92, 78.76),
        inflora=(70.82, 81.39),
        sd_lora=(77.48, 85.59),
    ),
}
"""The numbers by benchmark and N, then by method. A name that no method of the lab has is a variant
or a second source."""

CAUTIONS = {
    "imagenet-r": "FM-LoRA's row stands beside SD-LoRA's: its margins (1.21 and 0.75 points) are "
    "those over SD-LoRA's own table. Its pre-trained weights, split and class order are not known.",
    "domainnet": "These numbers are class-incremental: 345 classes, 69 a task. FM-LoRA speaks of "
    "domain-incremental learning over six domains, which is another problem.",
    "cifar-100": "L2P, DualPrompt (both from ports) and InfLoRA's logs start from ImageNet-21k "
    "alone, the other rows from weights tuned on ImageNet-1k too. SD-LoRA's log has the very "
    "numbers of the paper's variant RR, so it may be a run of that one.",
    "cub-200": "Pre-training matters more than the method here: Geo-LoRA's paper has SD-LoRA at "
    "63.74 (Acc), 14 points lower, from ImageNet-21k alone.",
}
"""What to print under a benchmark's published numbers."""


def published(benchmark: str, tasks: int) -> pd.DataFrame:
    """Published numbers of one benchmark at N = `tasks`: columns acc, aaa, source, backbone.

    One row a method of the lab, all missing where nothing is known, then variants and second
    sources under names of their own. Raises BadInput for a benchmark that is not in CAUTIONS.
    """
    if benchmark not in CAUTIONS:
        raise BadInput(f"benchmark is {benchmark!r}; published are {', '.join(CAUTIONS)}")
    rows = dict.fromkeys(TITLES, Number()) | NUMBERS.get((benchmark, tasks), {})
    index = pd.Index(rows, name="method")
    return pd.DataFrame(rows.values(), index=index, columns=Number._fields)


def known(value: float | str | None) -> str:
    """A published value as text: percent with two decimals, or "not known"."""
    if pd.isna(value):
        return "not known"
    return value if isinstance(value, str) else f"{value:.2f}"
