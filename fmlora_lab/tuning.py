"""The one procedure that chooses settings, the same for every method.

1. The images are the benchmark's validation images, or a quarter of each class's training images,
   kept back, where it has none (`evaluate_on = "validation"`); test images are never read. The
   orders of the classes, one by default, are not those reported.
2. Every method gets the same number of trials. The first is its defaults under the profile; the
   others are drawn without repetition from its record's space (the short one under a profile
   that says so), by a generator seeded with the method's name.
3. The trial with the highest Acc at the end of the stream wins, a mean over orders if several.

Joint training takes no part: it is no rival, but the reference that fixed the difficulty of the
benchmark. The log of all trials and the choice are one JSON file; a profile's own file has the
choice, for `configure`.
"""

import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmlora_lab import progress
from fmlora_lab.config import BadInput
from fmlora_lab.files import check_writable, write_atomically
from fmlora_lab.methods.registry import METHODS, in_order
from fmlora_lab.profiles import configure, profile_named
from fmlora_lab.runs.run import run

ORDER_SEED = 1000
"""First class order of the trials."""


def tune(
    out: Path,
    methods: Sequence[str] | None,
    profile: str,
    trials: int,
    runs_dir: Path | None,
    benchmark: str = "glyphs",
    given: Mapping[str, Any] | None = None,
    orders: int = 1,
) -> dict[str, Any]:
    """Run all trials (stored ones are loaded), write the log to `out` after each method.

    `given` are overrides that hold for every trial; what it sets is not searched. BadInput where
    `out` has trials of other settings, or is no such log.
    """
    unknown = set(methods or ()) - METHODS.keys()
    if unknown:
        raise BadInput(f"method is {unknown.pop()!r}; allowed: {', '.join(sorted(METHODS))}")
    given = given or {}
    asked = {"profile": profile, "benchmark": benchmark, "orders": orders}
    asked["given"] = {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}
    check_writable(out.parent)
    log = _log(out, asked)
    log["procedure"] = " ".join((__doc__ or "").split())
    for method in methods or [m for m in in_order() if METHODS[m].record.search]:
        tried = []
        drawn = draw(method, trials, profile, given)
        for settings in progress.bar(drawn, desc=f"tuning {method}", unit="trial", leave=False):
            results = []
            for order in range(ORDER_SEED, ORDER_SEED + orders):
                overrides = {"order_seed": order, "evaluate_on": "validation", **settings, **given}
                config = configure(method, benchmark, profile, overrides, preset="defaults")
                results.append(run(config, runs_dir).result)
            measured = ("acc", "learning_accuracy", "forgetting", "seconds")
            scores = {k: float(np.mean([r[k] for r in results])) for k in measured}
            tried.append({"settings": settings, **scores})
            progress.write(f"{method} {settings}: validation Acc {scores['acc']:.2f}%")
        best = max(tried, key=lambda trial: trial["acc"])
        log["methods"][method] = {"chosen": best["settings"], "trials": tried}
        text = json.dumps(log, indent=1) + "\n"
        write_atomically(out, lambda file, text=text: file.write(text.encode()))
    return log


def _log(out: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The log to go on with: of the trials at `out`, or a new one."""
    if not out.exists():
        return {"asked": asked, "methods": {}}
    try:
        log = json.loads(out.read_text("utf-8"))
        known = {"asked": asked, **log}["asked"]
        log["methods"].keys()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{out} is no log of `fmlora-lab tune`; give a file of its own") from error
    if known != asked:
        differ = ", ".join(key for key in asked if known.get(key) != asked[key])
        raise BadInput(f"{out} has trials of another {differ}; give a file of its own")
    return {**log, "asked": asked}


def draw(
    method: str, trials: int, profile: str = "demo", given: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The settings of each trial: the defaults, then distinct other points of the space, without
    what is `given`."""
    record = METHODS[method].record
    short = profile_named(profile).get("tuning") == "short"
    space = record.search_short if short else record.search
    space = {name: values for name, values in space.items() if name not in (given or {})}
    points = [
        dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())
    ]
    order = np.random.default_rng(zlib.crc32(method.encode())).permutation(len(points))
    drawn: list[dict[str, Any]] = [{}]
    default = configure(method, profile=profile, preset="defaults")
    for i in order:
        if configure(method, profile=profile, overrides=points[i], preset="defaults") != default:
            drawn.append(points[i])
    return drawn[:trials]
