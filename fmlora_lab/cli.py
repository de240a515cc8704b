"""The command line: run, runs, compare, render, report, bench, examples, tune,
doctor, data.

Each command imports what it needs when it is called, so that reading stored runs stays quick.
Bad input is one line on stderr and exit code 2.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from fmlora_lab.cli_data import data_app
from fmlora_lab.config import BadInput, explain

app = typer.Typer(
    name="fmlora-lab",
    help=__doc__.splitlines()[0] if __doc__ else None,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
runs_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(runs_app, name="runs", help="List, show, merge, ship and delete stored runs.")
app.add_typer(data_app, name="data", help="Real benchmarks: list and get them.")

RunsDir = Annotated[
    Path | None, typer.Option(help="Where runs are stored; default $FMLORA_RUNS, else ./runs.")
]
BenchmarkName = Annotated[str, typer.Option(help="glyphs, glyph-domains, folder, domains or hub.")]
Data = Annotated[Path | None, typer.Option(help="Root of one's own images.")]
Tasks = Annotated[int | None, typer.Option(help="Number of tasks.")]
ProfileName = Annotated[str, typer.Option(help="A profile by name.")]
BackboneTag = Annotated[str | None, typer.Option(help="glyphs-vit or a timm ViT's tag.")]
Weights = Annotated[Path | None, typer.Option(help="A local safetensors file.")]
ImageSize = Annotated[int | None, typer.Option(help="Side of the input in pixels.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("run")
def run_command(
    method: Annotated[str, typer.Option(help="A method by name; `doctor` lists them.")] = "fm-lora",
    benchmark: BenchmarkName = "glyphs",
    data: Data = None,
    tasks: Tasks = None,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    profile: ProfileName = "demo",
    preset: Annotated[
        str, typer.Option(help="fair (tuned), paper (its published settings) or defaults.")
    ] = "fair",
    backbone: BackboneTag = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, such as method.basis_rank=32.")
    ] = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
    show_config: Annotated[
        bool, typer.Option(help="Print the resolved configuration as JSON and stop.")
    ] = False,
) -> None:
    """Train one method on one stream, or load the run if it is stored."""
    from fmlora_lab import configure, run
    from fmlora_lab.profiles import parse_assignment

    overrides = {**_given(data, tasks, backbone, weights, image_size), "seed": seed}
    overrides |= dict(parse_assignment(text) for text in set_ or [])
    config = configure(method, benchmark, profile, overrides, preset)
    if show_config:
        print(config.model_dump_json(indent=2))
        return
    stored = run(config, runs_dir)
    if as_json:
        print(json.dumps(stored.result))
        return
    print(describe(stored.result, config.method.name))
    print(f"run {stored.id} in {stored.folder.path}")


@app.command("compare")
def compare_command(
    methods: Annotated[
        list[str] | None, typer.Argument(help="Methods; all by default.", show_default=False)
    ] = None,
    benchmark: BenchmarkName = "glyphs",
    data: Data = None,
    tasks: Tasks = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the training, from 0 on.")] = 3,
    profile: ProfileName = "demo",
    backbone: BackboneTag = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE for every method.")
    ] = None,
    stored: Annotated[
        Path | None, typer.Option(help="Train nothing: the runs of this folder.")
    ] = None,
    ship: Annotated[
        Path | None, typer.Option(help="Also put the runs' small files into this folder.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where table and figures go.")] = Path(
        "figures/compare"
    ),
    runs_dir: RunsDir = None,
) -> None:
    """Train methods on one stream over several seeds; table, and figures of what accuracy costs."""
    from fmlora_lab import sweep
    from fmlora_lab.analysis.tables import to_text
    from fmlora_lab.compare import COLUMNS, best_trials, configurations, draw
    from fmlora_lab.profiles import parse_assignment
    from fmlora_lab.runs.store import runs
    from fmlora_lab.runs.store import ship as ship_run

    if stored is None:
        overrides = _given(data, tasks, backbone, weights, image_size)
        overrides |= dict(parse_assignment(text) for text in set_ or [])
        found = sweep(configurations(methods, benchmark, profile, seeds, overrides), runs_dir)
    else:
        found = [r for r in runs(stored) if not methods or r.config["method"]["name"] in methods]
        if not found:
            raise BadInput(f"--stored {stored}: no complete runs there")
    for r in found if ship else ():
        ship_run(r, ship)
    table, paths = draw(found, out)
    print(to_text(table, COLUMNS))
    trials = best_trials(profile)
    if len(trials):
        print("\nsettings: each method's best trials on validation images")
        print(trials.to_string(index=False))
    print("\n".join(map(str, paths)))


def _given(
    data: Path | None,
    tasks: int | None,
    backbone: str | None,
    weights: Path | None,
    image_size: int | None,
) -> dict[str, Any]:
    """The overrides that these options stand for, without those left out."""
    given = {
        "benchmark.data": data,
        "benchmark.tasks": tasks,
        "backbone.name": backbone,
        "backbone.weights": weights,
        "backbone.image_size": image_size,
    }
    return {key: value for key, value in given.items() if value is not None}


@runs_app.command("list")
def list_runs(runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """One line a stored run."""
    from fmlora_lab.runs.store import runs

    stored = runs(runs_dir)
    if as_json:
        print(json.dumps([{"config": r.config, **r.result} for r in stored]))
        return
    for r in stored:
        benchmark = r.config["benchmark"]["name"]
        print(f"{r.id}  {benchmark}  seed {r.config['seed']}  ", end="")
        print(describe(r.result, r.config["method"]["name"]))
    print(f"{len(stored)} stored runs")


@runs_app.command("show")
def show_run(run_id: str, runs_dir: RunsDir = None) -> None:
    """Configuration, environment and result of a run as JSON; the first digits are enough."""
    from fmlora_lab.runs.store import find

    folder = find(run_id, runs_dir)
    names = ["config", "environment"] + ["result"] * folder.complete
    print(json.dumps({name: folder.read_json(f"{name}.json") for name in names}, indent=2))


@runs_app.command("merge")
def merge_run(run_id: str, out: Path, runs_dir: RunsDir = None) -> None:
    """Write a run's model as a plain timm state dict (safetensors), prompts beside it."""
    from safetensors.torch import save

    from fmlora_lab import restore
    from fmlora_lab.files import write_atomically
    from fmlora_lab.runs.store import find, stored_run

    state, prompts = restore(stored_run(find(run_id, runs_dir))).merge()
    write_atomically(out, lambda file: file.write(save(state)))
    print(out)
    if prompts is not None:
        beside = out.with_name(f"{out.stem}.prompts{out.suffix}")
        write_atomically(beside, lambda file: file.write(save({"prompts": prompts})))
        print(f"{beside}: tokens to put after [CLS]; timm alone does not know them")


