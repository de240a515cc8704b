"""FM-LoRA: shared bases with per-task coefficients, a rank selector, one meta-prompt.

    W_t = W0 + A C_t Bᵀ,  C_t = C_{t-1} + M_t N_tᵀ     factorized.py (F-LoRA), bases.py
    r_t = argmax_r p(r | T_t)                          rank_selector.py (DRS)
    z_0 = [CLS ; P ; patches]                          meta_prompt.py (DMP)

Source: Yu et al. 2025, "FM-LoRA: Factorized Low-Rank Meta-Prompting for Continual Learning",
arXiv 2504.08823. No code was published; each choice the paper leaves open is an option here.

The nearest published relative of F-LoRA's factorisation is C-LoRA (`low_rank.c_lora`): shared
factors too, which however go on learning, around a routing matrix that takes in every task's part.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.sites import Prompts
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.config import BadInput, Settings
from fmlora_lab.methods.fm_lora.bases import (
    GradientSketch,
    from_random,
    from_weight_svd,
    shared,
    top_inputs,
)
from fmlora_lab.methods.fm_lora.estimates import ESTIMATES, Estimates
from fmlora_lab.methods.fm_lora.factorized import FactorizedLoRA, Triple
from fmlora_lab.methods.fm_lora.meta_prompt import PromptSettings, new_prompt
from fmlora_lab.methods.fm_lora.rank_selector import DRSSettings, RankSelector
from fmlora_lab.methods.input_moments import InputMoments
from fmlora_lab.methods.method import (
    HEAD_RATES,
    Group,
    Method,
    SiteSettings,
    Stage,
    StageEnd,
    StepBatch,
    TaskInfo,
    register,
)
from fmlora_lab.methods.starts import STARTS, shares_of_starts


class BasesSettings(Settings):
    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    source: Literal["first-task", "weight-svd", "first-task-gradient", "random"] = Field(
        default="first-task", alias="from"
    )
    """Where A and B come from (written `bases.from`)."""
    lr: float = Field(default=3e-4, gt=0)
    """Learning rate of the first task's LoRA, from which `first-task` takes its bases."""
    init: Literal["gaussian", "inputs", "gradient", "weight"] = "gaussian"
    """Where V of that LoRA starts, which a short training hardly moves: at random, or in the top R
    right singular directions of the first task's inputs, of its gradient at W0, or of W0."""
    lr_v: float | None = Field(default=None, gt=0)
    """Learning rate of V alone; by default `lr`."""
    shared: bool = False
    """One A and B for a layer in all blocks, instead of one a site."""

    @model_validator(mode="after")
    def _only_a_lora_has_a_start(self) -> "BasesSettings":
        for name, default in (("init", "gaussian"), ("lr_v", None)):
            value = getattr(self, name)
            if self.source != "first-task" and value != default:
                raise ValueError(
                    f'method.bases.{name} is {value!r}, which needs method.bases.from "first-task"'
                )
        return self


class FMLoRASettings(SiteSettings):
    name: Literal["fm-lora"] = "fm-lora"
    basis_rank: int = Field(default=16, ge=1)
    """R, the width of the bases; capped by the smallest side of a site."""
    rank: int = Field(default=8, ge=1)
    """The fixed task rank r where `drs.enabled` is false; capped by R."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the coefficients M and N."""
    adapt: Literal["every-task", "first-task"] = "every-task"
    """`first-task`: later tasks train the head alone, on features that no longer move."""
    bases: BasesSettings = BasesSettings()
    drs: DRSSettings = DRSSettings()
    prompt: PromptSettings = PromptSettings()
    directions: Literal["all", "own"] = "all"
    """`own`: each task writes into basis directions of its own, so that no two updates touch; when
    all R are used up it begins again with the first. This is the lab's variant, not the paper's."""
    inference: Literal["cumulative", "latest"] = "cumulative"
    """`latest` predicts with W0 + ΔW_t alone; it exists for the ablation."""


