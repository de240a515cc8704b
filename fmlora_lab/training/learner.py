"""What a run trains: a tower, a method and heads, as one thing."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fmlora_lab.backbone.device import compute_type, onto
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.benchmarks.stream import Images, Task
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.heads import TRAINED, Banks, Text, TrainedHead, trained_head
from fmlora_lab.heads.banks import some
from fmlora_lab.methods.method import Batch
from fmlora_lab.methods.registry import build
from fmlora_lab.training.distributed import Ranks
from fmlora_lab.training.feature_watch import FeatureWatch

EVALUATION_BATCH = 128
"""Images a forward pass of evaluation: small enough to stay in cache."""


TRAINED_HEAD = "trained"
"""The name in results of the head that was trained, linear or cosine; of two towers that of the
classifier of texts, which changes with them."""


class Answers(NamedTuple):
    """Of a task's n test images: features (n, d), labels (n,), and by head the class (n,) that it
    says, among all classes seen and among the task's own, the task given.

    Of a method that infers tasks, `inferred` (n,) says whether it is right, and `among_given` has
    what heads say among the task's own classes of features with the right task's update.
    """

    features: Tensor
    labels: Tensor
    among_all: dict[str, Tensor]
    among_own: dict[str, Tensor]
    among_given: dict[str, Tensor]
    inferred: Tensor | None

    def right(self) -> dict[str, int]:
        """Right answers of every head."""
        return {name: int((said == self.labels).sum()) for name, said in self.among_all.items()}

    def right_within(self) -> dict[str, int]:
        """The same with the task given."""
        return {name: int((said == self.labels).sum()) for name, said in self.among_own.items()}

    def right_given(self) -> dict[str, int]:
        """The same with the right task's update; nothing of a method that infers no tasks."""
        return {name: int((said == self.labels).sum()) for name, said in self.among_given.items()}

    def right_tasks(self) -> dict[str, int]:
        """How many images' tasks were inferred right; nothing of a method that infers none."""
        return {} if self.inferred is None else {"task": int(self.inferred.sum())}


