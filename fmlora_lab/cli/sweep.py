"""`sweep`: the runs of a file or of a notebook's grid, wherever they are computed."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fmlora_lab.cli import options
from fmlora_lab.cli.run import lines
from fmlora_lab.config import BadInput

app = typer.Typer(rich_markup_mode=None)


@app.command("sweep")
def sweep_command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NOTEBOOK",
            help="A .json or .toml of configurations and grids, or a notebook, for its grid.",
        ),
    ],
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME VALUE", help="A notebook's parameter."),
    ] = None,
    on: options.On = None,
    slurm: options.OfSlurm = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default one a GPU, or by --cores.")
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="Cores, so threads, of a process on a CPU; 1.")
    ] = None,
    retry: Annotated[int, typer.Option(min=0, help="Times that a run which died is begun.")] = 0,
    runs_dir: options.RunsDir = None,
    notebooks_dir: options.NotebooksDir = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Compute a grid's runs, or load those that are stored; what is done stays done."""
    from fmlora_lab.profiles import assignments
    from fmlora_lab.runs.launch import processes
    from fmlora_lab.runs.sweep import RunsFailed, sweep

    options.tell_slurm(slurm, on)
    given = assignments(parameter or [], "-p")
    asked, where = _asked(what, given, runs_dir, notebooks_dir)
    place = on or os.environ.get("FMLORA_ON") or "processes"
    for option, value in (("--workers", workers), ("--cores", cores)):
        if value is not None and place != "processes":
            raise BadInput(f"{option} is {value}; it is for --on processes")
    ours = on == "processes" or (workers or cores) is not None
    launcher = processes(workers, cores, retry) if ours else on
    failed = []
    try:
        found = sweep(asked, where, launcher, retry=retry)
    except RunsFailed as error:
        found, failed = error.done, error.failed
        print(f"fmlora-lab: {error}", file=sys.stderr)
    done = [*found.run] if len(found) else []
    if as_json:
        rows = [{"run": run.id, "state": "done"} for run in done]
        rows += [
            {
                "run": f.run_id,
                "state": "failed",
                "error": f.why,
                "log": str(f.log),
                "labels": a.labels,
            }
            for a, f in failed
        ]
        print(json.dumps({"runs": rows}, default=str))
    else:
        for line in lines(done):
            print(line)
        print(f"{len(done)} runs done, {len(failed)} failed")
    if failed:
        raise typer.Exit(1)


def _asked(
    what: str, given: dict[str, Any], runs_dir: Path | None, notebooks_dir: Path | None
) -> tuple[list[Any], Path | str | None]:
    """The grid of a file or a notebook, and the runs folder that it goes to."""
    from fmlora_lab.render.notebooks import check, fill, select, short_name
    from fmlora_lab.render.plan import grid_of
    from fmlora_lab.runs.sweep import read_grid

    path = Path(what)
    if path.suffix in (".json", ".toml"):
        if given:
            raise BadInput(f"{what} is no notebook, so it takes no parameter {next(iter(given))!r}")
        return read_grid(path), runs_dir
    (path,) = select([what], notebooks_dir)
    check([path], [*given, *(["runs_dir"] if runs_dir is not None else [])])
    filled = fill(path, given, runs_dir, Path("figures", short_name(path)).absolute())
    return grid_of(path, filled)
