"""`render`, `compare`, `report`, `ship`, `examples`: from runs to what is shown of them."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from fmlora_lab.cli import options
from fmlora_lab.config import BadInput

app = typer.Typer(rich_markup_mode=None)

FIGURES = Path("figures")


@app.command("render")
def render_command(
    notebooks: Annotated[list[str], typer.Argument(help="Notebooks by name, or `all`.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME VALUE", help="A notebook's parameter."),
    ] = None,
    runs_dir: options.RunsDir = None,
    figures_dir: options.FiguresDir = FIGURES,
    notebooks_dir: options.NotebooksDir = None,
    missing_only: Annotated[
        bool, typer.Option("--missing-only", help="Leave out what was rendered before.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute also the runs that came with the lab.")
    ] = False,
    on: options.On = None,
    slurm: options.OfSlurm = None,
    quiet: options.Quiet = False,
) -> None:
    """Execute notebooks with papermill; figures, tables and the executed copy go to figures/."""
    from fmlora_lab.profiles import assignments
    from fmlora_lab.runs.sweep import launcher

    values = assignments(parameter or [], "-p")
    options.tell_slurm(slurm, on)
    if on is not None:
        launcher(on)  # which refuses what is unknown
        os.environ["FMLORA_ON"] = on  # for the notebooks' processes
    _render(notebooks, values, runs_dir, figures_dir, notebooks_dir, missing_only, fresh)


@app.command("compare")
def compare_command(
    methods: Annotated[
        list[str] | None, typer.Argument(help="Methods; all by default.", show_default=False)
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="By name, as in `run`; default the profile's own stream.")
    ] = None,
    data: options.Data = None,
    tasks: options.Tasks = None,
    orders: Annotated[
        int | None, typer.Option(min=1, help="Class orders, from 0 on; 5 by default.")
    ] = None,
    profile: options.ProfileName = "demo",
    preset: Annotated[
        str | None, typer.Option(help="fair (tuned), closed-form, paper or defaults.")
    ] = None,
    backbone: options.BackboneTag = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    set_: options.Settings = None,
    stored: Annotated[
        str | None,
        typer.Option(help="Train nothing: a collection that came with the lab, a folder, a zip."),
    ] = None,
    runs_dir: options.RunsDir = None,
    figures_dir: options.FiguresDir = FIGURES,
    notebooks_dir: options.NotebooksDir = None,
    quiet: options.Quiet = False,
) -> None:
    """Every method on one stream, by notebook 30: table, and figures of what accuracy costs."""
    overrides = options.overrides_of(data, tasks, backbone, weights, image_size, set_)
    for name in sorted({"method", "method.name", "order_seed"} & overrides.keys()):
        raise BadInput(f"{name} is what compare goes over; allowed: method names, and --orders")
    if stored is not None:
        from fmlora_lab import load_runs
        from fmlora_lab.runs.archive import collections

        there = {run.method_name for run in load_runs(collections().get(stored, stored))}
        for name in methods or ():
            if name not in there:
                raise BadInput(
                    f"{stored} has no runs of {name!r}; it has {', '.join(sorted(there))}"
                )
        asked = {"--orders": orders, "--benchmark": benchmark, "--preset": preset, **overrides}
        if unused := [name for name, value in asked.items() if value is not None]:
            raise BadInput(f"--stored computes nothing, so {unused[0]} is not for it")
    if methods:
        from fmlora_lab.methods.registry import METHODS  # here, since it brings torch

        if all(name in METHODS and METHODS[name].record.one_task for name in methods):
            raise BadInput(
                f"{methods[0]} sees all tasks at once, so there is nothing to compare it with"
            )
    if stored is None:
        from fmlora_lab.methods.registry import in_order

        options.tell_untuned(profile, methods or in_order(), preset)
    overrides = {k: str(v) if isinstance(v, Path) else v for k, v in overrides.items()}
    values: dict[str, Any] = {"profile": profile, "overrides": overrides}
    given = {"methods": methods or None, "benchmark": benchmark, "preset": preset, "stored": stored}
    given["orders"] = orders
    values |= {name: value for name, value in given.items() if value is not None}
    _render(["all_methods"], values, runs_dir, figures_dir, notebooks_dir)


def _render(
    names: list[str],
    values: dict[str, Any],
    runs_dir: Path | None,
    figures_dir: Path,
    notebooks_dir: Path | None,
    missing_only: bool = False,
    fresh: bool = False,
) -> None:
    from fmlora_lab.render.notebooks import closing_lines, select, short_name
    from fmlora_lab.render.render import render

    failures = render(names, values, runs_dir, figures_dir, notebooks_dir, missing_only, fresh)
    folders = [figures_dir / short_name(path) for path in select(names, notebooks_dir)]
    if len(folders) == 1:
        print(closing_lines(folders[0]))
    else:
        for folder in folders:
            print(f"{folder}: {len(list(folder.glob('*.png')))} figures")
    if failures:
        raise typer.Exit(1)


@app.command("report")
def report_command(
    figures_dir: Annotated[Path, typer.Option(help="Where figures are.")] = FIGURES,
    out: Annotated[Path | None, typer.Option(help="The page; default in figures-dir.")] = None,
) -> None:
    """One HTML page of every rendered figure, table and answer; it needs no server."""
    from fmlora_lab.render.report import report

    print(report(figures_dir, out or figures_dir / "report.html"))


@app.command("ship")
def ship_command(
    collection: Annotated[
        str, typer.Argument(metavar="NAME", help="The collection: NAME.zip and NAME.csv.")
    ],
    run_ids: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Runs; all by default.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="The folder; default the lab's own results.")
    ] = None,
    runs_dir: options.RunsDir = None,
) -> None:
    """Put runs into an archive that ships: numbers and what readers open, no weights.

    Runs that came with the lab are left out; those the archive has already stay.
    """
    from fmlora_lab import load_runs
    from fmlora_lab.methods.registry import METHODS
    from fmlora_lab.runs.archive import RESULTS, archived, ship, shipped
    from fmlora_lab.runs.stored import find_run, stored_run

    if not collection or Path(collection).name != collection or collection.endswith(".zip"):
        raise BadInput(
            f"NAME is {collection!r}; allowed: a name without a folder, and without .zip"
        )
    path = (into or RESULTS) / f"{collection}.zip"
    before = archived(path) if path.is_file() else {}
    asked = [stored_run(find_run(r, runs_dir)) for r in run_ids or []] or load_runs(runs_dir)
    new = [run for run in asked if not shipped(run.id)]
    read = {name: method.record.ships for name, method in METHODS.items()}
    ship(new, path, read)
    more = len(archived(path)) - len(before)
    print(f"{more} runs more in {path}, a row each in {path.with_suffix('.csv').name}")


@app.command("examples")
def examples_command(
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN...", help="Stored runs.")],
    runs_dir: options.RunsDir = None,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate ahead what the explorers show of runs, and keep it with them."""
    from fmlora_lab.explorers.examples import prepare
    from fmlora_lab.runs.stored import find_run, stored_run

    for run in [stored_run(find_run(run_id, runs_dir)) for run_id in run_ids]:
        prepare(run)
        print(f"{run.id}: ready for the explorers")