@runs_app.command("ship")
def ship_runs(into: Path, runs_dir: RunsDir = None) -> None:
    """Put the small files of all complete runs into a folder, except of those that came with the
    lab: numbers, ranks, prompts, what was derived; no weights."""
    from fmlora_lab.runs.store import runs, ship, shipped

    new = [run for run in runs(runs_dir) if not shipped(run.id)]
    for run in new:
        ship(run, into)
    print(f"{len(new)} runs in {into}")


@runs_app.command("delete")
def delete_run(run_id: str, runs_dir: RunsDir = None) -> None:
    """Remove a run from disk."""
    from fmlora_lab.runs.store import delete, find

    folder = find(run_id, runs_dir)
    delete(folder)
    print(f"deleted {folder.path}")


@app.command("render")
def render_command(
    notebooks: Annotated[list[str], typer.Argument(help="Notebooks by name, or `all`.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME VALUE", help="A notebook's parameter."),
    ] = None,
    runs_dir: RunsDir = None,
    figures_dir: Annotated[Path, typer.Option(help="Where figures go.")] = Path("figures"),
    notebooks_dir: Annotated[Path, typer.Option(help="Where notebooks are.")] = Path("notebooks"),
    missing_only: Annotated[
        bool, typer.Option("--missing-only", help="Leave out what was rendered before.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute also the runs that came with the lab.")
    ] = False,
) -> None:
    """Execute notebooks with papermill; figures, tables and the executed copy go to figures/."""
    from fmlora_lab.profiles import parse_assignment
    from fmlora_lab.render import closing_lines, find, render, short_name

    values = dict(parse_assignment(text) for text in parameter or [])
    failures = render(notebooks, values, runs_dir, figures_dir, notebooks_dir, missing_only, fresh)
    folders = [figures_dir / short_name(path) for path in find(notebooks, notebooks_dir)]
    if len(folders) == 1:
        print(closing_lines(folders[0]))
    else:
        for folder in folders:
            print(f"{folder}: {len(list(folder.glob('*.png')))} figures")
    if failures:
        raise typer.Exit(1)


