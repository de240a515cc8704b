"""Options that several commands have, and the overrides that they stand for."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from fmlora_lab import progress
from fmlora_lab.config import BadInput

RunsDir = Annotated[
    Path | None, typer.Option(help="Where runs are stored; default $FMLORA_RUNS, else ./runs.")
]
BenchmarkName = Annotated[
    str,
    typer.Option(help="glyphs, glyph-domains, glyph-scripts, folder, domains, mtil or hub."),
]
Data = Annotated[Path | None, typer.Option(help="Root of one's own images, or a .csv of them.")]
Tasks = Annotated[
    str | None, typer.Option(help="Number of tasks, B50-Inc10, or a list: '[5,1,1]'.")
]
ProfileName = Annotated[str, typer.Option(help="A profile by name.")]
BackboneTag = Annotated[
    str | None,
    typer.Option(help="glyphs-vit, glyphs-clip, a timm ViT's tag, or open_clip:MODEL."),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="A local weight file: safetensors, .pth, .pt, .bin, .ckpt or JAX's .npz."),
]
ImageSize = Annotated[int | None, typer.Option(help="Side of the input in pixels.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE, such as method.basis_rank=32.")
]
FiguresDir = Annotated[Path, typer.Option(help="Where figures go.")]
NotebooksDir = Annotated[
    Path | None, typer.Option(help="Where notebooks are; default ./notebooks, else the lab's own.")
]

On = Annotated[
    str | None, typer.Option(help="Where runs are computed: here, processes, slurm; or $FMLORA_ON.")
]
OfSlurm = Annotated[
    list[str] | None,
    typer.Option("--slurm", help="KEY=VALUE of sbatch, such as partition=gpu or time=4:00:00."),
]


def _quieten(asked: bool) -> bool:
    if asked:
        progress.quieten()
    return asked


Quiet = Annotated[
    bool,
    typer.Option("--quiet", callback=_quieten, help="No bars, no lines but results and errors."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def overrides_of(
    data: Path | None = None,
    tasks: str | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    image_size: int | None = None,
    settings: list[str] | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """The overrides that these options stand for, without those left out."""
    from fmlora_lab.profiles import assignments, dotted, value_of

    given = {
        "benchmark.data": data,
        "benchmark.tasks": None if tasks is None else value_of(tasks),
        "backbone.name": backbone,
        "backbone.weights": weights,
        "backbone.image_size": image_size,
        "seed": seed,
    }
    given = {key: value for key, value in given.items() if value is not None}
    own = dotted(assignments(settings or [], "--set"))
    for key in given.keys() & own.keys():
        raise BadInput(f"{key} is given twice, by an option of its own and by --set; allowed: once")
    return given | own


def tell_untuned(profile: str, methods: Iterable[str], preset: str | None) -> None:
    """Say which methods have defaults beside others' tuned settings."""
    from fmlora_lab.methods.registry import METHODS
    from fmlora_lab.profiles import profile_named

    tuned = profile_named(profile).get("tuned", {})
    own = [m for m in methods if m in METHODS and METHODS[m].record.search and m not in tuned]
    if tuned and own and preset in (None, "fair"):
        have = "has its" if len(own) == 1 else "have their"
        progress.say(f"{', '.join(own)} {have} defaults: not tuned under profile {profile!r}")


def tell_slurm(given: list[str] | None, on: str | None) -> None:
    """Have these options of sbatch, KEY=VALUE, for sweeps of this process and those it starts,
    beyond those of $FMLORA_SLURM. BadInput where they are not computed `on` Slurm."""
    if given:
        from fmlora_lab.profiles import assignments
        from fmlora_lab.runs.slurm import told  # here, since it brings torch

        if (on or os.environ.get("FMLORA_ON")) != "slurm":
            raise BadInput(f"--slurm is {given[0]!r}; it is for --on slurm")
        os.environ["FMLORA_SLURM"] = json.dumps({**told(), **assignments(given, "--slurm")})
