"""What a run is: a frozen, validated configuration. Nothing here imports torch.

Every wrong value is refused with one sentence that names the field, the value and what is
allowed, before anything is loaded.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
)

FORMAT = 3
"""Raised when the meaning of a stored run changes, a changed default included, since a run's name
leaves defaults out; part of every run's name."""


FAMILIES = ("FM-LoRA", "low-rank", "prompts", "references")
"""The families of methods, in the order of tables. A newcomer's own family comes after them."""


class MethodLabel(NamedTuple):
    """What readers of stored runs know of a method. It is kept with each run."""

    title: str
    family: str
    updates: str | None = None
    """How a task's record holds its low-rank updates: "factors" (U and V of every site), "cores"
    (R × R, in bases that the first task's record has), or None."""
    one_task: bool = False
    """Whether it sees the whole stream at once, which continual learning forbids."""


METHOD_LABELS: dict[str, MethodLabel] = {}
"""Every method's label by its name: of those that are registered, and of those whose stored runs
were opened, so that readers need neither torch nor the method."""


def title_of(name: str) -> str:
    """A method's name for readers; any other name as it is."""
    return METHOD_LABELS[name].title if name in METHOD_LABELS else name


class BadInput(ValueError):
    """A user's value or file cannot be used. The message is one sentence for that user."""

    def _render_traceback_(self) -> list[str]:
        """How IPython shows it: the sentence alone."""
        return [str(self)]


def some(names: Sequence[str], limit: int = 5, between: str = ", ") -> str:
    """For a message: the first of many names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return between.join(names[:limit]) + more


class Settings(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


CUT = re.compile(r"B(\d+)[-_ ]?Inc(\d+)", re.IGNORECASE)
"""Classes of the first task and of each further one, in the field's notation."""


def _tasks(value: Any) -> int | str | tuple[int, ...]:
    """One of the three ways to say how classes are cut; the notation as the field writes it."""
    if isinstance(value, str) and (cut := CUT.fullmatch(value.strip())) and int(cut[2]):
        return f"B{int(cut[1])}-Inc{int(cut[2])}"
    if type(value) is int and value >= 1:
        return value
    if isinstance(value, list | tuple) and value and all(type(n) is int and n > 0 for n in value):
        return tuple(value)
    raise ValueError("allowed: a number of tasks, B50-Inc10, or a list of each task's classes")


def _order(value: Any) -> str | tuple[str | int, ...]:
    if isinstance(value, list | tuple) and value and all(type(v) in (str, int) for v in value):
        return tuple(value)
    if isinstance(value, str | Path) and str(value):
        return str(value)
    raise ValueError("allowed: drawn, natural, a published order, a list of names, or a file")


def _domain_order(value: Any) -> int | str | tuple[str | int, ...]:
    if type(value) is int or str(value) in ("1", "2"):
        if int(value) in (1, 2):
            return int(value)
        raise ValueError("allowed: 1, 2, drawn, natural, a list of names, or a file")
    return _order(value)


Tasks = Annotated[int | str | tuple[int, ...], BeforeValidator(_tasks)]
Order = Annotated[str | tuple[str | int, ...], BeforeValidator(_order)]


class Glyphs(Settings):
    """The embedded benchmark: renditions of 100 characters, class-incremental."""

    name: Literal["glyphs"] = "glyphs"
    tasks: Tasks = 10
    """Number of tasks, or B50-Inc10, or the number of classes of each task."""
    order: Order = "drawn"
    """Of the classes: drawn by `order_seed`, natural, pilot-1993, a list, or a file."""
    train_images: int = Field(default=36, ge=1)
    """Training images a class."""
    test_images: int = Field(default=16, ge=1)
    """Test images a class, drawn from a family of typefaces that training never sees."""


class GlyphDomains(Settings):
    """The embedded domain-incremental stream: the same characters in six rendering styles."""

    name: Literal["glyph-domains"] = "glyph-domains"
    order: Order = "drawn"
    """Of the styles: drawn by `order_seed`, natural, a list, or a file."""
    train_images: int = Field(default=10, ge=1)
    """Training images a class and domain."""
    test_images: int = Field(default=8, ge=1)
    """Test images a class and domain, drawn from a family of typefaces that training never sees."""


