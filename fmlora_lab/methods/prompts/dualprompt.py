"""DualPrompt: a general prompt for all tasks, an expert prompt with a key for each.

    G: prefixes of the first blocks, trained in every task; E_t: prefixes of later blocks, of task t
    training: E_t, L = CE + λ (1 - cos(q(x), κ_t))     prediction: E_s, s = argmax_s cos(q(x), κ_s)

q(x) are the frozen backbone's features; a prefix is half keys, half values (`prefixes.halves`).

Source: Wang et al. 2022, "DualPrompt: Complementary Prompting for Rehearsal-free Continual
Learning", ECCV, arXiv 2204.04799. Only prompts of tasks that were learned can be chosen; the
codes' pools have one for every task to come, whose keys are noise until then.

Published (port JH-LEE-KR/dualprompt-pytorch, ImageNet-R): G length 5, E length 20, λ 1, Adam 0.005
times batch / 256 at a constant rate, gradient norms clipped at 1.0, 50 epochs, batch 24; a new E
starts from the last task's. Here, as for every method: AdamW, the rate falls along a cosine,
nothing is clipped. The port has 5 keys
and 5 values, 20 and 20, and a reshape of E that gives some images keys for values; CODA-Prompt's
code 3 and 3, 10 and 10, a key a block, and sums λ's term over the batch.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
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
from fmlora_lab.methods.prompts.prefixes import cosines, halves, uniform


class DualPromptSettings(MethodSettings):
    name: Literal["dualprompt"] = "dualprompt"
    general_blocks: tuple[int, ...] = (0, 1)
    """Blocks that the general prompt enters."""
    general_length: int = Field(default=6, ge=0, multiple_of=2)
    """Its tokens, keys and values together; 0 for none."""
    blocks: Blocks = (2, 3, 4)
    """Blocks that the expert prompts enter."""
    length: int = Field(default=20, ge=0, multiple_of=2)
    """Their tokens, keys and values together; 0 for none."""
    match: float = Field(default=1.0, ge=0)
    """λ, how strongly a task's key is pulled to its queries."""
    start_from_last: bool = True
    """A new expert prompt starts from the last task's."""
    lr: float = Field(default=3e-3, gt=0)
    """Learning rate of prompts and keys."""

    @model_validator(mode="after")
    def _one_prompt_a_block(self) -> "DualPromptSettings":
        if both := sorted({*self.general_blocks} & {*self.blocks}):
            raise ValueError(
                f"method.blocks has {both[0]}; allowed: blocks that are not in "
                f"method.general_blocks, {list(self.general_blocks)}"
            )
        return self


@register(
    DualPromptSettings,
    title="DualPrompt",
    family="prompts",
    what="one prompt for all tasks, one with a key for each",
    source="Wang et al. 2022, ECCV, arXiv 2204.04799",
    since="2022-04",
    paper={"method.general_length": 10, "method.length": 40, "method.lr": 0.005 * 24 / 256},
    search={**HEAD_RATES, "method.lr": (1e-3, 3e-3, 1e-2, 3e-2), "method.match": (0.1, 1.0)},
    search_short={"method.lr": (1e-3, 3e-3, 1e-2)},
    alike=True,
)
class DualPrompt(Method):
    settings: DualPromptSettings
    needs_query = True
    old_E: Tensor
    old_keys: Tensor

    def __init__(self, settings: DualPromptSettings, model: Tower):
        super().__init__(settings, model)
        d = model.width
        self.G = nn.Parameter(torch.zeros(len(settings.general_blocks), settings.general_length, d))
        self.E = nn.Parameter(torch.zeros(len(settings.blocks), settings.length, d))
        self.key = nn.Parameter(torch.zeros(d))
        self.register_buffer("old_E", torch.zeros(0, *self.E.shape))
        self.register_buffer("old_keys", torch.zeros(0, d))
        self.stage = ""

    @torch.no_grad()
    def begin_task(self, task: TaskInfo) -> None:
        if task.index == 0:
            self.G.copy_(uniform(*self.G.shape, generator=task.generator))
        fresh = uniform(*self.E.shape, generator=task.generator)
        reuse = self.settings.start_from_last and len(self.old_E) > 0
        self.E.copy_(self.old_E[-1] if reuse else fresh)
        self.key.copy_(uniform(*self.key.shape, generator=task.generator))

    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        self.stage = stage.name

    def prompts(self, query: Tensor | None) -> Prompts | None:
        prefixes = by_block(self.settings.general_blocks, self.G)
        if self.training:
            prefixes |= by_block(self.settings.blocks, self.E)
            return Prompts(prefixes=prefixes)
        experts, keys = self._known()
        if len(experts):
            assert query is not None  # which the method needs
            chosen = experts[cosines(query, keys).argmax(1)]  # (B, blocks, L, d)
            prefixes |= by_block(self.settings.blocks, chosen.transpose(0, 1))
        return Prompts(prefixes=prefixes)

    def loss(self, batch: Batch) -> Tensor:
        assert batch.query is not None  # which the method needs
        match = 1 - cosines(batch.query, self.key[None]).mean()
        return super().loss(batch) + self.settings.match * match

    def groups(self) -> list[Group]:
        return [Group([self.G, self.E, self.key], self.settings.lr, decay=False)]

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        self.old_E, self.old_keys = self._known()
        self.stage = ""
        return {"general": self.G.clone(), "expert": self.E.clone(), "key": self.key.clone()}

    def kept(self) -> int:
        return self.G.numel() + self.old_E.numel() + self.old_keys.numel()

    def _known(self) -> tuple[Tensor, Tensor]:
        """Prompts and keys of all tasks that were learned, the present one's too if it is."""
        if not self.stage:
            return self.old_E, self.old_keys
        return torch.cat([self.old_E, self.E[None]]), torch.cat([self.old_keys, self.key[None]])


def by_block(
    blocks: Sequence[int], P: Float[Tensor, "blocks ... L d"]
) -> dict[int, tuple[Tensor, Tensor]]:
    """Prefixes by their block's number; none where L is 0."""
    return {b: halves(p) for b, p in zip(blocks, P, strict=True)} if P.shape[-2] else {}
