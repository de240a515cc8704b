"""Everything that notebooks published, on one HTML page that needs no server and no other file."""

import base64
import json
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment, PackageLoader, StrictUndefined
from nbconvert.filters.markdown import markdown2html

from fmlora_lab.analysis.tables import read_table
from fmlora_lab.config import BadInput
from fmlora_lab.files import write_atomically


def report(figures_dir: Path | str, out: Path | str) -> Path:
    """Write the page of all notebooks rendered under `figures_dir`; BadInput if there is none."""
    notebooks = sorted(Path(figures_dir).glob("*/*.ipynb"), key=lambda path: path.name)
    if not notebooks:
        raise BadInput(f"nothing is rendered in {figures_dir}; `fmlora-lab render all` does that")
    pages = Environment(
        loader=PackageLoader("fmlora_lab.render", "."), autoescape=True, undefined=StrictUndefined
    )
    page = pages.get_template("report.html.jinja").render(parts=[_part(path) for path in notebooks])
    write_atomically(Path(out), lambda file: file.write(page.encode()))
    return Path(out)


def _part(notebook: Path) -> dict[str, Any]:
    """What the page shows of one notebook: an explorer has no table and no provenance."""
    folder = notebook.parent
    answer, source = folder / "answer.md", folder / "provenance.json"
    text = answer.read_text("utf-8") if answer.exists() else f"{_first_line(notebook)}\n"
    table = read_table(folder)
    return {
        "name": folder.name,
        "title": text.splitlines()[0].removeprefix("# "),
        "answer": markdown2html(text),
        "pictures": [
            {
                "name": path.stem.replace("_", " "),
                "data": base64.b64encode(path.read_bytes()).decode(),
            }
            for path in sorted(folder.glob("*.png"))
        ],
        "table": None if table is None else table.rename_axis(index=None).to_html(border=0),
        "source": json.loads(source.read_text("utf-8")) if source.exists() else None,
    }


def _first_line(notebook: Path) -> str:
    return nbformat.read(notebook, 4).cells[0].source.splitlines()[0]
