"""A run's name, from what is remembered: no model is built and no image is read for it.

Data and weights enter a name by fingerprints of their content. These are noted when content is
read, under path, size and modification time of the files; `run` checks them again when it reads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import timm

from fmlora_lab.backbone.device import pick_device, resolved
from fmlora_lab.backbone.tower import Tower, weight_file
from fmlora_lab.backbone.vit import load_tower
from fmlora_lab.benchmarks import Known, classes_are_cut, cut_of, known
from fmlora_lab.benchmarks.cut import sizes
from fmlora_lab.config import Backbone, GlyphScripts, Mtil, RunConfig
from fmlora_lab.files import remember, remembered, stamp
from fmlora_lab.methods.registry import METHODS


class TowerFacts(NamedTuple):
    """Of a configured backbone."""

    fingerprint: str
    image_size: int


def identity(config: RunConfig) -> str:
    """The run's name: 16 hexadecimal digits. BadInput for images or weights that are not there."""
    facts = tower_facts(config.backbone)
    found = images_known(config, facts.image_size)
    return settled(config, found.names).run_id(found.fingerprint, facts.fingerprint)


def images_known(config: RunConfig, image_size: int) -> Known:
    """What can be known of a run's images without reading them."""
    validation = config.evaluate_on == "validation"
    return known(config.benchmark, image_size, config.data_seed, validation)


def names_elsewhere(config: RunConfig) -> list[str]:
    """The run's name and, where its type is "auto", the other that it could have on a machine with
    other hardware."""
    own = identity(config)
    if config.training.precision != "auto":
        return [own]
    elsewhere = {"float32": "bfloat16", "bfloat16": "float32"}[resolved("auto", pick_device())]
    training = config.training.model_copy(update={"precision": elsewhere})
    return [own, identity(config.model_copy(update={"training": training}))]


def settled(config: RunConfig, names: Sequence[str]) -> RunConfig:
    """The configuration with what its stream, of classes or domains of these names, and this
    machine decide.

    "auto" is the type that it comes to: results differ between types. `tasks` and `order` stand in
    their plainest form, and an order that is not drawn has no seed. And where tasks after the first
    have one class, a loss over the task would be 0 whatever is learned, so it is taken over all
    classes seen. A method that sees all tasks as one, or trains no head, has no such loss. Of
    streams whose zero-shot transfer is the question, tasks ahead are measured too.
    """
    benchmark = cut_of(config.benchmark, names)
    decided = {"precision": resolved(config.training.precision, pick_device())}
    method = METHODS[config.method.name]
    has_loss = method.ranked_by == "trained" and not method.record.one_task
    if has_loss and classes_are_cut(benchmark) and 1 in sizes(benchmark.tasks, len(names))[1:]:
        decided["loss_over"] = "seen"
    training = config.training.model_copy(update=decided)
    found = {"benchmark": benchmark, "training": training}
    if isinstance(benchmark, GlyphScripts | Mtil):
        found["measure_ahead"] = True
    if benchmark.order != "drawn":
        found["order_seed"] = 0
    return config.model_copy(update=found)


_asked: dict[str, TowerFacts] = {}


def tower_facts(backbone: Backbone) -> TowerFacts:
    """As remembered, or of the backbone, loaded once."""
    key = _key(backbone)
    if str(key) not in _asked:
        found = remembered(key, lambda: list(facts_of(load_tower(backbone))))
        _asked[str(key)] = TowerFacts(*found)
    return _asked[str(key)]


def facts_of(tower: Tower) -> TowerFacts:
    return TowerFacts(tower.fingerprint, tower.image_size)


def check_tower(backbone: Backbone, tower: Tower) -> None:
    """Remember what was really loaded, in the place of what was known of it."""
    if tower_facts(backbone) != facts_of(tower):
        key = _key(backbone)
        _asked[str(key)] = facts_of(tower)
        remember(key, list(facts_of(tower)))


def _key(backbone: Backbone) -> list:
    """What tells other weights without reading them: the file, else the timm that fetches them."""
    file = weight_file(backbone)
    where = timm.__version__ if file is None else stamp(file)
    return ["tower", backbone.name, where, backbone.image_size]
