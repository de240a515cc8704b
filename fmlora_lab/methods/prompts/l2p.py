"""L2P: a pool of prompts; each image takes those whose keys are nearest to its query.

    S(x) = top-n of cos(q(x), κ_j)        z_0 = [CLS ; P_j, j in S(x) ; patches]
    L = CE - λ Σ_{j in S(x)} cos(q(x), κ_j)

q(x) are the frozen backbone's features. The classifier reads the mean of the prompts' outputs.

Source: Wang et al. 2022, "Learning to Prompt for Continual Learning", CVPR, arXiv 2112.08654.
All tasks train the whole pool. As everywhere here the loss sees the current task's classes, and
prompts have no position embedding (the PyTorch port gives them one).

Published (CIFAR-100; port JH-LEE-KR/l2p-pytorch): pool 10, length 5, top 5, λ 0.1, Adam 0.03 times
batch / 256 at a constant rate, gradient norms clipped at 1.0, 5 epochs, batch 16. Here, as for
every method: AdamW, the rate falls along a cosine, nothing is clipped. The port differs:
`batchwise` gives all images of a batch the prompts that most of them chose, so that a prediction
depends on its neighbours. CODA-Prompt's code (L2P++) puts prefixes into the first block's
attention and reads [CLS].
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn

from fmlora_lab.backbone.sites import Prompts
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.config import MethodSettings
from fmlora_lab.methods.method import HEAD_RATES, Batch, Group, Method, TaskInfo, register
from fmlora_lab.methods.prompts.prefixes import cosines, uniform


class L2PSettings(MethodSettings):
    name: Literal["l2p"] = "l2p"
    pool: int = Field(default=10, ge=1)
    """Prompts in the pool."""
    length: int = Field(default=5, ge=0)
    """Tokens of each prompt."""
    top: int = Field(default=5, ge=1)
    """Prompts an image takes."""
    pull: float = Field(default=0.1, ge=0)
    """λ, how strongly chosen keys are pulled to the queries."""
    batchwise: bool = False
    """As in the port: one choice for a whole batch."""
    read: Literal["prompts", "cls"] = "prompts"
    """What the classifier reads: the mean of the prompts' outputs, or what timm reads."""
    lr: float = Field(default=3e-3, gt=0)
    """Learning rate of prompts and keys."""

    @model_validator(mode="after")
    def _top_within_pool(self) -> "L2PSettings":
        if self.top > self.pool:
            raise ValueError(f"method.top is {self.top}; allowed: at most method.pool, {self.pool}")
        return self


@register(
    L2PSettings,
    title="L2P",
    family="prompts",
    what="a pool of prompts, each image takes the nearest",
    source="Wang et al. 2022, CVPR, arXiv 2112.08654",
    since="2021-12",
    paper={"method.lr": 0.03 * 16 / 256},
    search={**HEAD_RATES, "method.lr": (1e-3, 3e-3, 1e-2, 3e-2), "method.read": ("prompts", "cls")},
    search_short={"method.lr": (1e-3, 3e-3, 1e-2)},
    alike=True,
)
class L2P(Method):
    settings: L2PSettings
    needs_query = True

    def __init__(self, settings: L2PSettings, model: Tower):
        super().__init__(settings, model)
        self.P = nn.Parameter(torch.zeros(settings.pool, settings.length, model.token_width))
        self.keys = nn.Parameter(torch.zeros(settings.pool, model.width))

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        if task.index == 0:
            self.P.copy_(uniform(*self.P.shape, generator=task.generator))
            self.keys.copy_(uniform(*self.keys.shape, generator=task.generator))

    def chosen(self, query: Float[Tensor, "B d"]) -> Int64[Tensor, "B top"]:
        """The prompts that each image takes."""
        chosen = cosines(query, self.keys).topk(self.settings.top, dim=1).indices
        if self.settings.batchwise:
            votes = F.one_hot(self.whole(chosen), self.settings.pool).sum((0, 1))
            chosen = votes.topk(self.settings.top).indices.expand(len(query), -1)
        return chosen

    def prompts(self, query: Tensor | None) -> Prompts | None:
        if not self.settings.length:
            return None
        assert query is not None  # which the method needs
        # A product, not an index: its gradient sums in one order, so that runs repeat to the bit.
        pick = F.one_hot(self.chosen(query), self.settings.pool).to(self.P)
        tokens = torch.einsum("bnp,pld->bnld", pick, self.P).flatten(1, 2)
        return Prompts(tokens, read=self.settings.read == "prompts")

    def loss(self, batch: Batch) -> Tensor:
        assert batch.query is not None  # which the method needs
        near = cosines(batch.query, self.keys).gather(1, self.chosen(batch.query))
        return super().loss(batch) - self.settings.pull * near.sum(1).mean()

    def groups(self) -> list[Group]:
        return [Group([self.P, self.keys], self.settings.lr, decay=False)]

    def end_task(self) -> dict[str, Tensor]:
        return {"prompts": self.P.detach().clone(), "keys": self.keys.detach().clone()}

    def kept(self) -> int:
        return self.P.numel() + self.keys.numel()
