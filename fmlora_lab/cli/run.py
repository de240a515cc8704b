"""`run`, `methods`, `tune`, `doctor`: compute runs, and what is there to compute with."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from fmlora_lab.cli import options
from fmlora_lab.config import BadInput

app = typer.Typer(rich_markup_mode=None)


@app.command("run")
def run_command(
    method: Annotated[str, typer.Option(help="By name; `methods` lists them.")] = "fm-lora",
    benchmark: options.BenchmarkName = "glyphs",
    data: options.Data = None,
    tasks: options.Tasks = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the training; 0 by default.")] = None,
    profile: options.ProfileName = "demo",
    preset: Annotated[
        str,
        typer.Option(
            help="fair (tuned), closed-form (tuned by those heads), paper (published) or defaults."
        ),
    ] = "fair",
    backbone: options.BackboneTag = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    set_: options.Settings = None,
    keep_features: Annotated[
        bool, typer.Option(help="Keep test images' features after each task with the run.")
    ] = False,
    devices: Annotated[
        int, typer.Option(min=1, help="GPUs, or processes on a CPU, that share every batch.")
    ] = 1,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile what lies between the backbone's products.")
    ] = False,
    runs_dir: options.RunsDir = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    show_config: Annotated[
        bool, typer.Option(help="Print the resolved configuration as JSON and stop.")
    ] = False,
) -> None:
    """Train one method on one stream, or load the run if it is stored."""
    from fmlora_lab import configure
    from fmlora_lab.profiles import Preset
    from fmlora_lab.runs.run import find_stored, follow, run
    from fmlora_lab.training import distributed

    given = options.overrides_of(data, tasks, backbone, weights, image_size, set_, seed)
    known = cast(Preset, preset)  # `configure` refuses any other
    config = configure(method, benchmark, profile, given, known)
    if config.method.name != method:
        raise BadInput(
            f"method is {method!r}, and --set makes it {config.method.name!r}; use --method"
        )
    if show_config:
        print(config.model_dump_json(indent=2))
        return
    if not distributed.join().first:
        follow(config, compile)
        return
    if devices > 1 and distributed.ranks().size == 1:
        distributed.check(devices, config.training.batch_size)
        if find_stored(config, runs_dir) is None:  # by this command again, on each of them
            raise typer.Exit(distributed.launch(devices, sys.argv[1:]))
    options.tell_untuned(profile, [method], preset)
    stored = run(config, runs_dir, keep_features=keep_features, compile=compile)
    distributed.leave()
    if as_json:
        print(json.dumps(stored.result))
        return
    print(describe(stored.result, config.method.name))
    print(f"run {stored.id} in {stored.folder.path}")
    if keep_features:
        size = sum(file.stat().st_size for file in stored.folder.path.glob("features/*"))
        print(f"features of all test images after each task: {size / 1e6:.1f} MB in features/")


@app.command("methods")
def methods_command(
    name: Annotated[
        str | None, typer.Argument(help="One of them, or `all`, for whole pages.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Every method: name, title, family, and what it is; or one method's page: equations, source,
    settings, published and the lab's own."""
    from fmlora_lab.methods.registry import METHODS, in_order
    from fmlora_lab.render.method_pages import every, page

    if name is not None:
        if name not in METHODS and name != "all":
            raise BadInput(f"method is {name!r}; allowed: all, {', '.join(sorted(METHODS))}")
        print(every() if name == "all" else page(name), end="")
        return
    records = [METHODS[name].record for name in in_order()]
    if as_json:
        fields = ("name", "title", "family", "what", "source")
        print(json.dumps([{field: getattr(r, field) for field in fields} for r in records]))
        return
    for r in records:
        print(f"{r.name:<13} {r.family:<11} {r.title}: {r.what}")


@app.command("tune")
def tune_command(
    out: Annotated[Path, typer.Argument(help="The log and choice, as JSON.")],
    method: Annotated[list[str] | None, typer.Option(help="Methods; all by default.")] = None,
    profile: options.ProfileName = "demo",
    benchmark: options.BenchmarkName = "glyphs",
    data: options.Data = None,
    tasks: options.Tasks = None,
    orders: Annotated[int, typer.Option(min=1, help="Class orders a trial.")] = 1,
    backbone: options.BackboneTag = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    set_: options.Settings = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials a method.")] = 6,
    halve: Annotated[bool, typer.Option(help="End trials early that others beat.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share methods out.")] = 1,
    runs_dir: options.RunsDir = None,
    quiet: options.Quiet = False,
) -> None:
    """Choose every method's settings on validation images, with the same number of trials each."""
    from fmlora_lab.tuning import tune

    given = options.overrides_of(data, tasks, backbone, weights, image_size, set_)
    tune(out, method, profile, trials, runs_dir, benchmark, given, orders, halve, workers)


@app.command("doctor")
def doctor_command(runs_dir: options.RunsDir = None) -> None:
    """What is installed, which device, which benchmarks, weights and methods are there."""
    from fmlora_lab.cli.doctor import report

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
    by_task = result.get("task_mean_acc", result["acc"])
    if abs(by_task - result["acc"]) >= 0.05:  # tasks differ in size
        parts[0] += f" of the images ({by_task:.1f}% as the mean over tasks)"
    return f"{method}: {', '.join(parts)} ({result['ranked_by']}), {result['seconds']:.0f} s"


def lines(runs: list[Any]) -> list[str]:
    """A line a run, with the settings in which it differs from the others."""
    from fmlora_lab.runs.stored import what_differs

    said = []
    for r, differs in zip(runs, what_differs(runs), strict=True):
        own = [f"{name}={_as_given(value)}" for name, value in differs.items()]
        said.append(f"{r.id}  {describe(r.numbers, ' '.join([r.method_name, *own]))}")
    return said


def _as_given(value: Any) -> str:
    """A value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
