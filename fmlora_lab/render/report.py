"""Everything that notebooks published, on one HTML page that needs no server and no other file."""

import ast
import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager
from jinja2 import Environment, PackageLoader, StrictUndefined
from nbconvert.filters.markdown import markdown2html
from nbformat import NotebookNode

from fmlora_lab.analysis.tables import read_table
from fmlora_lab.config import BadInput
from fmlora_lab.files import write_atomically
from fmlora_lab.render.notebooks import failed, read

KINDS = {
    "csv": "text/csv",
    "tex": "application/x-tex",
    "md": "text/markdown",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
}
"""Files that the page holds to be saved from it, and their types."""
READING = "**How to read it.**"


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
    folder, executed = notebook.parent, read(notebook)
    answer, source = folder / "answer.md", folder / "provenance.json"
    text = answer.read_text("utf-8") if answer.exists() else f"{_first_line(executed)}\n"
    title, _, said = text.partition("\n")
    table = read_table(folder)
    return {
        "name": folder.name,
        "title": title.removeprefix("# "),
        "answer": markdown2html(said),
        "failed": failed(executed),
        "pictures": _pictures(folder, executed),
        "table": None if table is None else table.rename_axis(index=None).to_html(border=0),
        "table_files": _files(folder, folder.name, ("csv", "tex", "md")),
        "source": _json(source) if source.exists() else None,
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}); render its notebook again") from error


def _pictures(folder: Path, notebook: NotebookNode) -> list[dict[str, Any]]:
    """Every figure in the notebook's order, with its title and how to read it; those of an
    explorer, of which no list was published, by their names."""
    listed = folder / "figures.json"
    about = _json(listed) if listed.exists() else {}
    stems = list(about) or sorted(path.stem for path in folder.glob("*.png"))
    places = readings(notebook, len(about)) or [(0, "")] * len(stems)
    found: list[dict[str, Any]] = []
    for (_, text), stem in sorted(zip(places, stems, strict=True), key=lambda own: own[0][0]):
        told = any(text == other["reading_text"] for other in found)
        found.append(
            {
                "name": f"{folder.name}-{stem}",
                "caption": about.get(stem, {}).get("title", stem.replace("_", " ")),
                "width": about.get(stem, {}).get("width", "page"),
                "reading_text": text,
                "reading": "" if told else markdown2html(text),
                "data": base64.b64encode((folder / f"{stem}.png").read_bytes()).decode(),
                "files": _files(folder, stem, ("svg", "pdf")),
            }
        )
    return found


def readings(notebook: NotebookNode, n: int) -> list[tuple[int, str]]:
    """Of each of the n figures that a notebook publishes, in the order in which it names them:
    the place of the cell that draws it, and how it is to be read, in Markdown.

    That is what the text before the cell says from `READING` on, or all of it but headings. Empty
    where the notebook does not publish its figures as a dictionary of names.
    """
    cells = notebook.cells
    parsed = [_parsed(cell.source) if cell.cell_type == "code" else None for cell in cells]
    variables = next(filter(None, map(_published, parsed[::-1])), [])
    if len(variables) != n:
        return []
    found = []
    for name in variables:
        drawn = [k for k, tree in enumerate(parsed) if tree and name in _assigned(tree)]
        place = drawn[-1] if drawn else len(cells)
        texts = [cell.source for cell in cells[:place] if cell.cell_type == "markdown"]
        found.append((place, _reading(texts[-1]) if texts else ""))
    return found


def _reading(text: str) -> str:
    if READING in text:
        return text[text.index(READING) :]
    return "\n".join(line for line in text.splitlines() if not line.startswith("#")).strip()


def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(TransformerManager().transform_cell(source))
    except SyntaxError:
        return None


def _assigned(tree: ast.Module) -> set[str]:
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _published(tree: ast.Module | None) -> list[str]:
    """The variables of the figures that a cell publishes."""
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            for own in node.keywords:
                if node.func.id == "publish" and own.arg == "figures":
                    values = own.value.values if isinstance(own.value, ast.Dict) else []
                    return [value.id for value in values if isinstance(value, ast.Name)]
    return []


def _files(folder: Path, stem: str, kinds: Sequence[str]) -> list[dict[str, str]]:
    """Those that are there, to be held by the page."""
    paths = [(kind, folder / f"{stem}.{kind}") for kind in kinds]
    return [
        {
            "name": path.name,
            "kind": kind.upper() if kind != "tex" else "TeX",
            "data": f"data:{KINDS[kind]};base64,{base64.b64encode(path.read_bytes()).decode()}",
        }
        for kind, path in paths
        if path.exists()
    ]


def _first_line(notebook: NotebookNode) -> str:
    """Its title; papermill puts cells of its own before that of a notebook that failed."""
    lines = (cell.source.partition("\n")[0] for cell in notebook.cells)
    return next((line for line in lines if line.startswith("# ")), "")
