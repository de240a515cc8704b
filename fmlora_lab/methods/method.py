"""What a method must say: its record, and what it does with a task.

A method says: its update at each site as factors (U, C, V), its prompts, its parameter groups,
how it spends its epochs, its loss and its step if not the common ones, and what it does when a
task begins and ends. The loop, the head, evaluation, checkpoints, logging and speed are the lab's.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.sites import Prompts
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.benchmarks.stream import Images
from fmlora_lab.config import METHOD_LABELS, BadInput, MethodLabel, MethodSettings
from fmlora_lab.heads import TrainedHead

Layer = Literal["attn.qkv", "attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2"]


def _each_once(blocks: tuple[int, ...]) -> tuple[int, ...]:
    if len({*blocks}) < len(blocks):
        raise ValueError("allowed: each block once")
    return blocks


Blocks = Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_each_once)]
"""Blocks of a backbone, counted from 0."""

Space = Mapping[str, Sequence[Any]]
"""Values to try of each dotted setting."""
HEAD_RATES: Space = {"training.lr_head": (5e-3, 1e-2, 2e-2)}
"""What is tuned for every method that trains a head."""


@dataclass(frozen=True)
class Record:
    """All that the lab knows of a method beyond its page: tables, figures, tuning, explorers and
    tests read it, and no other file knows a method's name."""

    name: str
    """That of its settings, by which it is asked for."""
    title: str
    """For readers."""
    family: str
    """One of `config.FAMILIES`, or a new one: colours and the order of tables go by it."""
    what: str
    """In one line, for lists."""
    source: str = ""
    """The paper: authors, title, venue, arXiv number."""
    since: str = ""
    """Year and month of the paper; newer methods stand first in their family."""
    paper: Mapping[str, Any] = field(default_factory=dict)
    """The paper's settings, dotted; `configure(..., preset="paper")` takes them."""
    search: Space = field(default_factory=dict)
    """What tuning may try; nothing for a method that is no rival."""
    search_short: Space = field(default_factory=dict)
    """The same where runs take minutes: the one rate that decides most."""
    updates: Literal["factors", "cores"] | None = None
    """How `end_task`'s record holds the task's low-rank update: see `config.MethodLabel`."""
    ships: tuple[str, ...] = ()
    """Arrays of that record that go with a run when it is shipped, since a reader opens them."""
    alike: bool = False
    """Its training steps all compute the same of other images, so that a CUDA device may record one
    and play it again: nothing that Python draws, counts or makes anew from step to step has a part
    in them, but in stages that say so."""
    one_task: bool = False
    """It sees the whole stream as one task: joint training, which is no rival."""


class SiteSettings(MethodSettings):
    """Settings shared by methods that adapt sites."""

    layers: tuple[Layer, ...] = Field(
        default=("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"), min_length=1
    )
    """Which linear layers are adapted; `attn.q`, `attn.k`, `attn.v` are rows of the fused qkv."""
    blocks: Blocks | None = None
    """Which blocks are adapted, counted from 0; all by default."""


@dataclass(frozen=True)
class TaskInfo:
    """What a method may know of a task before it sees its images."""

    index: int
    classes: range
    generator: torch.Generator
    """For this task's initial values, seeded by (seed, purpose, task)."""
    seen: int = 0
    """Classes of earlier tasks that the loss tells the task's own from; 0 for a loss over the
    task."""

    @property
    def told_apart(self) -> int:
        """Number of classes that the loss tells apart."""
        return self.seen + len(self.classes)


@dataclass(frozen=True)
class Stage:
    """Some epochs over the current task's training images.

    With `hold_out`, that share of every class is kept back and its loss is measured when the
    stage ends. With `step=False`, gradients are summed over the stage and nothing is updated.
    A `probe` only measures: the head's rows start anew in it and are afterwards what they were
    before, as if the stage had not been. No checkpoint falls inside it, so that a method may put
    aside in memory what it brings back. With `observe`, nothing is learned: the images pass once,
    as they are, and the method's `observe` sees them. `alike` is as in `Record`.
    """

    name: str
    epochs: int
    hold_out: float = 0.0
    step: bool = True
    probe: bool = False
    observe: bool = False
    alike: bool = True