class Learner:
    """Tower, method, trained head and banks of one run, on one device; of a run on several, each
    has one."""

    def __init__(
        self,
        config: RunConfig,
        model: Tower,
        n_classes: int,
        device: torch.device,
        ranks: Ranks | None = None,
        texts: Sequence[Sequence[str]] = (),
    ):
        """`texts` are those of each class, for a model that reads them. BadInput where the method
        cannot adapt such a one."""
        self.config, self.device, self.ranks = config, device, ranks or Ranks()
        self.model = model.to(device)
        self.method = build(config.method, self.model).to(device)
        if self.ranks.size > 1:
            self.method.whole, self.method.add_up = self.ranks.whole, self.ranks.add_up
        self.method.eval()
        if model.reads_text:
            self._refuse()
            self.texts = [model.tokens(of_class).to(device) for of_class in texts]
            self.head: Text | TrainedHead = Text(model.width, n_classes).to(device)
        else:
            self.head = trained_head(config.training.head, model.width, n_classes).to(device)
        self.banks = Banks(model.width, n_classes, config.heads).to(device)
        self.watch = FeatureWatch(model.width).to(device)
        self._asked: dict[int, tuple[Images, Tensor]] = {}

    def _refuse(self) -> None:
        """BadInput for what has no meaning where classes are told by texts."""
        name, head = self.config.method.name, self.config.training.head
        if self.method.infers_tasks:
            raise BadInput(
                f"{name} infers the task of each image, and a text has none to infer: it adapts no "
                f"model of two towers such as {self.config.backbone.name}"
            )
        if head in TRAINED and head != "linear":
            raise BadInput(
                f"training.head is {head!r}, but {self.config.backbone.name} tells classes by "
                "their texts; leave the setting out, or name a head that keeps statistics"
            )

    def parts(self) -> dict[str, nn.Module]:
        return {
            "method": self.method,
            "head": self.head,
            "banks": self.banks,
            "watch": self.watch,
        }

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes, by name."""
        return {
            f"{part}.{name}": tensor
            for part, module in self.parts().items()
            for name, tensor in module.state_dict().items()
        }

    def load_state(self, state: dict[str, Tensor], parts: Collection[str] | None = None) -> None:
        """Take back what `state` gave, whatever shapes the parameters had then; all parts or these.

        BadInput for a tensor that was not there yet when the state was stored.
        """
        for part, module in self.parts().items():
            if parts is not None and part not in parts:
                continue
            for name in module.state_dict():
                key = f"{part}.{name}"
                if key not in state:
                    raise BadInput(
                        f"the stored state has no {key!r}, which this run would have today; "
                        "compute it anew after `fmlora-lab runs delete`"
                    )
                assign(module, name, state[key].to(self.device))

    def features(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) on the device to features (B, d), with the method's present update."""
        return self._forward(pixels)[0]

    def loss(self, images: Images, query: Tensor | None = None) -> Tensor:
        """The method's mean loss over the classes that it tells apart, or this process's part of
        it.

        `query` (B, d), where the method needs one and it is known already.
        """
        with self.ranks.sharing(len(images)) as (own, share):
            if self.ranks.size > 1:
                images, query = images[own], None if query is None else query[own]
            features, query = self._forward(images.pixels, query)
            told = self._paired if self.model.reads_text else self._told_apart
            told_apart = told(features, onto(self.device, images.labels))
            loss = self.method.loss(Batch(features, *told_apart, query, share))
        if not isinstance(loss, Tensor) or loss.ndim:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            name = self.config.method.name
            raise BadInput(f"{name}.loss gives {found}; allowed: a tensor of one number")
        return loss if share == 1 else share * loss

    def _paired(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, B) of the batch's images with its texts, the first of each class, and
        shares."""
        tokens = torch.stack([self.texts[k][0] for k in labels.tolist()])
        with compute_type(self.device, self.config.training.precision):
            texts = self.model.text_features(tokens)
        features, texts, labels = map(self.ranks.whole, (features, texts, labels))
        shares = (labels[:, None] == labels).float()
        return self.model.scale * features @ texts.T, shares / shares.sum(1, keepdim=True)

    @torch.inference_mode()
    def read_texts(self) -> None:
        """Have the head know what the text tower says of every class now: the mean of its texts'
        features, of length s."""
        if not self.model.reads_text:
            return
        self._fold()
        tokens = torch.cat(self.texts)
        with compute_type(self.device, self.config.training.precision):
            parts = [self.model.text_features(some) for some in tokens.split(EVALUATION_BATCH)]
        means = [own.mean(0) for own in torch.cat(parts).split([len(own) for own in self.texts])]
        self.head.weight.copy_(
            self.model.scale * nn.functional.normalize(torch.stack(means), dim=-1)
        )

    def _told_apart(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits over the task's classes or over all seen, and labels among these."""
        own = labels - self.head.classes.start
        if self.config.training.loss_over == "task":
            return self.head.task_logits(features), own
        logits = self.head.seen_logits(features)
        return logits, own + logits.shape[1] - len(self.head.classes)

    def seen_before(self, classes: range) -> int:
        """How many classes of earlier tasks the loss over a task of `classes` looks at: labels
        count in the order of arrival, and domains bring all classes at once."""
        return 0 if self.config.training.loss_over == "task" else classes.start

    @torch.inference_mode()
    def queries(self, images: Images) -> Tensor:
        """The frozen backbone's features (n, d) of images as they are."""

        def found(part: Tensor) -> Tensor:
            x = self.model.pixels_in(images[part].pixels.to(self.device))
            with compute_type(self.device, self.config.training.precision):
                return self.model.frozen_features(x)

        parts = torch.arange(len(images)).split(EVALUATION_BATCH)
        return torch.cat([*self.ranks.each(parts, self.model.width, found)])

    @torch.inference_mode()
    def mean_loss(self, images: Images) -> float:
        """Mean cross-entropy over the classes that the loss tells apart, without augmentation."""
        total = 0.0
        self.read_texts()
        for features, labels in self.in_batches(images):
            logits, labels = self._told_apart(features, labels)
            total += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        return total / len(images)

    @torch.inference_mode()
    def in_batches(self, images: Images, queries: Tensor | None = None):
        """Yield (features, labels) for inference, every effective weight formed once; of images
        whose `queries` (n, d) are known without a pass for these."""
        folded, parts = self._fold(), torch.arange(len(images)).split(EVALUATION_BATCH)

        def found(part: Tensor) -> Tensor:
            batch = images[onto(images.labels.device, part)]
            query = None if queries is None else queries[part]
            return self._forward(batch.pixels, query, folded)[0]

        labels = images.labels.split(EVALUATION_BATCH)
        for features, own in zip(
            self.ranks.each(parts, self.model.width, found), labels, strict=True
        ):
            yield features, onto(self.device, own)

    @torch.inference_mode()
    def observed(self, images: Images) -> Iterator[tuple[Tensor, Tensor]]:
        """`in_batches` for a method that watches its sites: texts pass with their images."""
        for number, (features, labels) in enumerate(self.in_batches(images)):
            if self.model.reads_text and number % self.ranks.size == self.ranks.rank:
                self._paired(features, labels)
            yield features, labels

    def _fold(self) -> bool:
        """Form every effective weight, unless a query of the images has a say in the update."""
        if self.method.needs_query:
            return False
        self.model.set_update(self.method.factors(), None)
        with compute_type(self.device, self.config.training.precision):
            self.model.fold()
        return True

    @torch.no_grad()
    def inference_flops(self) -> int:
        """Floating-point operations of predicting one image, a query's pass included."""
        blank = torch.zeros(1, 3, self.model.image_size, self.model.image_size, dtype=torch.uint8)
        folded = self._fold()
        with FlopCounterMode(display=False) as counter:
            self.head(self._forward(blank, folded=folded)[0])
        return counter.get_total_flops()

    def features_of(self, images: Images, queries: Tensor | None = None) -> Tensor:
        """Features (n, d) of images as they are, with the method's present update."""
        return torch.cat([features for features, _ in self.in_batches(images, queries)])

    def begin_banks(self, images: Images) -> None:
        """Remember where a new task's features are before it moves them."""
        self.banks.begin_task(
            self.features_of(images[torch.arange(len(images))[some(len(images))]])
        )

    def fill_banks(self, images: Images) -> None:
        """Let every bank take in the images of a task that just ended."""
        labels = images.labels.to(self.device)
        self.watch.carry(self.banks.end_task(self.features_of(images), labels))

    @torch.inference_mode()
    def correct(self, images: Images) -> int:
        """Right answers of the trained head."""
        self.read_texts()
        found = self.in_batches(images)
        return sum(int((self.head(f).argmax(1) == labels).sum()) for f, labels in found)

    @torch.inference_mode()
    def answer(self, task: Task) -> Answers:
        """What every head answers to a task's test images, all from the same features."""
        queries = self._queries_of(task.test) if self.method.needs_query else None
        features = self.features_of(task.test, queries)
        labels = task.test.labels.to(self.device)
        among_all, among_own = self._said(features, task.classes)
        if not self.method.infers_tasks:
            return Answers(features, labels, among_all, among_own, {}, None)
        inferred = self.method.tasks_of(self._queries_of(task.test)) == task.index
        self.method.given = task.index
        _, among_given = self._said(self.features_of(task.test, queries), task.classes)
        self.method.given = None
        return Answers(features, labels, among_all, among_own, among_given, inferred)

    def _queries_of(self, tested: Images) -> Tensor:
        """The frozen backbone does not change: what it says of test images, after every task the
        same ones, is asked once."""
        if id(tested) not in self._asked:
            self._asked[id(tested)] = tested, self.queries(tested)
        return self._asked[id(tested)][1]

    def zero_shot(self, task: Task) -> tuple[int, int]:
        """Right answers to a task's test images by their texts, of the backbone alone, without a
        prompt that nothing has trained yet: with the task given, and among all classes."""
        labels = task.test.labels.to(self.device)
        among_all, among_own = self._said(self.queries(task.test), task.classes)
        given, unknown = (
            int((said[TRAINED_HEAD] == labels).sum()) for said in (among_own, among_all)
        )
        return given, unknown

    def _said(
        self, features: Tensor, classes: range
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """By head, what it says (n,) of features (n, d): among all classes, and among these."""
        own = slice(classes.start, classes.stop)
        among_all, among_own = {}, {}
        for part in features.split(EVALUATION_BATCH):
            for name, scores in {TRAINED_HEAD: self.head(part), **self.banks(part)}.items():
                among_all.setdefault(name, []).append(scores.argmax(1))
                among_own.setdefault(name, []).append(scores[:, own].argmax(1) + own.start)
        return (
            {name: torch.cat(found) for name, found in among_all.items()},
            {name: torch.cat(found) for name, found in among_own.items()},
        )

    def kept_by_head(self) -> dict[str, int]:
        return {TRAINED_HEAD: self.head.kept(), **self.banks.kept()}

    @torch.no_grad()
    def merge(self) -> tuple[dict[str, Tensor], Tensor | None]:
        """A plain timm state dict with the classifier as `head`, and the prompts (m, d) if any; of
        two towers the network's own, which needs no classifier.

        Where there are no prompts, `timm.create_model(name, num_classes=K)` alone loads it and
        gives the same logits. Rows are the classes in the stream's order. BadInput for a cosine
        head, which timm has not.
        """
        if self.head.name not in ("linear", Text.name):
            raise BadInput(
                f"training.head is {self.head.name!r}, which a plain timm model cannot express"
            )
        if self.method.needs_query:
            raise BadInput(
                f"{self.config.method.name} chooses prompts or update by a query of each image, "
                "which a plain timm model cannot express"
            )
        prompts = self.method.prompts(None)
        factors = self.method.factors()
        if any(update is not None and update.by_input for update in factors):
            raise BadInput(
                f"{self.config.method.name} chooses its update by the image, which a plain timm "
                "model cannot express"
            )
        self.model.set_update(factors, prompts)
        state = self.model.merge()
        if isinstance(self.head, TrainedHead):
            state |= {"head.weight": self.head.weight.clone(), "head.bias": self.head.bias.clone()}
        tokens = None if prompts is None else prompts.tokens
        return state, None if tokens is None else tokens.clone()

    def _forward(
        self, pixels: Tensor, query: Tensor | None = None, folded: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Features and query (B, d) with the method's present update, unless it is `folded` in
        already, and the prompts for the query."""
        x = self.model.pixels_in(onto(self.device, pixels))
        with compute_type(self.device, self.config.training.precision):
            if query is None and self.method.needs_query:
                query = self.model.frozen_features(x)
        if not folded:  # outside autocast, in which factors would be formed in its type
            self.model.set_update(self.method.factors(query), None)
        with compute_type(self.device, self.config.training.precision):
            self.model.set_prompts(self.method.prompts(query))
            return self.model.features(x), query


def assign(module: nn.Module, name: str, value: Tensor) -> None:
    """Set a parameter or buffer: in place where the shape is the same, else replaced."""
    *path, leaf = name.split(".")
    owner = module.get_submodule(".".join(path))
    old = getattr(owner, leaf)
    if old.ndim == 0:
        value = value.reshape(())  # in a file a scalar is an array of one number
    if old.shape == value.shape:
        old.data.copy_(value)
    elif isinstance(old, nn.Parameter):
        setattr(owner, leaf, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        setattr(owner, leaf, value)
