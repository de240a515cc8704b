"""All heads that keep statistics, of one run: each as it stands and, carried, as features move."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fmlora_lab.config import Heads
from fmlora_lab.heads.drift import Drift, fit
from fmlora_lab.heads.head import BANKS, Bank

ENOUGH = 4096
"""Images of a task that are enough to find a few numbers by; of more, every so many."""


def some(n: int) -> slice:
    """Of a task's n images those by which shrinkage, λ and drift are found."""
    return slice(None, None, -(-n // ENOUGH))


class Banks(nn.Module):
    """`plain` and `carried` heads by name. Until features move the two are one, so that the carried
    ones begin as copies of the plain ones when features have first moved.

    Features (n, d) come as the tower gives them; what the heads see of them has length 1.
    """

    before: Tensor
    moved: Tensor

    def __init__(self, width: int, n_classes: int, settings: Heads):
        super().__init__()
        self.plain = {name: bank(width, n_classes, settings) for name, bank in BANKS.items()}
        self.carried: dict[str, Bank] = {}
        for name, bank in self.plain.items():
            self.add_module(name, bank)
            if bank.carries():
                self._copy(name).finish()
        self.register_buffer("before", torch.zeros(0, width))
        self.register_buffer("moved", torch.tensor(False))

    def begin_task(self, before: Float[Tensor, "n d"] | None) -> None:
        """`before` are features of `some` of the new task's images under the weights from before
        it; None where the task will not move features."""
        self.before = self.before[:0] if before is None else F.normalize(before)

    def end_task(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"]) -> Drift | None:
        """Take in a task that ended; returns how features moved, None where they did not."""
        f = F.normalize(features)
        few = some(len(f))
        drift = fit(self.before, f[few]) if len(self.before) else None
        self.before = self.before[:0]
        if drift is not None and not self.moved:
            self.moved.fill_(True)
            for name in self.carried:
                self._copy(name)
        for bank in self.plain.values():
            bank.add(f, labels)
            bank.settle(f[few], labels[few])
        if self.moved:
            gaussians = deepcopy(self.carried["lda"])
            for name, bank in self.carried.items():
                if drift is not None:
                    bank.carry(drift, self.plain[name], gaussians)
                bank.add(f, labels)
                bank.settle(f[few], labels[few])
        return drift

    def forward(self, features: Float[Tensor, "B d"]) -> dict[str, Float[Tensor, "B K"]]:
        """Scores of every head, by its name in results."""
        f = F.normalize(features)
        scores = {name: bank(f) for name, bank in self.plain.items()}
        for name, bank in self.carried.items():
            scores[f"{name}-carried"] = bank(f) if self.moved else scores[name]
        return scores

    def finish(self) -> None:
        """No more tasks will come."""
        for bank in (*self.plain.values(), *self.carried.values()):
            bank.finish()

    def _copy(self, name: str) -> Bank:
        """Make the carried head of that name a copy of the plain one."""
        self.carried[name] = copy = deepcopy(self.plain[name])
        self.add_module(f"{name}-carried", copy)
        return copy

    def kept(self) -> dict[str, int]:
        """Numbers kept, by head; a carried one that needs Gaussians keeps those of the LDA too."""
        kept = {name: bank.kept() for name, bank in self.plain.items()}
        lda = kept["lda"]
        for name, bank in self.carried.items():
            by_carrying = bank.kept() + (lda if bank.needs_gaussians else 0)
            kept[f"{name}-carried"] = by_carrying if self.moved else kept[name]
        return kept
