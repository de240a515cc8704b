"""`fmlora-lab data`: the real benchmarks, what they need, and getting them."""

from pathlib import Path
from typing import Annotated

import typer

from fmlora_lab import progress
from fmlora_lab.cli.options import Quiet
from fmlora_lab.config import BadInput

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Mirror = Annotated[
    Path | None, typer.Option("--data", help="A folder with the dataset's parquet files.")
]


@app.command("list")
def list_datasets() -> None:
    """One line a dataset: where it comes from, how large it is, files and decoded, whether it is
    here; and what decoded images take up in the cache."""
    from fmlora_lab.benchmarks.cache import decoded
    from fmlora_lab.benchmarks.hub import DATASETS, is_here

    for name, source in DATASETS.items():
        images = f"{source.counts['train']:,} + {source.counts['test']:,}"
        pixels = sum(source.counts.values()) * 3 * 224**2 / 1e9
        here = "here" if is_here(name) else "not here"
        print(
            f"{name:<11} {source.repository:<40} {source.classes:>3} classes  {images:>17} images  "
            f"about {source.gigabytes:g} GB, decoded at 224 px {pixels:.1f} GB  {here}"
        )
    sizes = [file.stat().st_size for file in decoded().glob("*.npy")]
    print(f"{decoded()}: {len(sizes)} sets of decoded images, {sum(sizes) / 1e9:.1f} GB")


@app.command("get")
def get_dataset(
    name: Annotated[str, typer.Argument(help="A dataset by name; `data list` has them.")],
    data: Mirror = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    quiet: Quiet = False,
) -> None:
    """Download a dataset, unpack it into the cache, and check that it is what it should be."""
    from fmlora_lab.benchmarks.hub import DATASETS, free_gigabytes, is_here, unpacked

    if name not in DATASETS:
        raise BadInput(f"dataset is {name!r}; allowed: {', '.join(DATASETS)}")
    source = DATASETS[name]
    if not is_here(name, data):
        needed = source.gigabytes * (1 if data else 2)
        free = free_gigabytes()
        if not (yes and progress.kind() == "none"):  # a question needs its reasons
            print(f"{name}: about {source.gigabytes:g} GB to download, {needed:g} GB on disk")
            print(f"free: {free:.1f} GB")
        if free < needed:
            raise BadInput(f"{name} needs about {needed:g} GB on disk; {free:.1f} GB are free")
        if not yes and not _agreed():
            raise typer.Exit(1)
    folder = unpacked(name, data)
    note = is_here(name, data)
    assert note is not None  # what was unpacked just now is here
    print(f"{folder}: {note['counts']['train']:,} + {note['counts']['test']:,} images")
    print(f"revision {note['revision']}, fingerprint {note['fingerprint'][:16]}")


def _agreed() -> bool:
    """BadInput where nobody is there to answer."""
    try:
        return typer.confirm("Go on?")
    except typer.Abort as error:
        raise BadInput(
            "stopped, since nobody said yes; --yes downloads without a question"
        ) from error