class Folder(Settings):
    """Images of one's own by class: `<data>/{train,test}/<class>/*`, `<data>/<class>/*`, or a CSV
    of paths and labels."""

    name: Literal["folder"] = "folder"
    data: Path
    """The folder that holds `train` and `test`, or the classes; or a CSV."""
    test_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of every class that is held out for testing, by `data_seed`, where nothing is split."""
    tasks: Tasks = 10
    """Number of tasks, or B50-Inc10, or the number of classes of each task."""
    order: Order = "drawn"
    """Of the classes: drawn by `order_seed`, natural (by name), pilot-1993, a list, or a file."""
    train_images: int | None = Field(default=None, ge=1)
    """At most this many training images a class, drawn with `data_seed`; all by default."""
    test_images: int | None = Field(default=None, ge=1)
    """At most this many test images a class."""


class Domains(Settings):
    """Images of one's own by domain: `<data>/<domain>/<class>/*`, `<data>/<domain>/{train,test}/
    <class>/*`, or a CSV of paths, labels and domains. Domain-incremental."""

    name: Literal["domains"] = "domains"
    data: Path
    """The folder that holds the domains, or a CSV."""
    order: Order = "drawn"
    """Of the domains: drawn by `order_seed`, natural (by name), a list, or a file."""
    test_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of every class of every domain that is held out for testing, by `data_seed`, where
    nothing is split."""
    train_images: int | None = Field(default=None, ge=1)
    """At most this many training images a class and domain."""
    test_images: int | None = Field(default=None, ge=1)
    """At most this many test images a class and domain."""


class Hub(Settings):
    """A real benchmark from the Hugging Face hub; `fmlora-lab data list` shows them."""

    name: Literal["hub"] = "hub"
    dataset: Literal["cifar100", "imagenet-r", "cub-200", "domainnet"]
    data: Path | None = None
    """A folder with the dataset's parquet files, in the place of the hub."""
    scenario: Literal["class-incremental", "domain-incremental"] = "class-incremental"
    """Cut by classes, or one task a domain; only domainnet has domains."""
    tasks: Tasks = 10
    """Where classes are cut: number of tasks, or B50-Inc10, or the number of classes of each."""
    order: Order = "drawn"
    """Of classes (or domains): drawn by `order_seed`, natural, pilot-1993, a list, or a file."""
    train_images: int | None = Field(default=None, ge=1)
    """At most this many training images a class (and domain), drawn with `data_seed`."""
    test_images: int | None = Field(default=None, ge=1)
    """At most this many test images a class (and domain)."""


DomainOrder = Annotated[int | str | tuple[str | int, ...], BeforeValidator(_domain_order)]


class GlyphScripts(Settings):
    """The embedded stream of a model of two towers: six scripts, each with characters of its own
    whose texts are their Unicode names."""

    name: Literal["glyph-scripts"] = "glyph-scripts"
    order: DomainOrder = 1
    """Of the scripts: 1 or 2, drawn by `order_seed`, natural, a list, or a file."""
    train_images: int = Field(default=16, ge=1)
    """Training images a class."""
    test_images: int = Field(default=12, ge=1)
    """Test images a class, drawn from a family of typefaces that training never sees."""
    task: Literal["given", "unknown"] = "unknown"
    """Whether a test image is told apart from its own script's classes, or from all scripts'. Runs
    measure both; this says which one Transfer, Average and Last are of."""


class Mtil(Settings):
    """Data sets one after another: `<data>/<dataset>/{train,test}/<class>/*`, each with classes and
    texts of its own. MTIL with the task given, X-TAIL with it unknown."""

    name: Literal["mtil"] = "mtil"
    data: Path
    """The folder that holds the data sets."""
    order: DomainOrder = 1
    """Of the data sets: 1 (alphabetical) or 2, as published; drawn, natural, a list, or a file."""
    train_images: int | None = Field(default=5, ge=1)
    """Training images a class, drawn with `data_seed`; null for all."""
    test_images: int | None = Field(default=None, ge=1)
    """At most this many test images a class."""
    task: Literal["given", "unknown"] = "given"
    """Whether a test image is told apart from its own data set's classes, or from all. Runs measure
    both; this says which one Transfer, Average and Last are of."""


Benchmark = Annotated[
    Glyphs | GlyphDomains | GlyphScripts | Folder | Domains | Mtil | Hub,
    Field(discriminator="name"),
]


class Backbone(Settings):
    """The pre-trained network that every method adapts."""

    name: str = "glyphs-vit"
    """`glyphs-vit` or, with a text tower, `glyphs-clip`, which ship with the lab; the full tag of a
    timm ViT; or a model of open_clip as `open_clip:MODEL`, with the hub's weights
    `open_clip:MODEL/TAG`."""
    weights: Path | None = None
    """A local weight file, safetensors, PyTorch's or JAX's, in names that are known (docs/data.md);
    else `glyphs-vit`'s own or timm's hub."""
    image_size: int | None = Field(default=None, ge=8)
    """Side of the input in pixels, a multiple of the patch's; the position grid is resampled to it.
    Default: the model's."""


class Training(Settings):
    """What is the same for every method of a comparison."""

    epochs: int = Field(default=6, ge=1)
    """Epochs a task."""
    iterations: int | None = Field(default=None, ge=1)
    """Steps a task, in the place of epochs, of which there are then as many as these need."""
    batch_size: int = Field(default=64, ge=1)
    lr_head: float = Field(default=3e-3, gt=0)
    """Learning rate of the classifier's rows."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay; never on prompts, selector weights and biases."""
    augmentation: Literal["none", "shift", "crop-flip", "crop"] = "shift"
    """`shift`: up to a sixteenth of the side; `crop`: RandomResizedCrop; `crop-flip`: that and
    mirror."""
    crop_scale: float = Field(default=0.08, gt=0, le=1)
    """Smallest share of the area that a crop keeps."""
    augment_once: bool = False
    """Every image is augmented once and stays so in all epochs, as few-shot protocols have it."""
    head: str = "linear"
    """The head that ranks this run: a trained one (`linear`, `cosine`) or one that keeps
    statistics of the classes (`means`, `lda`, `ridge`, and each `-carried`), beside which `linear`
    is trained. The matrices of all heads are stored whichever it is."""
    loss_over: Literal["task", "seen"] = "task"
    """Classes among which the loss tells images apart: the task's own, or all seen so far (the
    rows of earlier ones stay as they are). With one class a task it is always `seen`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 where the hardware has it. A run's name has the type that it came to."""

    known_heads: ClassVar[set[str]] = set()
    """Filled as heads are registered."""

    @field_validator("head")
    @classmethod
    def _known_head(cls, value: str) -> str:
        if value not in cls.known_heads:
            raise ValueError(f"allowed: {', '.join(sorted(cls.known_heads))}")
        return value


class Heads(Settings):
    """The heads that keep statistics of the classes instead of being trained; every run has all of
    them. docs/method.md, section 10."""

    random_features: int = Field(default=2000, ge=1)
    """M of the ridge head; RanPAC has 10,000."""
    shrinkage: float | None = Field(default=None, gt=0, le=1)
    """s of the LDA head; by default the one with the least leave-one-out error on each task."""
    ridge: float | None = Field(default=None, gt=0)
    """λ of the ridge head in units of G's mean diagonal; by default chosen as s is."""
    per_domain: bool = False
    """Of a class that comes again in another domain: a mean (and Gaussian) a domain, not one over
    all."""


class MethodSettings(Settings):
    """Base of every method's settings. A subclass is known by the default of its `name`."""

    known: ClassVar[dict[str, type["MethodSettings"]]] = {}
    name: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        name = cls.model_fields["name"].default
        if isinstance(name, str):
            known = MethodSettings.known.setdefault(name, cls)
            if known.__module__ != cls.__module__:
                raise BadInput(
                    f"{known.__module__} has a method {name!r} already; give the one of "
                    f"{cls.__module__} another name"
                )
            MethodSettings.known[name] = cls  # a cell that is run again


class RunConfig(Settings):
    """One method on one stream with one seed."""

    benchmark: Benchmark = Glyphs()
    backbone: Backbone = Backbone()
    method: SerializeAsAny[MethodSettings]
    training: Training = Training()
    heads: Heads = Heads()
    seed: int = Field(default=0, ge=0)
    """Training: initial values, order of the batches, augmentation."""
    order_seed: int = Field(default=0, ge=0)
    """Order of the classes (or domains), where `benchmark.order` does not fix it."""
    data_seed: int = Field(default=0, ge=0)
    """Which images: subsets and splits; for Glyphs the drawing itself."""
    evaluate_on: Literal["test", "validation"] = "test"
    """`validation`: the benchmark's validation images, or a quarter of each class's training images
    where it has none, take the place of the test images, which are not read; for choosing
    settings."""
    measure_ahead: bool = False
    """Also test tasks that are yet to come: the cells of the accuracy matrix above its diagonal,
    from which transfer is counted."""

    @field_validator("method", mode="before")
    @classmethod
    def _known_method(cls, value: Any) -> Any:
        if isinstance(value, MethodSettings):
            return value
        if isinstance(value, str):
            value = {"name": value}
        name = value.get("name") if isinstance(value, dict) else value
        if not isinstance(name, str) or name not in MethodSettings.known:
            raise ValueError(f"allowed: {', '.join(sorted(MethodSettings.known))}")
        try:
            return MethodSettings.known[name].model_validate(value)
        except ValidationError as error:
            known = MethodSettings.known[name]
            raise ValueError(explain(error, known, "method.")) from error

    def identity(self, data: str, weights: str) -> dict[str, Any]:
        """What changes the result: the non-default fields, with content in the place of paths.

        `data` and `weights` are fingerprints of the images and of the weight file.
        """
        fields = self.model_dump(mode="json", exclude_defaults=True)
        for part in ("benchmark", "method"):
            fields.setdefault(part, {})["name"] = getattr(self, part).name
        for field in ("data", "task"):  # where it lies, and which of two measures is looked at
            fields["benchmark"].pop(field, None)
        fields.setdefault("backbone", {}).pop("weights", None)
        return {"format": FORMAT, **fields, "data": data, "weights": weights}

    def run_id(self, data: str, weights: str) -> str:
        """A run's name: 16 hexadecimal digits of the hash of `identity`."""
        text = json.dumps(self.identity(data, weights), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def validated(settings: dict[str, Any] | str) -> RunConfig:
    """A whole configuration, as a dictionary or as JSON. BadInput names what is wrong with it."""
    try:
        if isinstance(settings, str):
            return RunConfig.model_validate_json(settings)
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        raise BadInput(explain(error)) from error


PARTS = {"backbone": Backbone, "training": Training, "heads": Heads}
"""What has settings of its own, beside the method and the benchmark."""

PLAINLY = {
    "tuple_type": "input should be a list",
    "path_type": "input should be a path",
    "too_short": "input should have at least one item",
}
"""What pydantic says in Python's own words."""

BENCHMARKS = {kind.model_fields["name"].default: kind for kind in get_args(get_args(Benchmark)[0])}
"""The settings of each kind of benchmark by its name."""


def explain(error: ValidationError, refusing: type[Settings] = RunConfig, prefix: str = "") -> str:
    """What pydantic refused of `refusing`, in one sentence, field by field: the field, its value
    and what is allowed, or which settings there are in the place of one that is not there."""
    said = []
    for e in error.errors():
        loc = e["loc"]
        kind = loc[1:2] if loc[:1] == ("benchmark",) else ()  # pydantic's word for which it is
        named = loc[:1] + loc[2:] if {*kind} & BENCHMARKS.keys() else loc
        where = prefix + ".".join(map(str, named)) or "''"
        value, message = e["input"], e["msg"].removeprefix("Value error, ")
        if message.startswith("method."):
            said.append(message)
        elif e["type"] == "extra_forbidden":
            said.append(f"{where} is no setting of {_lacking(where, refusing, loc)}")
        elif e["type"] == "missing":
            said.append(f"{where} must be given")
        elif e["type"] in ("model_type", "model_attributes_type"):
            said.append(f"{where} is {value!r}; it has settings, each given as {where}.NAME")
        elif e["type"].startswith("union_tag"):
            name, known = value.get("name"), ", ".join(sorted(BENCHMARKS))
            said.append(f"{where}.name is {name!r}; allowed: {known}")
        else:
            if loc == ("method",):
                value = value.get("name", value) if isinstance(value, dict) else value
                where = "method.name"
            message = PLAINLY.get(e["type"], message)
            said.append(f"{where} is {value!r}; {message[0].lower()}{message[1:]}")
    return "; ".join(said)


def _lacking(where: str, refusing: type[Settings], loc: tuple[int | str, ...]) -> str:
    """Who has no such setting, and what it has."""
    found: Any = refusing
    for part in loc[:-1]:
        found = BENCHMARKS.get(str(part)) or found.model_fields[str(part)].annotation
    who = _chosen_as(found) or where.rpartition(".")[0] or "a run"
    if not (names := settings_of(found)):
        return f"{who}, which has none"
    return f"{who}; its settings: {', '.join(names)}{_meant(where)}"


def _meant(name: str) -> str:
    """Where a setting stands that was given without its part."""
    parts = {
        "method": MethodSettings.known.values(),
        "benchmark": BENCHMARKS.values(),
        **{part: (kind,) for part, kind in PARTS.items()},
    }
    found = [
        f"{p}.{name}" for p, kinds in parts.items() if any(name in settings_of(k) for k in kinds)
    ]
    return f"; it may be {' or '.join(found)}" if found else ""


def settings_of(kind: type[Settings]) -> list[str]:
    """The settings of a part of a configuration, as they are written, without the name by which
    the part was chosen."""
    chosen = _chosen_as(kind) is not None
    fields = kind.model_fields.items()
    return [f.alias or name for name, f in fields if not (chosen and name == "name")]


def _chosen_as(kind: type[Settings]) -> str | None:
    """The name that chooses this method or benchmark; None of what is no choice among others."""
    name = kind.model_fields.get("name")
    return None if name is None or kind is Backbone else name.default