@register(
    FMLoRASettings,
    title="FM-LoRA",
    family="FM-LoRA",
    what="bases from the first task, then only coefficients; a rank chosen a task; one prompt",
    source="Yu et al. 2025, arXiv 2504.08823",
    since="2025-04",
    search={
        **HEAD_RATES,
        "method.lr": (5e-4, 1e-3, 2e-3, 4e-3),
        "method.bases.lr": (1e-4, 3e-4, 1e-3),
        "method.basis_rank": (16, 32),
        "method.prompt.lr": (1e-3, 3e-3),
    },
    search_short={"method.bases.lr": (1e-4, 3e-4, 1e-3)},
    updates="cores",
    ships=(
        *("H", "rank", "candidates", "probabilities", "w", "cost", "tau", "prompts"),
        *(*ESTIMATES, *STARTS),
    ),
    alike=True,
)
class FMLoRA(Method):
    settings: FMLoRASettings
    P_before: Tensor
    latest: Tensor
    H: Tensor
    chosen: Tensor
    probabilities: Tensor

    def __init__(self, settings: FMLoRASettings, model: Tower):
        super().__init__(settings, model)
        self.factorized = FactorizedLoRA(model.sites, settings.basis_rank)
        choices = len(model.sites) if settings.drs.per_site else 1
        self.selector = RankSelector(settings.drs, self.factorized.R, choices)
        self.P = new_prompt(settings.prompt.tokens, model.token_width, torch.Generator())
        self.register_buffer("P_before", self.P.detach().clone())
        self.register_buffer("latest", torch.zeros_like(self.factorized.core))
        self.register_buffer("H", torch.tensor(float("nan")))
        self.register_buffer("chosen", self._fixed_ranks())
        self.register_buffer("probabilities", torch.zeros(choices, len(self.selector.ranks)))
        self.sketch: GradientSketch | None = None
        self.moments: InputMoments | None = None
        self.starts: dict[str, Tensor] = {}
        self.aside: tuple[Tensor, Tensor] | None = None  # core and prompt, while task 1 is probed
        self.estimates = Estimates() if settings.drs.estimates else None
        self.columns: Tensor | None = None
        self.stage = ""

    def begin_task(self, task: TaskInfo) -> None:
        self.task = task
        self.selector.begin_task()
        if self.estimates is not None:
            self.estimates.begin_task()
        if task.index == 0:
            self.P.data.copy_(new_prompt(len(self.P), self.model.token_width, task.generator))
            sites, R = self.model.sites, self.factorized.R
            if self.settings.bases.source == "weight-svd":
                self._set_bases([from_weight_svd(site, R) for site in sites])
            elif self.settings.bases.source == "random":
                self._set_bases([from_random(site, R, task.generator) for site in sites])
        learns = task.index == 0 or not self.settings.prompt.freeze_after_first
        self.P.requires_grad_(learns and self.adapts(task.index))
        self.P_before.copy_(self.P.detach())
        self.H.fill_(float("nan"))
        self.probabilities.zero_()
        self.chosen.copy_(self._fixed_ranks())
        if not self.adapts(task.index):
            self.chosen.zero_()
        elif self._makes_bases():
            self.factorized.begin_bases(task.generator)
        else:
            self._begin_coefficients(self.chosen, task.generator)
        if task.index == 0 and self.settings.bases.init == "weight":
            R = self.factorized.R
            self.factorized.start_in([from_weight_svd(site, R)[2] for site in self.model.sites])

    def adapts(self, task: int) -> bool:
        return task == 0 or self.settings.adapt == "every-task"

    def stages(self, epochs: int) -> Iterator[Stage]:
        drs, bases = self.settings.drs, self.settings.bases
        if self.task.index == 0 and bases.init == "inputs":
            yield Stage("inputs", 1, observe=True)
        by_gradient = bases.init == "gradient" or bases.source == "first-task-gradient"
        if self.task.index == 0 and by_gradient:
            if self.task.told_apart == 1:
                raise BadInput(
                    "method.bases begin with the first task's gradient, but that task has one "
                    "class, whose loss has none; give it a second class or other bases"
                )
            yield Stage("head", 1)  # the gradient at W0 says little behind a head of noise
            yield Stage("gradient", 1, step=False)
        # Where a task makes the bases, there is nothing to choose within before; where no task
        # comes after it that adapts, its H is of no use.
        makes_bases = self._makes_bases()
        selects = drs.enabled and self.adapts(self.task.index + makes_bases)
        if selects and drs.estimates:
            yield Stage("estimate", 1, observe=True)
        if selects and not makes_bases:
            yield Stage("preliminary", 1, drs.hold_out, probe=not drs.keep_warmup, alike=False)
        yield Stage("train", epochs)
        if selects and makes_bases:
            yield Stage("preliminary", 1, drs.hold_out, probe=True, alike=False)

    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        self.stage = stage.name
        if stage.name == "gradient":
            self.sketch = GradientSketch(self.model.sites, self.factorized.R, generator)
        if stage.name == "inputs":
            self.moments = InputMoments(self.model.sites)
        if stage.name == "preliminary":
            if self._makes_bases():
                self._put_aside()
            self._begin_coefficients(torch.full_like(self.chosen, self.selector.r_max), generator)

    def observe(self, features: Tensor, labels: Tensor) -> None:
        if self.stage == "estimate" and self.estimates is not None:
            self.estimates.observe(features, labels)

    def on_step(self, generator: torch.Generator) -> None:
        self.columns = None
        if self.stage == "preliminary":
            if self.estimates is not None:
                self.estimates.observe_gradients(
                    [p for group in self.groups() for p in group.parameters]
                )
            drawn = self.selector.draw(self.task.told_apart, generator)
            self.columns = drawn.expand(len(self.model.sites), -1)

    def factors(self, query: Tensor | None = None) -> list[Factors]:
        if self.sketch is not None:
            return self.sketch.factors()
        if self.settings.inference == "latest" and not self.factorized.busy:
            bases, cores = self.factorized.bases(), self.latest.unbind()
            return [Factors(A, C, B) for (A, B), C in zip(bases, cores, strict=True)]
        return self.factorized.factors(self.columns if self.training else None)

    def prompts(self, query: Tensor | None) -> Prompts | None:
        return Prompts(self.P) if self.settings.prompt.tokens else None

    def groups(self) -> list[Group]:
        if self.stage in ("head", "gradient") or not self.adapts(self.task.index):
            return []
        f, settings = self.factorized, self.settings
        if f.learning_bases:
            lr, lr_v = settings.bases.lr, settings.bases.lr_v
            groups = [Group([*f.U], lr), Group([*f.V], lr_v or lr)]
        else:
            groups = [Group([f.M, f.N], settings.lr)]
        if settings.prompt.tokens and self.P.requires_grad:
            groups.append(Group([self.P], settings.prompt.lr, decay=False))
        if self.stage == "preliminary" and settings.drs.learn_w:
            groups.append(Group([self.selector.theta], settings.drs.lr, decay=False))
        return groups

    def trained(self) -> int:
        f = self.factorized
        if f.learning_bases or self.stage != "train":
            return super().trained()
        whole, used = f.M.numel() + f.N.numel(), 2 * int(f.own.sum()) * int(self.chosen.sum())
        return super().trained() - whole + used

    def step(self, batch: StepBatch) -> Tensor:
        loss = super().step(batch)
        if self.stage == "preliminary":
            self.selector.observe(loss)
            if self.estimates is not None:
                self.estimates.observe_loss(loss)
        return loss

    def end_stage(self, stage: Stage, end: StageEnd) -> None:
        if self.moments is not None:
            found = self.moments.take(self.add_up)
            self.factorized.start_in([top_inputs(of, self.factorized.R) for of in found])
            self.moments = None
        if self.sketch is not None:
            self.add_up([p.grad for p in self.sketch.parameters() if p.grad is not None])
            found, self.sketch = self.sketch.triples(), None
            if self.factorized.learning_bases:
                self.factorized.start_in([B for _, _, B in found])
            else:
                self._set_bases(found)
        if stage.name == "estimate" and self.estimates is not None:
            self.estimates.end_observing()
        if stage.name == "preliminary":
            assert end.held_out_loss is not None  # the stage holds images out
            self.columns = None
            self.H.copy_(self.selector.complexity(end.held_out_loss, self.task.told_apart))
            ranks, probabilities = self.selector.choose(self.H)
            self.chosen = ranks.expand(len(self.model.sites)).clone()
            self.probabilities.copy_(probabilities)
            if self.aside is not None:
                self._bring_back()
            elif stage.probe:
                self.P.data.copy_(self.P_before)
                self._begin_coefficients(self.chosen, end.generator)
            else:
                self.factorized.keep_columns(self.chosen)

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        f = self.factorized
        record = {"M": f.M.clone(), "N": f.N.clone(), "H": self.H.clone()}
        if self._makes_bases():
            self._make_bases()
            self.chosen.fill_(f.R)
            own = f.core.clone()
        else:
            self.starts = shares_of_starts(f.sides())
            own = f.end_coefficients()
        if self.adapts(self.task.index):
            self.latest = own
        if self.task.index == 0:
            for site, (A, B) in zip(self.model.sites, f.bases(), strict=True):
                record |= {f"A.{site.name}": A.clone(), f"B.{site.name}": B.clone()}
        if self.estimates is not None:
            record |= self.estimates.record()
        record |= self.starts
        record |= {
            "own_core": own.clone(),
            "core": f.core.clone(),
            "prompts": self.P.clone(),
            "rank": self.chosen.clone(),
            "probabilities": self.probabilities.clone(),
            "candidates": self.selector.ranks.clone(),
            "w": self.selector.w().clone(),
            "cost": self.selector.cost.clone(),
            "tau": self.selector.tau.clone(),
        }
        self.selector.end_task()
        return record

    def kept(self) -> int:
        f = self.factorized
        bases = f.bases()
        if self.settings.bases.shared:
            bases = [bases[group[0]] for group in self._like()]
        return f.core.numel() + sum(A.numel() + B.numel() for A, B in bases) + self.P.numel()

    def _makes_bases(self) -> bool:
        """Whether this task's LoRA becomes the bases."""
        return self.task.index == 0 and self.settings.bases.source == "first-task"

    def _make_bases(self) -> None:
        """Once: where the selector is on, its probe needs them before the task ends."""
        if self.factorized.learning_bases:
            self.starts = shares_of_starts(self.factorized.sides())
            self.factorized.make_bases()
            self._share_bases()

    @torch.no_grad()
    def _put_aside(self) -> None:
        """Have task 1 probed as every later task is: coefficients over its bases, which are made
        for it, from where the model stood before the task."""
        self._make_bases()
        self.aside = self.factorized.core.clone(), self.P.detach().clone()
        self.factorized.core.zero_()
        self.P.copy_(self.P_before)
        self.P.requires_grad_(not self.settings.prompt.freeze_after_first)

    @torch.no_grad()
    def _bring_back(self) -> None:
        """What `_put_aside` put aside."""
        assert self.aside is not None
        self.factorized.drop_coefficients()
        for kept, now in zip(self.aside, (self.factorized.core, self.P), strict=True):
            now.copy_(kept)
        self.aside = None

    def _begin_coefficients(self, ranks: Tensor, generator: torch.Generator) -> None:
        self.factorized.begin_coefficients(ranks, generator, self._own_directions())

    def _own_directions(self) -> Tensor | None:
        """The basis directions that this task may write into; None for all."""
        if self.settings.directions == "all":
            return None
        drs, R = self.settings.drs, self.factorized.R
        width = min(self.selector.r_max if drs.enabled else self.settings.rank, R)
        return (self.task.index * width + torch.arange(width)) % R

    def _set_bases(self, triples: list[Triple]) -> None:
        self.factorized.set_bases(triples)
        self._share_bases()

    def _share_bases(self) -> None:
        f = self.factorized
        if self.settings.bases.shared:
            own = [(A, C, B) for (A, B), C in zip(f.bases(), f.core.clone(), strict=True)]
            f.set_bases(shared(own, self._like(), f.R))

    def _like(self) -> list[list[int]]:
        """The sites of each layer, over the blocks."""
        layers: dict[str, list[int]] = {}
        for i, site in enumerate(self.model.sites):
            layer = ".".join(part for part in site.name.split(".") if not part.isdigit())
            layers.setdefault(layer, []).append(i)
        return list(layers.values())

    def _fixed_ranks(self) -> Tensor:
        return torch.full((len(self.model.sites),), min(self.settings.rank, self.factorized.R))
