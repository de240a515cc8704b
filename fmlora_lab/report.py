"""Everything that notebooks published, on one HTML page that needs no server and no other file."""

import base64
import html
import json
from pathlib import Path

import nbformat
import pandas as pd
from nbconvert.filters.markdown import markdown2html

from fmlora_lab.analysis.tables import SHORT, read_published, readable
from fmlora_lab.config import BadInput
from fmlora_lab.files import write_atomically

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; }
nav ol { columns: 2; }
section { border-top: 1px solid #ccc; margin-top: 2.5rem; }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; vertical-align: top; max-width: 100%; }
figure img { max-width: 100%; width: 30rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #e6e6e6; }
th:first-child, td:first-child { text-align: left; }
small { color: #666; }
.anchor-link { display: none; }
"""


def report(figures_dir: Path | str, out: Path | str) -> Path:
    """Write the page of all notebooks rendered under `figures_dir`; BadInput if there is none."""
    notebooks = sorted(Path(figures_dir).glob("*/*.ipynb"), key=lambda path: path.name)
    if not notebooks:
        raise BadInput(f"nothing is rendered in {figures_dir}; `fmlora-lab render all` does that")
    links = "".join(
        f'<li><a href="#{path.parent.name}">{html.escape(_title(path))}</a></li>'
        for path in notebooks
    )
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>FM-LoRA Lab: report</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<h1>FM-LoRA Lab: report</h1><nav><ol>{links}</ol></nav>"
        + "".join(map(_section, notebooks))
        + "</html>\n"
    )
    write_atomically(Path(out), lambda file: file.write(page.encode()))
    return Path(out)


def _section(notebook: Path) -> str:
    folder = notebook.parent
    answer = folder / "answer.md"
    text = answer.read_text("utf-8") if answer.exists() else f"# {_title(notebook)}\n"
    figures = "".join(map(_figure, sorted(folder.glob("*.png"))))
    return (
        f'<section id="{folder.name}">{markdown2html(text)}{figures}{_table(folder)}'
        f"<small>{_source(folder)}</small></section>"
    )


def _table(folder: Path) -> str:
    """A study's table as it is read, or that of the quickstart; an explorer has none."""
    if (folder / f"{folder.name}.csv").exists():
        table = pd.read_csv(folder / f"{folder.name}.csv", index_col=0, dtype=str).fillna("")
    elif (folder / "table.csv").exists():
        table = readable(read_published(folder), SHORT)
    else:
        return ""
    table.index.name = None
    return f'<div class="table">{table.to_html(border=0)}</div>'


def _source(folder: Path) -> str:
    if not (folder / "provenance.json").exists():
        return ""
    source = json.loads((folder / "provenance.json").read_text("utf-8"))
    return (
        f"Profile {source['profile']}, {len(source['runs'])} runs, seeds "
        f"{', '.join(map(str, source['seeds']))}; revision {source['revision'] or 'unknown'}."
    )


def _figure(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.stem.replace("_", " "))
    return f'<figure><img alt="{name}" src="data:image/png;base64,{data}"></figure>'


def _title(notebook: Path) -> str:
    """The first line of the answer, or of the notebook."""
    answer = notebook.parent / "answer.md"
    first = (
        answer.read_text("utf-8") if answer.exists() else nbformat.read(notebook, 4).cells[0].source
    )
    return first.splitlines()[0].removeprefix("# ")
