"""From a method's name to a whole configuration: profiles, tuned settings, overrides."""

import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from fmlora_lab.config import BadInput, RunConfig, explain

Preset = Literal["fair", "closed-form", "paper", "defaults"]

FOLDER = Path(__file__).parent
CLOSED = "chosen_closed_form"
"""In a log of trials, the choice by the best closed-form head."""


@cache
def profiles() -> dict[str, dict[str, Any]]:
    """Every profile by name, as its file in this folder says. Not to be changed."""
    return {
        name: tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))
        for name in sorted(file.stem for file in FOLDER.glob("*.toml"))
    }


def profile_named(name: str) -> dict[str, Any]:
    """One profile; BadInput if there is none of that name."""
    if name not in profiles():
        raise BadInput(f"profile is {name!r}; allowed: {', '.join(profiles())}")
    return profiles()[name]


@cache
def trials(profile: str) -> dict[str, Any]:
    """The tuning procedure's log under a profile, by method; empty where nothing was tuned. Not to
    be changed."""
    file = FOLDER / f"{profile}.trials.json"
    return json.loads(file.read_text("utf-8"))["methods"] if file.is_file() else {}


def configure(
    method: str = "fm-lora",
    benchmark: str = "glyphs",
    profile: str = "demo",
    overrides: Mapping[str, Any] | None = None,
    preset: Preset = "fair",
) -> RunConfig:
    """The configuration of `method` on `benchmark` under `profile`.

    `overrides` are dotted: `{"method.basis_rank": 32, "seed": 1}`. BadInput names a field that is
    not there or a value that is not allowed. `preset` says where the method's settings come from:
    `fair`, what the tuning procedure chose under this profile; `closed-form`, what it chose by the
    best closed-form head; `paper`, what its paper states (epochs, batch and optimiser stay the
    profile's); `defaults`, none of these.
    """
    for name, value in (("method", method), ("benchmark", benchmark), ("profile", profile)):
        if not isinstance(value, str):
            raise BadInput(f"{name} is {value!r}; allowed: one name")
    if preset not in get_args(Preset):
        raise BadInput(f"preset is {preset!r}; allowed: {', '.join(get_args(Preset))}")
    chosen = deepcopy(profile_named(profile))
    config: dict[str, Any] = {
        "benchmark": {"name": benchmark, **chosen.get("benchmarks", {}).get(benchmark, {})},
        "backbone": dict(chosen.get("backbone", {})),
        "method": {"name": method, **chosen.get("methods", {}).get(method, {})},
        "training": dict(chosen.get("training", {})),
        "heads": dict(chosen.get("heads", {})),
    }
    best: Mapping[str, Any] = {}
    if preset == "fair":
        best = chosen.get("tuned", {}).get(method, {})
    elif preset == "closed-form":
        best = _closed_form(profile, method)
    elif preset == "paper":
        from fmlora_lab.methods.registry import METHODS  # here, since it brings torch

        best = METHODS[method].record.paper if method in METHODS else {}
    for key, value in {**best, **dotted(overrides)}.items():
        set_dotted(config, key, value)
    try:
        return RunConfig.model_validate(config)
    except ValidationError as error:
        raise BadInput(explain(error)) from error


def _closed_form(profile: str, method: str) -> Mapping[str, Any]:
    """What was chosen by the best closed-form head. BadInput where only the other choice is
    known, which would stand for this one unseen."""
    log = trials(profile)
    known = {m: tried[CLOSED] for m, tried in log.items() if CLOSED in tried}
    if method in profile_named(profile).get("tuned", {}) and method not in known:
        there = f"; it has one for {', '.join(known)}" if known else ""
        raise BadInput(
            f"preset is 'closed-form', but profile {profile!r} has no choice by the closed-form "
            f"heads for {method}{there}; allowed: fair, paper, defaults"
        )
    return known.get(method, {})


def dotted(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Overrides, a setting each: what a dictionary of several gives stands by itself. BadInput for
    what has no dotted names, and for a setting that is given twice."""
    if overrides is None:
        return {}
    if not isinstance(overrides, Mapping) or not all(isinstance(key, str) for key in overrides):
        raise BadInput(
            f"overrides is {overrides!r}; allowed: a dictionary from dotted names to values, such "
            'as {"training.epochs": 8}'
        )
    found: dict[str, Any] = {}
    for key, value in _settings(overrides):
        if key in found:
            raise BadInput(f"{key} is given twice, once among several settings; allowed: once")
        found[key] = value
    return found


def _settings(given: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def stream_of(profile: str, stream: str) -> tuple[str, dict[str, Any]]:
    """A profile's stream: the benchmark's name and the overrides that go with it.

    Where the profile's images or weights are local files, they are looked for under
    $FMLORA_DATA; BadInput says what is missing there.
    """
    known = profile_named(profile)
    if stream not in known["streams"]:
        raise BadInput(
            f"profile {profile!r} has no stream {stream!r}; it has {', '.join(known['streams'])}"
        )
    chosen = dict(known["streams"][stream])
    name, root = chosen.pop("name"), os.environ.get("FMLORA_DATA")
    found = {f"benchmark.{key}": value for key, value in chosen.items()}
    if "data" in chosen:
        folder = Path(root or "$FMLORA_DATA") / chosen["data"]
        if not folder.is_dir():
            raise BadInput(
                f"profile {profile!r} needs {folder}/{{train,test}}/<class>/*; set FMLORA_DATA to "
                f"the folder that holds {chosen['data']}"
            )
        found["benchmark.data"] = folder
    weights = Path(root or "") / f"{known.get('backbone', {}).get('name')}.safetensors"
    if root and weights.is_file():
        found["backbone.weights"] = weights
    return name, found


def set_dotted(config: dict[str, Any], key: str, value: Any) -> None:
    """config["a"]["b"] = value for the key "a.b"; a dictionary adds to what is there."""
    for name, own in _settings({key: value}):
        at, (*path, leaf) = config, name.split(".")
        for part in path:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                raise BadInput(f"{name} is no setting: {part} has none of its own")
        if own != {} or not isinstance(at.get(leaf), dict):
            at[leaf] = own


def parse_assignment(text: str, option: str = "--set") -> tuple[str, Any]:
    """("a.b", value) from "a.b=value"; the value is JSON where it can be, else the text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        if option == "-p":
            raise BadInput(f"-p {text!r} has no value; allowed: -p NAME VALUE")
        raise BadInput(f"{option} {text!r} is no KEY=VALUE pair, such as method.basis_rank=32")
    return key, value_of(value)


def assignments(texts: Iterable[str], option: str) -> dict[str, Any]:
    """What an option was given, pair by pair; of a key that is there twice the last, as on command
    lines."""
    return dict(parse_assignment(text, option) for text in texts)


def value_of(text: str) -> Any:
    """JSON where it can be, else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
