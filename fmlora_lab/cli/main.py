"""The commands of `fmlora-lab`, and what a user's error looks like.

Each command imports what it needs when it is called, so that reading stored runs stays quick.
Bad input is one line on stderr and exit code 2, and so is what the system refuses: a full disk, a
file in a folder's place, a right that is not there.
"""

import os
import sys
from errno import EDQUOT, EFBIG, EIO, ENOSPC

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from fmlora_lab.cli import data, measure, options, render, run, runs, sweep
from fmlora_lab.config import BadInput, explain
from fmlora_lab.interrupts import Stopped


class Commands(TyperGroup):
    """Says where an interrupt stopped the work; typer would only give it an exit code."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            known = isinstance(interrupt, Stopped)
            said = interrupt if known else "stopped; the same command goes on from what is stored"
            print(said, file=sys.stderr)
            raise typer.Exit(130) from interrupt


app = typer.Typer(
    cls=Commands,
    name="fmlora-lab",
    help="Continual learning with low-rank adapters: run, compare, render, measure.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for group in (run, sweep, render, measure):
    app.add_typer(group.app)
app.add_typer(runs.app, name="runs", help="List, show, merge and delete stored runs.")
app.add_typer(data.app, name="data", help="Real benchmarks: list and get them.")


@app.callback()
def every(quiet: options.Quiet = False) -> None:
    """Before a command, options that every command has."""


def main() -> None:
    """Run the command line; every error a user can cause is one line and exit code 2."""
    try:
        code = app(join_parameters(sys.argv[1:]), standalone_mode=False)
        sys.stdout.flush()
    except BadInput as error:
        code = _refuse(str(error))
    except ValidationError as error:
        code = _refuse(explain(error))
    except OSError as error:
        # Whoever writes a file names it, so what names none was printed.
        printed = not error.filename and error.errno in (ENOSPC, EDQUOT, EFBIG, EIO)
        path = "standard output" if printed else error.filename
        code = _refuse(f"{path}: {error.strerror}" if path else str(error))
        if printed:  # Python would try it again at the end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        message = getattr(error, "format_message", None)  # typer's own errors have one
        if message is None:
            raise
        code = _refuse(message())
    sys.exit(code)


def join_parameters(arguments: list[str]) -> list[str]:
    """papermill's `-p NAME VALUE` as the `-p NAME=VALUE` that typer can repeat."""
    joined, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        joined.append(word)
        apart = len(rest) >= 2 and "=" not in rest[0] and not rest[1].startswith("--")
        if word in ("-p", "--parameter") and apart:
            joined.append(f"{rest.pop(0)}={rest.pop(0)}")
    return joined


def _refuse(message: str) -> int:
    print(f"fmlora-lab: {' '.join(message.split())}", file=sys.stderr)
    return 2
