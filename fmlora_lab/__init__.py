"""FM-LoRA Lab: continual learning with low-rank adapters on Vision Transformers.

A run is a validated configuration; its result is a folder; a notebook states a grid of runs, asks
for them, and draws what they say:

    from fmlora_lab import grid, sweep, plots

    found = sweep(grid("demo", method=["fm-lora", "lora"], tasks=[5, 10], order_seed=range(5)))

`load_runs` and `Run` read stored runs without importing torch; the other names bring it, with the
methods, when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fmlora_lab.runs.stored import Run, load_runs
from fmlora_lab.threads import bound_spin

if TYPE_CHECKING:
    from fmlora_lab.config import RunConfig
    from fmlora_lab.profiles import configure
    from fmlora_lab.render.publish import publish
    from fmlora_lab.runs.identity import identity
    from fmlora_lab.runs.run import restore, run
    from fmlora_lab.runs.sweep import grid, sweep

__all__ = ["Run", "RunConfig", "configure", "grid", "identity", "load_runs", "publish", "restore",
           "run", "sweep"]  # fmt: skip

_HOMES = {
    "RunConfig": "fmlora_lab.config",
    "configure": "fmlora_lab.profiles",
    "grid": "fmlora_lab.runs.sweep",
    "identity": "fmlora_lab.runs.identity",
    "publish": "fmlora_lab.render.publish",
    "restore": "fmlora_lab.runs.run",
    "run": "fmlora_lab.runs.run",
    "sweep": "fmlora_lab.runs.sweep",
}

bound_spin()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fmlora_lab' has no attribute {name!r}")
    import_module("fmlora_lab.methods.registry")  # a configuration names a method
    return getattr(import_module(_HOMES[name]), name)