@app.command("report")
def report_command(
    figures_dir: Annotated[Path, typer.Option(help="Where figures are.")] = Path("figures"),
    out: Annotated[Path | None, typer.Option(help="The page; default in figures-dir.")] = None,
) -> None:
    """One HTML page of every rendered figure, table and answer; it needs no server."""
    from fmlora_lab.report import report

    print(report(figures_dir, out or figures_dir / "report.html"))


@app.command("bench")
def bench_command(
    what: Annotated[str, typer.Argument(help="training or explorers.")] = "training",
    backbone: Annotated[str, typer.Option(help="glyphs-vit or a timm ViT's tag.")] = "glyphs-vit",
    weights: Weights = None,
    image_size: ImageSize = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds of all rows.")] = 10,
    moves: Annotated[int, typer.Option(min=1, help="Moves of each explorer's controls.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Speed of training and inference, as ratios to a frozen backbone's; or of the explorers."""
    if what == "explorers":
        from fmlora_lab import bench_explorers

        rows = bench_explorers.bench(moves)
        print(json.dumps(rows) if as_json else bench_explorers.to_text(rows))
        return
    if what != "training":
        raise BadInput(f"bench is {what!r}; allowed: training, explorers")
    from fmlora_lab.bench import bench, to_text
    from fmlora_lab.config import Backbone

    found = bench(
        Backbone(name=backbone, weights=weights, image_size=image_size), batch_size, repeats
    )
    print(json.dumps(found) if as_json else to_text(found))


@app.command("examples")
def examples_command(
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN...", help="Stored runs.")],
    out: Annotated[
        Path | None, typer.Option(help="Also put the runs' small files into this folder.")
    ] = None,
    runs_dir: RunsDir = None,
) -> None:
    """Evaluate ahead what the explorers show of runs, and keep it with them."""
    from fmlora_lab.ahead import prepare
    from fmlora_lab.runs.store import find, stored_run

    for run in [stored_run(find(run_id, runs_dir)) for run_id in run_ids]:
        prepare(run, out)
        print(f"{run.id}: ready for the explorers")


@app.command("tune")
def tune_command(
    out: Annotated[Path, typer.Argument(help="The log and choice, as JSON.")],
    method: Annotated[list[str] | None, typer.Option(help="Methods; all by default.")] = None,
    profile: ProfileName = "demo",
    benchmark: BenchmarkName = "glyphs",
    data: Data = None,
    weights: Weights = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials a method.")] = 6,
    runs_dir: RunsDir = None,
) -> None:
    """Choose every method's settings on validation images, with the same number of trials each."""
    from fmlora_lab.tuning import tune

    tune(out, method, profile, trials, runs_dir, benchmark, _given(data, None, None, weights, None))


@app.command("doctor")
def doctor_command(runs_dir: RunsDir = None) -> None:
    """What is installed, which device, which benchmarks, weights and methods are there."""
    from fmlora_lab.doctor import report

    print(report(runs_dir))


def describe(result: dict[str, Any], method: str) -> str:
    """A result in one line."""
    names = {
        "acc": "Acc",
        "aaa": "AAA",
        "learning_accuracy": "learning",
        "forgetting": "forgetting",
    }
    parts = [
        f"{label} {result[key]:.1f}%" for key, label in names.items() if result[key] is not None
    ]
    return f"{method}: {', '.join(parts)} ({result['ranked_by']}), {result['seconds']:.0f} s"


def main() -> None:
    """Run the command line; every error a user can cause is one line and exit code 2."""
    try:
        code = app(join_parameters(sys.argv[1:]), standalone_mode=False)
    except BadInput as error:
        code = _refuse(str(error))
    except ValidationError as error:
        code = _refuse(explain(error))
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        code = _refuse(error.format_message())
    if code == 130:  # as typer reports an interrupt that reached it
        print("stopped; the same command goes on from the last stored epoch", file=sys.stderr)
    sys.exit(code)


def join_parameters(arguments: list[str]) -> list[str]:
    """papermill's `-p NAME VALUE` as the `-p NAME=VALUE` that typer can repeat."""
    joined, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        joined.append(word)
        if word in ("-p", "--parameter") and len(rest) >= 2 and "=" not in rest[0]:
            joined.append(f"{rest.pop(0)}={rest.pop(0)}")
    return joined


def _refuse(message: str) -> int:
    print(f"fmlora-lab: {' '.join(message.split())}", file=sys.stderr)
    return 2
