"""What a method must say, and the registry.

A method says: its update at each site as factors (U, C, V), its prompts, its parameter groups,
how it spends its epochs, its loss if not the common one, and what it does when a task begins and
ends. The loop, the head, evaluation, checkpoints, logging and speed are the lab's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fmlora_lab.backbone.heads import Head
from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.vit import AdaptedViT, Prompts
from fmlora_lab.config import MethodSettings

Layer = Literal["attn.qkv", "attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2"]


class SiteSettings(MethodSettings):
    """Settings shared by methods that adapt sites."""

    layers: tuple[Layer, ...] = Field(("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"), min_length=1)
    """Which linear layers are adapted; `attn.q`, `attn.k`, `attn.v` are rows of the fused qkv."""
    blocks: tuple[int, ...] | None = None
    """Which blocks are adapted, counted from 0; all by default."""


@dataclass(frozen=True)
class TaskInfo:
    """What a method may know of a task before it sees its images."""

    index: int
    classes: range
    generator: torch.Generator
    """For this task's initial values, seeded by (seed, purpose, task)."""


@dataclass(frozen=True)
class Stage:
    """Some epochs over the current task's training images.

    With `hold_out`, that share of every class is kept back and its loss is measured when the
    stage ends. With `step=False`, gradients are summed over the stage and nothing is updated.
    After a `probe` the head's rows start anew, as if the stage had not been. With `observe`,
    nothing is learned: the images pass once, as they are, and the method's `observe` sees them.
    """

    name: str
    epochs: int
    hold_out: float = 0.0
    step: bool = True
    probe: bool = False
    observe: bool = False


@dataclass(frozen=True)
class Batch:
    """What a loss may look at: features (B, d), logits (B, k) of the task's classes, labels (B,)
    among them, and the query (B, d) of a method that `needs_query`."""

    features: Tensor
    logits: Tensor
    labels: Tensor
    query: Tensor | None


@dataclass(frozen=True)
class StageEnd:
    """What a stage found: the mean loss on the held-out images (None without), and a fresh
    generator for values that the method draws anew."""

    held_out_loss: float | None
    generator: torch.Generator


@dataclass(frozen=True)
class Group:
    """Parameters with a learning rate of their own; `decay` says whether weights decay."""

    parameters: list[nn.Parameter]
    lr: float
    decay: bool = True


class Method(nn.Module):
    """Base of all methods: adapts nothing, trains the head alone.

    Its state dict, whatever shapes it has at the moment, is all that a checkpoint keeps of it.
    It is in training mode during training steps and in evaluation mode otherwise.
    """

    one_task = False
    """True for a method that sees the whole stream as one task (joint training)."""
    predicts_by_means = False
    """True for a method that has no trained head and is ranked by class means."""
    published: ClassVar[dict[str, Any]] = {}
    """The paper's settings, dotted; `configure(..., preset="paper")` takes them."""
    needs_query = False
    """True for a method that chooses by the frozen backbone's features of each image; they cost a
    second forward pass without gradients."""

    def __init__(self, settings: MethodSettings, model: AdaptedViT):
        super().__init__()
        self.settings = settings
        # Held outside the module tree: the frozen backbone is no part of a method's state.
        object.__setattr__(self, "model", model)

    def begin_task(self, task: TaskInfo) -> None:
        """Make this task's parameters."""

    def stages(self, epochs: int) -> Iterator[Stage]:
        """How the task's epochs are spent; `epochs` is what the configuration grants."""
        yield Stage("train", epochs)

    def factors(self) -> list[Factors | None]:
        """The update at every site of the model, in its order; differentiable."""
        return [None] * len(self.model.sites)

    def prompts(self, query: Tensor | None) -> Prompts | None:
        """Tokens and prefixes; `query` (B, d) are the frozen features of the images at hand where
        the method `needs_query`, else None."""
        return None

    def groups(self) -> list[Group]:
        """What is trained now, without the head."""
        return []

    def trained(self) -> int:
        """How many numbers are trained now, without the head."""
        return sum(p.numel() for group in self.groups() for p in group.parameters)

    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        """Called before each stage; called again, before its state is restored, on resuming."""

    def on_step(self, generator: torch.Generator) -> None:
        """Called before each training step, with the epoch's generator for random choices."""

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss of a batch; by default cross-entropy over the task's classes."""
        return F.cross_entropy(batch.logits, batch.labels)

    def observe(self, features: Tensor, labels: Tensor) -> None:
        """A batch of an `observe` stage: features (B, d), labels (B,) among all classes."""

    def end_stage(self, stage: Stage, end: StageEnd) -> None:
        """Called after each stage."""

    def end_task(self) -> dict[str, Tensor]:
        """Freeze, merge or keep what the task leaves behind; return what analysis needs of it."""
        return {}

    def correct_head(self, head: Head, generator: torch.Generator) -> None:
        """Called when a task has ended; a method that keeps statistics of the classes may train
        the head on them."""

    def kept(self) -> int:
        """Numbers kept from task to task and needed at inference or to go on, without the head."""
        return 0


METHODS: dict[str, type[Method]] = {}
"""Every method by the name of its settings."""


def register(settings: type[MethodSettings]) -> Callable[[type[Method]], type[Method]]:
    """Make a method known by its settings' name: in `run`, the CLI, every table, the tests."""

    def enter(method: type[Method]) -> type[Method]:
        METHODS[settings.model_fields["name"].default] = method
        return method

    return enter


def build(settings: Any, model: AdaptedViT) -> Method:
    """The configured method on this model; sites are adapted where its settings name layers."""
    if isinstance(settings, SiteSettings):
        model.adapt(settings.layers, settings.blocks)
    return METHODS[settings.name](settings, model)
