"""What a notebook leaves in its folder: figures, table, answer, numbers, and their source."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fmlora_lab import plots
from fmlora_lab.analysis.latex import to_latex
from fmlora_lab.analysis.standing import draws_said
from fmlora_lab.analysis.tables import to_markdown
from fmlora_lab.files import write_atomically
from fmlora_lab.plots.sheet import COLUMN, Width
from fmlora_lab.runs.run import revision

PACKAGES = ("fmlora-lab", "torch", "timm", "numpy", "pandas", "matplotlib")


def publish(
    folder: Path | str,
    found: pd.DataFrame,
    figures: Mapping[str, Figure | None],
    table: pd.DataFrame,
    title: str,
    question: str,
    answer: str,
    numbers: Mapping[str, Any],
    latex: str | None = None,
    width: Width | None = None,
) -> list[Path]:
    """Write a notebook's results into `folder`; returns their paths. The same runs, the same bytes.

    `<folder>.csv`, `.md` and `.tex` are the `table` as it is read (`latex` in the place of a plain
    one, which is as wide as `width` says, else as it needs); `runs.csv` has every run of the frame
    `found` with all its numbers, unrounded; `answer.md` the answer under title and question;
    `results.json` the `numbers` that another program may read; `provenance.json`, written last,
    says which runs they are of and what computed them. Figures go by their names, in PNG, SVG and
    PDF, those that are None left out; `figures.json` has the title and the width of each, in their
    order.
    """
    folder = Path(folder)
    name = folder.name
    drawn = {stem: figure for stem, figure in figures.items() if figure is not None}
    written = [path for stem, f in drawn.items() for path in plots.save(f, folder, stem)]
    texts = {
        f"{name}.csv": table.to_csv(),
        f"{name}.md": to_markdown(table),
        f"{name}.tex": latex
        or to_latex(table, question, f"tab:{name}", width=width, over=draws_said(found)),
        "runs.csv": found.to_csv(index=False),
        "answer.md": f"# {title}\n\n**{question}**\n\n{answer}\n",
        "figures.json": as_json({stem: _about(figure) for stem, figure in drawn.items()}),
        "results.json": as_json(numbers),
        "provenance.json": as_json(provenance(name, found)),
    }
    for file, text in texts.items():
        write_atomically(folder / file, lambda out, text=text: out.write(text.encode()))
        written.append(folder / file)
    return written


def _about(figure: Figure) -> dict[str, str]:
    wide = figure.get_figwidth() > COLUMN
    title = " ".join(figure.get_suptitle().replace("$", "").split())
    return {"title": title, "width": "page" if wide else "column"}


def provenance(name: str, found: pd.DataFrame) -> dict[str, Any]:
    """Which runs answered, and what they were computed with."""
    runs = {run.id: run for run in found.run}
    environments = {name: run.environment for name, run in sorted(runs.items())}
    said = ("packages", "device", "bfloat16", "revision")
    return {
        "notebook": name,
        "methods": list(dict.fromkeys(found.method)),
        "orders": sorted({run.config["order_seed"] for run in runs.values()}),
        "seeds": sorted({run.config["seed"] for run in runs.values()}),
        "runs": {
            name: {"shipped": runs[name].shipped, **{key: environment[key] for key in said}}
            for name, environment in environments.items()
        },
        "drawn_with": {name: version(name) for name in PACKAGES},
        "revision": revision(),
    }


def as_json(content: Mapping[str, Any]) -> str:
    """Readable JSON; numbers to six digits, so that rounding noise between machines is not news."""
    return json.dumps(rounded(content), indent=1) + "\n"


def rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float):  # NumPy's float64 is one
        return None if pd.isna(value) else float(f"{value:.6g}")
    return value.item() if hasattr(value, "item") else value
