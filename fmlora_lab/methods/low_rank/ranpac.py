"""RanPAC: an adapter of the first task, then frozen features under ridge regression.

    task 1: W = W0 + U Vᵀ is trained and merged        task t > 1: nothing is trained
    score = ReLU(f P) (G + λ I)⁻¹ Q                    over all tasks; `heads/ridge.py`

Source: McDonnell et al. 2023, "RanPAC: Random Projections and Pre-trained Models for Continual
Learning", NeurIPS, arXiv 2307.02251; code RanPAC/RanPAC. Ours: the adapter is a LoRA (published:
AdaptFormer, SSF or VPT, SGD 0.01 for 20 epochs), features have length 1, λ comes from leave-one-out
(published: the best of 10⁻⁸ … 10⁸ on a fifth of the task's images). Published: M = 10,000.
"""

from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from fmlora_lab.methods.low_rank.lora import LoRA, LoRASettings
from fmlora_lab.methods.method import HEAD_RATES, Group, Stage, TaskInfo, register


class RanPACSettings(LoRASettings):
    name: Literal["ranpac"] = "ranpac"  # type: ignore[assignment]


@register(
    RanPACSettings,
    title="RanPAC",
    family="low-rank",
    what="an adapter of the first task, then ridge regression on random features",
    source="McDonnell et al. 2023, NeurIPS, arXiv 2307.02251",
    since="2023-07",
    paper={"heads.random_features": 10_000},
    search={**HEAD_RATES, "method.lr": (5e-4, 1e-3, 2e-3, 4e-3), "method.rank": (4, 8, 16)},
    search_short={"method.lr": (1e-4, 3e-4, 1e-3)},
    alike=True,
)
class RanPAC(LoRA):
    ranked_by = "ridge"

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.first = task.index == 0

    def adapts(self, task: int) -> bool:
        return task == 0

    def stages(self, epochs: int) -> Iterator[Stage]:
        if self.first:
            yield Stage("train", epochs)

    def groups(self) -> list[Group]:
        return super().groups() if self.first else []

    def end_task(self) -> dict[str, Tensor]:
        return super().end_task() if self.first else {}
