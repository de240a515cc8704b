"""`bench`: how fast the lab is on this machine."""

import json
from importlib import import_module
from typing import Annotated

import typer

from fmlora_lab.cli.options import AsJson, ImageSize, Quiet, Weights
from fmlora_lab.config import Backbone, BadInput

app = typer.Typer(rich_markup_mode=None)


@app.command("bench")
def bench_command(
    what: Annotated[str, typer.Argument(help="training, explorers, names or busy.")] = "training",
    backbone: Annotated[str, typer.Option(help="glyphs-vit or a timm ViT's tag.")] = "glyphs-vit",
    weights: Weights = None,
    image_size: ImageSize = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 10,
    moves: Annotated[int, typer.Option(min=1, help="Moves of each explorer's controls.")] = 60,
    images: Annotated[int, typer.Option(min=200, help="Images of the named folder.")] = 30_000,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Speed of training and inference, as ratios to a frozen backbone's; of the explorers; of
    asking for the names of runs; or of runs beside one another."""
    asked = Backbone(name=backbone, weights=weights, image_size=image_size)
    every = {
        "training": ("steps", asked, batch_size, repeats),
        "explorers": ("explorers", moves),
        "names": ("names", images),
        "busy": ("busy", repeats),
    }
    if what not in every:
        raise BadInput(f"bench is {what!r}; allowed: {', '.join(every)}")
    name, *given = every[what]
    measured = import_module(f"fmlora_lab.perf.{name}")
    found = measured.bench(*given)
    print(json.dumps(found) if as_json else measured.to_text(found))
