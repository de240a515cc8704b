"""`bench`: how fast the lab is on this machine."""

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from fmlora_lab.cli.options import (
    AsJson,
    BackboneTag,
    BenchmarkName,
    Data,
    ImageSize,
    ProfileName,
    Quiet,
    Settings,
    Tasks,
    Weights,
    overrides_of,
)
from fmlora_lab.config import Backbone, BadInput

app = typer.Typer(rich_markup_mode=None)

KINDS = {
    "training": {"backbone", "weights", "image_size", "batch_size", "repeats", "compile"},
    "run": {"method", "benchmark", "data", "tasks", "profile", "backbone", "weights", "image_size",
            "set_", "figures_dir"},
    "explorers": {"moves"},
    "sweep-panel": {"repeats"},
    "runs-table": {"repeats"},
    "names": {"images"},
    "stored": {"runs"},
    "busy": {"repeats"},
    "gpu": {"backbone", "batch_size", "repeats"},
}  # fmt: skip
"""What can be measured, and the options that each takes beside those that ALL_TAKE."""
ALL_TAKE = ("what", "as_json", "quiet", "help")


@app.command("bench")
def bench_command(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help=f"{', '.join(KINDS)}.")] = "training",
    backbone: BackboneTag = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a step; 64, for gpu 128.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 10,
    moves: Annotated[int, typer.Option(min=1, help="Moves of each explorer's controls.")] = 60,
    images: Annotated[int, typer.Option(min=200, help="Images of the named folder.")] = 30_000,
    runs: Annotated[int, typer.Option(min=1, help="Stored runs that are listed.")] = 10_000,
    method: Annotated[str, typer.Option(help="Of the run; `methods` lists them.")] = "fm-lora",
    benchmark: BenchmarkName = "glyphs",
    data: Data = None,
    tasks: Tasks = None,
    profile: ProfileName = "demo",
    set_: Settings = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Steps of some kinds compiled too; for gpu always.")
    ] = False,
    figures_dir: Annotated[Path | None, typer.Option(help="Where the run's bar is drawn.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Speed of training and inference, as ratios to a frozen backbone's; where a run's time goes;
    of the explorers; of a sweep's panel and the table of runs; of asking for the names of runs; of
    lists of stored ones; of runs beside one another; or how well a GPU is used, with a ViT-B/16 of
    random weights unless told otherwise."""
    if what not in KINDS:
        raise BadInput(f"bench is {what!r}; allowed: {', '.join(KINDS)}")
    options = {p.name: p.opts[0] for p in context.command.params if p.name not in ALL_TAKE}
    for name, option in options.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in KINDS[what]:
            taken = ", ".join(said for key, said in options.items() if key in KINDS[what])
            raise BadInput(f"{option} is not for bench {what}; allowed: {taken}")
    asked = Backbone(name=backbone or Backbone().name, weights=weights, image_size=image_size)
    every = {
        "training": ("steps", asked, batch_size or 64, repeats, compile),
        "explorers": ("explorers", moves),
        "sweep-panel": ("sweep_panel", repeats),
        "runs-table": ("runs_table", repeats),
        "names": ("names", images),
        "stored": ("stored", runs),
        "busy": ("busy", repeats),
        "gpu": ("gpu", batch_size or 128, repeats, *([backbone] if backbone else [])),
    }
    if what == "run":
        from fmlora_lab import configure

        given = overrides_of(data, tasks, backbone, weights, image_size, set_)
        every["run"] = ("split", configure(method, benchmark, profile, given), figures_dir)
    name, *given = every[what]
    measured = import_module(f"fmlora_lab.perf.{name}")
    found = measured.bench(*given)
    print(json.dumps(found) if as_json else measured.to_text(found))
