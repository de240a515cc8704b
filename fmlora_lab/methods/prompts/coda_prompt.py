"""CODA-Prompt: each image's prefixes are a weighted sum of components, new ones for every task.

    p(x) = Σ_m α_m P_m,   α_m = cos(q(x) ⊙ A_m, K_m)       trained: the present task's P, K, A

q(x) are the frozen backbone's features, ⊙ the element-wise product. Earlier tasks' components take
part and stay as they are; new ones begin orthonormal to them and to each other (Gram–Schmidt).

Source: Smith et al. 2023, "CODA-Prompt: COntinual Decomposed Attention-based Prompting for
Rehearsal-Free Continual Learning", CVPR, arXiv 2211.13218. `ortho` is the paper's penalty
λ Σ ‖B Bᵀ - I‖² over P, K and A; the official code (GT-RIPL/CODA-Prompt) takes its mean, and its
scripts set it to 0, as the Gram–Schmidt start takes its place: the default here too.

Published: 100 components over all tasks (10 a task), length 8 (4 keys, 4 values), blocks 0 to 4,
Adam 1e-3, batch 128, 20 to 50 epochs.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from fmlora_lab.backbone.sites import Prompts
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.config import MethodSettings
from fmlora_lab.methods.method import (
    HEAD_RATES,
    Batch,
    Blocks,
    Group,
    Method,
    Stage,
    TaskInfo,
    register,
)
from fmlora_lab.methods.prompts.prefixes import halves


class CODAPromptSettings(MethodSettings):
    name: Literal["coda-prompt"] = "coda-prompt"
    components: int = Field(default=10, ge=1)
    """New components of a task, for every block."""
    length: int = Field(default=8, ge=0, multiple_of=2)
    """Tokens of a component, keys and values together; 0 for none."""
    blocks: Blocks = (0, 1, 2, 3, 4)
    """Blocks that the prefixes enter."""
    ortho: float = Field(default=0.0, ge=0)
    """λ of the penalty that keeps components orthonormal while they learn."""
    lr: float = Field(default=3e-3, gt=0)
    """Learning rate of components, keys and attention."""


@register(
    CODAPromptSettings,
    title="CODA-Prompt",
    family="prompts",
    what="prompts as weighted sums of components, new ones a task",
    source="Smith et al. 2023, CVPR, arXiv 2211.13218",
    since="2022-11",
    paper={"method.lr": 1e-3},
    search={**HEAD_RATES, "method.lr": (1e-3, 3e-3, 1e-2, 3e-2), "method.length": (8, 16)},
    search_short={"method.lr": (1e-3, 3e-3, 1e-2)},
    alike=True,
)
class CODAPrompt(Method):
    settings: CODAPromptSettings
    needs_query = True
    old_P: Tensor
    old_K: Tensor
    old_A: Tensor

    def __init__(self, settings: CODAPromptSettings, model: Tower):
        super().__init__(settings, model)
        n, m, d = len(settings.blocks), settings.components, model.width
        self.P = nn.Parameter(torch.zeros(n, m, settings.length, d))
        self.K = nn.Parameter(torch.zeros(n, m, d))
        self.A = nn.Parameter(torch.zeros(n, m, d))
        for name in ("P", "K", "A"):
            self.register_buffer(f"old_{name}", getattr(self, name).detach()[:, :0].clone())
        self.stage = ""

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        for name in ("P", "K", "A"):
            new, old = getattr(self, name), getattr(self, f"old_{name}")
            draw = torch.randn(new.shape, generator=task.generator).to(new)
            for b in range(len(new)):
                new[b] = gram_schmidt(old[b].flatten(1), draw[b].flatten(1)).view_as(new[b])

    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        self.stage = stage.name

    def prompts(self, query: Tensor | None) -> Prompts | None:
        P, K, A = (self._all(name) for name in ("P", "K", "A"))
        if not self.settings.length or not P.shape[1]:
            return None
        assert query is not None  # which the method needs
        prefixes = {}
        for b, block in enumerate(self.settings.blocks):
            alpha = attention(query, A[b], K[b])
            prefixes[block] = halves(torch.einsum("bm,mld->bld", alpha, P[b]))
        return Prompts(prefixes=prefixes)

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        if self.settings.ortho:
            for name in ("P", "K", "A"):
                B = self._all(name).flatten(2)
                excess = B @ B.mT - torch.eye(B.shape[1]).to(B)
                loss = loss + self.settings.ortho * excess.square().sum()
        return loss

    def groups(self) -> list[Group]:
        return [Group([self.P, self.K, self.A], self.settings.lr, decay=False)]

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        record = {name: getattr(self, name).detach().clone() for name in ("P", "K", "A")}
        for name in ("P", "K", "A"):
            setattr(self, f"old_{name}", self._all(name).detach().clone())
        self.stage = ""
        return record

    def kept(self) -> int:
        return self.old_P.numel() + self.old_K.numel() + self.old_A.numel()

    def _all(self, name: str) -> Tensor:
        """The components in use (blocks, M, ...): old ones, and the task's own if it trains."""
        old = getattr(self, f"old_{name}")
        return torch.cat([old, getattr(self, name)], dim=1) if self.stage else old


def attention(
    query: Float[Tensor, "B d"], A: Float[Tensor, "M d"], K: Float[Tensor, "M d"]
) -> Float[Tensor, "B M"]:
    """α_m = cos(q ⊙ A_m, K_m), without a (B, M, d) in between."""
    with torch.autocast(query.device.type, enabled=False):
        inner = query @ (A * F.normalize(K, dim=1)).T
        return inner / (query.square() @ A.square().T).clamp(min=1e-24).sqrt()


def gram_schmidt(old: Float[Tensor, "M n"], draw: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Unit rows from those of `draw`, orthogonal to those of `old` and to each other.

    Where nothing orthogonal is left (more rows than n), a row is its normalised draw.
    """
    basis = torch.linalg.qr(old.T.double()).Q
    rows = []
    for v in draw.double():
        left = v
        for _ in range(2):  # twice is enough to be orthogonal to rounding
            left = left - basis @ (basis.T @ left)
        if left.norm() > 1e-6 * v.norm():
            rows.append(F.normalize(left, dim=0))
            basis = torch.cat([basis, rows[-1][:, None]], dim=1)
        else:
            rows.append(F.normalize(v, dim=0))
    return torch.stack(rows).to(draw)
