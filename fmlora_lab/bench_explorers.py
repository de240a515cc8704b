"""How long an explorer takes to open, and from a control's move to the new picture.

Measured in the process that draws: what a browser adds, sending the move and showing the picture,
is not in it.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from typing import Any

import numpy as np

MODULES = {"subspace_overlap": "overlap", "rank_choice": "ranks", "prompt_drift": "prompts"}
"""The explorers, and where in `fmlora_lab.explorers` each is."""
STOPS = 7
"""Places at which a slider stops, from its lowest value to its highest."""


def bench(moves: int) -> list[dict[str, Any]]:
    """Each explorer in a fresh process, as a notebook begins; the objects that `--json` prints."""
    found = []
    for name in MODULES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            found.append(fresh.submit(measure, name, moves).result())
    return found


def measure(name: str, moves: int) -> dict[str, Any]:
    """Import and open one explorer, then move its sliders in turn, each time to another value."""
    began = time.perf_counter()
    page = import_module(f"fmlora_lab.explorers.{MODULES[name]}").explorer()
    opened = time.perf_counter() - began
    sliders = [control for control in page.controls.values() if hasattr(control, "max")]
    seconds = []
    for k in range(1, moves + 1):
        slider = sliders[k % len(sliders)]
        stops = _stops(slider)
        value = stops[k // len(sliders) % STOPS]
        value = value if value != slider.value else stops[(k // len(sliders) + 1) % STOPS]
        began = time.perf_counter()
        slider.value = value
        page.wait()
        seconds.append(time.perf_counter() - began)
    median, high = np.percentile(seconds, [50, 95])
    return {
        "explorer": name,
        "moves": moves,
        "median_ms": round(1000 * median, 1),
        "p95_ms": round(1000 * high, 1),
        "open_ms": round(1000 * opened, 1),
    }


def to_text(found: list[dict[str, Any]]) -> str:
    """The measurements as a table."""
    lines = [f"{'':<17} {'moves':>5} {'median ms':>9} {'95% ms':>7} {'open ms':>8}"]
    lines += [
        f"{row['explorer']:<17} {row['moves']:>5} {row['median_ms']:>9.0f} {row['p95_ms']:>7.0f} "
        f"{row['open_ms']:>8.0f}"
        for row in found
    ]
    return "\n".join(lines)


def _stops(slider: Any) -> list[float]:
    """Values from the lowest to the highest; of a logarithmic slider its ends are exponents."""
    places = np.linspace(slider.min, slider.max, STOPS)
    if hasattr(slider, "base"):
        return (slider.base**places).tolist()
    return [type(slider.value)(place) for place in places]
