"""`fmlora-lab runs`: what is stored."""

import json
from pathlib import Path

import typer

from fmlora_lab.cli.options import AsJson, RunsDir
from fmlora_lab.cli.run import lines

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_runs(runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """One line a stored run, with the settings in which it differs from the others; --runs-dir
    takes an archive (NAME.zip) too."""
    from fmlora_lab import load_runs

    stored = load_runs(runs_dir)
    if as_json:
        print(json.dumps([{"config": r.config, **r.result} for r in stored]))
        return
    for line in lines(stored):
        print(line)
    print(f"{len(stored)} stored runs")


@app.command("show")
def show_run(run_id: str, runs_dir: RunsDir = None) -> None:
    """Configuration, environment and result of a run as JSON; the first digits are enough."""
    from fmlora_lab.runs.stored import find_run

    folder = find_run(run_id, runs_dir)
    names = ["config", "environment"] + ["result"] * folder.complete
    print(json.dumps({name: folder.read_json(f"{name}.json") for name in names}, indent=2))


@app.command("merge")
def merge_run(run_id: str, out: Path, runs_dir: RunsDir = None) -> None:
    """Write a run's model as a plain timm state dict (safetensors), prompts beside it."""
    from safetensors.torch import save

    from fmlora_lab import restore
    from fmlora_lab.files import write_together
    from fmlora_lab.runs.stored import find_run, stored_run

    state, prompts = restore(stored_run(find_run(run_id, runs_dir))).merge()
    beside = out.parent / f"{out.stem}.prompts{out.suffix}"
    files = {out: save(state)} | ({} if prompts is None else {beside: save({"prompts": prompts})})
    write_together({path: lambda f, own=own: f.write(own) for path, own in files.items()})
    print(out)
    if prompts is not None:
        print(f"{beside}: tokens to put after [CLS]; timm alone does not know them")


@app.command("delete")
def delete_run(run_id: str, runs_dir: RunsDir = None) -> None:
    """Remove a run from disk."""
    from fmlora_lab.runs.stored import delete, find_run

    folder = find_run(run_id, runs_dir)
    delete(folder)
    print(f"deleted {folder.path}")