@dataclass(frozen=True)
class Batch:
    """What a loss may look at: features (B, d), logits (B, k) of the classes that it tells apart,
    labels (B,) among them, and the query (B, d) of a method that `needs_query`. Of a run on several
    devices these are the images of one, whose mean has that `share` of the whole batch's.

    Of two towers, logits (B, B) are of images with the batch's texts, and labels (B, B) the shares
    in which texts belong to images, those of one class in equal shares; of the whole batch, on
    however many devices.
    """

    features: Float[Tensor, "B d"]
    logits: Float[Tensor, "B k"]
    labels: Int64[Tensor, "B"] | Float[Tensor, "B B"]
    query: Float[Tensor, "B d"] | None
    share: float = 1.0


def alone(tensors: Sequence[Tensor]) -> None:
    """What adds up where one process computes: nothing."""


@dataclass(frozen=True)
class StepBatch:
    """What a training step has: the batch's images, augmented, their query where it is known
    already, the method's mean loss of any of them, and the optimiser, None in a stage that only
    sums gradients. `loss` makes the update and the prompts anew each time it is called.

    Of a run on several devices `loss` gives one's part of the mean: its gradients, and whatever
    else comes of it, are to be added up, by `backward` or by `add_up`, in place.
    """

    images: Images
    query: Float[Tensor, "B d"] | None
    loss: Callable[[Images, Tensor | None], Tensor]
    optimizer: torch.optim.Optimizer | None
    add_up: Callable[[Sequence[Tensor]], None] = alone

    def backward(self, loss: Tensor, *others: Tensor) -> list[Tensor]:
        """Gradients of a loss for all that is trained. Returns the loss and `others`, detached;
        all of it is added up."""
        loss.backward()
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        found = [tensor.detach() for tensor in (loss, *others)]
        self.add_up([*found, *gradients])
        return found


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

    record: ClassVar[Record]
    model: Tower
    ranked_by = "trained"
    """The head that ranks it. Where this is one that keeps statistics, a head that it may have
    trained on the way is not in its results."""
    needs_query = False
    """True for a method that chooses by the frozen backbone's features of each image; they cost a
    second forward pass without gradients."""
    infers_tasks = False
    """True for a method that infers from the query which task an image is of (`tasks_of`), unless
    the task is `given`. Evaluation then says how often it is right, and what heads answer with the
    right task's update or prompt."""
    given: int | None = None
    """The number of the task of all images at hand, where whoever asks says it."""
    whole: Callable[[Tensor], Tensor] = staticmethod(lambda rows: rows)
    """Rows (b, ...) that images of a batch have, to those (B, ...) of all of the batch,
    differentiable. A run on several devices has b of them at hand; a method that compares a batch's
    images, or has them vote, asks for them all."""
    add_up: Callable[[Sequence[Tensor]], None] = staticmethod(alone)
    """Makes sums over the images at hand those over all of a stage's, in place."""

    def __init__(self, settings: MethodSettings, model: Tower):
        super().__init__()
        self.settings = settings
        # Held outside the module tree: the frozen backbone is no part of a method's state.
        object.__setattr__(self, "model", model)

    def begin_task(self, task: TaskInfo) -> None:
        """Make this task's parameters."""

    def adapts(self, task: int) -> bool:
        """Whether task number `task` (from 0) may move the features of images."""
        return True

    def stages(self, epochs: int) -> Iterator[Stage]:
        """How the task's epochs are spent; `epochs` is what the configuration grants."""
        yield Stage("train", epochs)

    def factors(self, query: Tensor | None = None) -> Sequence[Factors | None]:
        """The update at every site of the model, in its order; differentiable.

        `query` as for `prompts`: a method that infers the task of an image from it gives each
        image its own columns (`Factors.columns`).
        """
        return [None] * len(self.model.sites)

    def prompts(self, query: Tensor | None) -> Prompts | None:
        """Tokens and prefixes; `query` (B, d) are the frozen features of the images at hand where
        the method `needs_query`, else None."""
        return None

    def groups(self) -> list[Group]:
        """What is trained now, without the head."""
        return []

    def tasks_of(self, query: Float[Tensor, "B d"]) -> Int64[Tensor, "B"]:
        """The number of the task, among those that ended, that each image is taken to be of."""
        raise NotImplementedError

    def tasks_in_use(self, query: Float[Tensor, "B d"], ended: int) -> Int64[Tensor, "B"]:
        """The task whose part of the method each image gets, of those that `ended`: the given one
        if it is among them, else the one that `tasks_of` infers."""
        if self.given is None or self.given >= ended:
            return self.tasks_of(query)
        return torch.full((len(query),), self.given, device=query.device)

    def trained(self) -> int:
        """How many numbers are trained now, without the head."""
        return sum(p.numel() for group in self.groups() for p in group.parameters)

    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        """Called before each stage; called again, before its state is restored, on resuming."""

    def on_step(self, generator: torch.Generator) -> None:
        """Called before each training step, with the epoch's generator for random choices."""

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss of a batch; by default cross-entropy over the classes it tells apart, of two
        towers both ways: CLIP's (Radford et al. 2021, arXiv 2103.00020, figure 3)."""
        loss = F.cross_entropy(batch.logits, batch.labels)
        if batch.labels.ndim == 2:
            loss = (loss + F.cross_entropy(batch.logits.T, batch.labels.T)) / 2
        return loss

    def step(self, batch: StepBatch) -> Tensor:
        """One training step: forward, backward, update; returns the mean loss, detached.

        A method that projects gradients, takes a batch in halves or thresholds its numbers after
        the update does it here.
        """
        loss = batch.loss(batch.images, batch.query)
        if batch.optimizer is not None:
            batch.optimizer.zero_grad()
        (found,) = batch.backward(loss)
        if batch.optimizer is not None:
            batch.optimizer.step()
        return found

    def observe(self, features: Tensor, labels: Tensor) -> None:
        """A batch of an `observe` stage: features (B, d), labels (B,) among all classes."""

    def end_stage(self, stage: Stage, end: StageEnd) -> None:
        """Called after each stage."""

    def end_task(self) -> dict[str, Tensor]:
        """Freeze, merge or keep what the task leaves behind; return what analysis needs of it."""
        return {}

    def correct_head(self, head: TrainedHead, generator: torch.Generator) -> None:
        """Called when a task has ended; a method that keeps statistics of the classes may train
        the head on them."""

    def kept(self) -> int:
        """Numbers kept from task to task and needed at inference or to go on, besides one backbone
        and the head: an update that is merged into the weights takes no room of its own."""
        return 0


