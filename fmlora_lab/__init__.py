"""FM-LoRA Lab: continual learning with low-rank adapters on Vision Transformers.

A run is a validated configuration; its result is a folder; a notebook asks for runs and draws
what is in their folders:

    from fmlora_lab import RunConfig, run, runs, sweep

`runs` and `Run` read stored runs without importing torch; the other names bring it, with the
methods, when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fmlora_lab.runs.store import Run, runs

if TYPE_CHECKING:
    from fmlora_lab.config import RunConfig
    from fmlora_lab.profiles import configure
    from fmlora_lab.runs.run import restore, run
    from fmlora_lab.runs.sweep import sweep

__all__ = ["Run", "RunConfig", "configure", "restore", "run", "runs", "sweep"]

_HOMES = {
    "RunConfig": "fmlora_lab.config",
    "configure": "fmlora_lab.profiles",
    "restore": "fmlora_lab.runs.run",
    "run": "fmlora_lab.runs.run",
    "sweep": "fmlora_lab.runs.sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fmlora_lab' has no attribute {name!r}")
    import_module("fmlora_lab.methods")  # a configuration names a method: all must be known
    return getattr(import_module(_HOMES[name]), name)
