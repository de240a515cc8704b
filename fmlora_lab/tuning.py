"""The one procedure that chooses settings, the same for every method.

1. The images are a quarter of each class's training images, kept back (`evaluate_on =
   "validation"`); test images are never read. The order of the classes is not the one reported.
2. Every method gets the same number of trials. The first is its defaults under the profile; the
   others are drawn without repetition from its space (SPACES, or REAL under the profile of real
   images), by a generator seeded with the method's name.
3. The trial with the highest Acc at the end of the stream wins.

Joint training takes no part: it is no rival, but the reference that fixed the difficulty of the
benchmark. The log of all trials and the choice are one JSON file; `configure` reads the choice
from there.
"""

import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmlora_lab.config import BadInput
from fmlora_lab.files import write_atomically
from fmlora_lab.methods import METHODS
from fmlora_lab.profiles import configure
from fmlora_lab.runs.run import run

RATES = (5e-4, 1e-3, 2e-3, 4e-3)
PROMPT_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
HEAD = {"training.lr_head": (5e-3, 1e-2, 2e-2)}
SPACES: dict[str, dict[str, Sequence[Any]]] = {
    "fm-lora": {
        **HEAD,
        "method.lr": RATES,
        "method.bases.lr": (1e-4, 3e-4, 1e-3),
        "method.basis_rank": (16, 32),
        "method.prompt.lr": (1e-3, 3e-3),
    },
    "lora": {**HEAD, "method.lr": RATES, "method.rank": (4, 8, 16)},
    "full": {**HEAD, "method.lr": (3e-5, 1e-4, 3e-4)},
    "sd-lora": {
        **HEAD,
        "method.lr": RATES,
        "method.lr_magnitudes": (1e-3, 1e-2),
        "method.rank": (4, 8, 16),
    },
    "inflora": {
        **HEAD,
        "method.lr": RATES,
        "method.rank": (4, 8, 16),
        "method.threshold": (0.9, 0.95, 0.98),
    },
    "l2p": {**HEAD, "method.lr": PROMPT_RATES, "method.read": ("prompts", "cls")},
    "dualprompt": {**HEAD, "method.lr": PROMPT_RATES, "method.match": (0.1, 1.0)},
    "coda-prompt": {**HEAD, "method.lr": PROMPT_RATES, "method.length": (8, 16)},
    "hide-prompt": {**HEAD, "method.lr": PROMPT_RATES, "method.contrast": (0.0, 0.01, 0.1)},
    "linear-probe": {"training.lr_head": (2e-3, 5e-3, 1e-2, 2e-2, 4e-2)},
}
"""What may be tuned for each method; a method that is not here has nothing to tune."""
STEPS = (1e-4, 3e-4, 1e-3)
REAL: dict[str, dict[str, Sequence[Any]]] = {
    "fm-lora": {"method.bases.lr": STEPS},
    **{name: {"method.lr": STEPS} for name in ("lora", "sd-lora", "inflora")},
    "full": {"method.lr": (1e-5, 3e-5, 1e-4)},
    **{
        name: {"method.lr": (1e-3, 3e-3, 1e-2)}
        for name in ("l2p", "dualprompt", "coda-prompt", "hide-prompt")
    },
    "linear-probe": {"training.lr_head": (2e-3, 5e-3, 1e-2)},
}
"""For `cifar100-tiny`, whose runs take minutes: each method's one rate that decides most."""
ORDER_SEED = 1000
"""Class order of the trials."""


def tune(
    out: Path,
    methods: Sequence[str] | None,
    profile: str,
    trials: int,
    runs_dir: Path | None,
    benchmark: str = "glyphs",
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run all trials (stored ones are loaded), write the log to `out` after each method.

    `given` are overrides that hold for every trial, such as where images and weights are.
    """
    unknown = set(methods or ()) - METHODS.keys()
    if unknown:
        raise BadInput(f"method is {unknown.pop()!r}; allowed: {', '.join(sorted(METHODS))}")
    log = json.loads(out.read_text("utf-8")) if out.exists() else {"methods": {}}
    log["procedure"] = " ".join((__doc__ or "").split())
    for method in methods or SPACES:
        tried = []
        for settings in draw(method, trials, profile):
            overrides = {"order_seed": ORDER_SEED, "evaluate_on": "validation", **settings}
            overrides |= given or {}
            config = configure(method, benchmark, profile, overrides, preset="defaults")
            result = run(config, runs_dir).result
            scores = {k: result[k] for k in ("acc", "learning_accuracy", "forgetting", "seconds")}
            tried.append({"settings": settings, **scores})
            print(f"{method} {settings}: validation Acc {result['acc']:.2f}%")
        best = max(tried, key=lambda trial: trial["acc"])
        log["methods"][method] = {"chosen": best["settings"], "trials": tried}
        text = json.dumps(log, indent=1) + "\n"
        write_atomically(out, lambda file, text=text: file.write(text.encode()))
    return log


def draw(method: str, trials: int, profile: str = "demo") -> list[dict[str, Any]]:
    """The settings of each trial: the defaults, then distinct other points of the space."""
    space = (REAL if profile == "cifar100-tiny" else SPACES).get(method, {})
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