METHODS: dict[str, type[Method]] = {}
"""Every method by the name of its settings; `registry` has the lab's own in it."""


M = TypeVar("M", bound=Method)


def register(settings: type[MethodSettings], **record: Any) -> Callable[[type[M]], type[M]]:
    """Make a method known by its settings' name: in `run`, the command line, tables, tests.

    `record` are the fields of its `Record`. BadInput for settings without a name, and for
    a month that is none.
    """
    name, since = settings.model_fields["name"].default, record.get("since", "")
    if not isinstance(name, str):
        raise BadInput(f'{settings.__name__} has no name; allowed: name: Literal["mine"] = "mine"')
    if not re.fullmatch(r"(\d{4}-\d{2})?", since):
        raise BadInput(f"since of {name!r} is {since!r}; allowed: a year and a month, 2026-11")

    def enter(method: type[M]) -> type[M]:
        method.record = own = Record(name, **record)
        METHODS[name] = method
        METHOD_LABELS[name] = MethodLabel(own.title, own.family, own.updates, own.one_task)
        return method

    return enter


def build(settings: Any, model: Tower) -> Method:
    """The configured method on this model; sites are adapted where its settings name layers.

    A site whose weight is among the method's own parameters is one that it merges updates into.
    """
    if isinstance(settings, SiteSettings):
        model.adapt(settings.layers, settings.blocks)
    method = METHODS[settings.name](settings, model)
    own = {id(parameter) for parameter in method.parameters()}
    for site in model.sites:
        site.merged = id(site.weight) in own
    return method
