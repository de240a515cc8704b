"""What a user registered, for another process to know it too: methods, heads and backbones of
modules that the lab does not import by itself."""

import sys
from collections.abc import Iterable
from typing import Any

from fmlora_lab.backbone.tower import TOWERS
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.heads.head import BANKS, TRAINED
from fmlora_lab.methods.registry import METHODS

MAIN = "__main__"


def modules_to_import(configs: Iterable[RunConfig], by_script: bool) -> list[str]:
    """Modules that register what is known here, in which another process finds it.

    `by_script`: whether that process has run this one's script, as worker processes have. BadInput
    for what these configurations need and no other process can import: of a notebook's cell, and
    of a script where none has run it.
    """
    configs = list(configs)
    known: dict[str, dict[str, Any]] = {
        "method": dict(METHODS),
        "head": {**TRAINED, **BANKS},
        "backbone": {name: loader.load for name, loader in TOWERS.items()},
    }
    needed = {
        "method": {config.method.name for config in configs},
        "head": {config.training.head for config in configs} | BANKS.keys(),
        "backbone": {config.backbone.name.partition(":")[0] for config in configs},
    }
    if not (by_script and hasattr(sys.modules[MAIN], "__file__")):
        for kind, registered in known.items():
            for name in needed[kind] & registered.keys():
                if registered[name].__module__ == MAIN:
                    raise BadInput(
                        f"{kind} {name!r} is of this notebook or script, which other processes "
                        "cannot import: put it into a module and import that, or compute with "
                        "on='here'"
                    )
    everything = (thing for registered in known.values() for thing in registered.values())
    return sorted({thing.__module__ for thing in everything} - {MAIN})
