"""What a class-room's screen shows of the explorers, by Voilà: pages without code, and a first page
with their questions and pictures. `python -m fmlora_lab.explorers.pages FOLDER`, from the project's
folder, writes them.

What a notebook says of its explorer is folded behind its question, so that picture and controls
have the window; what is there to be printed, in cells tagged `print`, is left out.
"""

import base64
import io
import re
import sys
from html import escape
from pathlib import Path

import nbformat
from PIL import Image

from fmlora_lab.files import write_atomically

TEMPLATE = "explorers"
"""Under which Voilà finds the first page: FOLDER/.share is a folder of its `JUPYTER_PATH`."""
THUMBNAIL = 480
"""Its pictures' width in pixels."""
NOTEBOOK = re.compile(r"\[([^]]*)\]\([^)]*\.ipynb\)")
"""A link to one in Markdown."""


def write(folder: Path) -> list[Path]:
    """The notebooks' paths; the folder is made where it is missing."""
    written, entries = [], []
    for source in sorted(Path("notebooks").glob("4?_*.ipynb")):
        page = nbformat.read(source, as_version=4)
        page.cells = [c for c in page.cells if "print" not in c.metadata.get("tags", ())]
        said = "\n\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
        question, about = said.removeprefix("# ").split("\n", 1)
        about = NOTEBOOK.sub(r"\1", about)  # whose page is not among these
        code = [cell for cell in page.cells if cell.cell_type == "code"]
        page.cells = [nbformat.v4.new_markdown_cell(_folded(question, about)), *code]
        written.append(folder / source.name)
        _put(written[-1], nbformat.writes(page))
        entries.append(_entry(source.name, question, Path("figures/readme")))
    shared = folder / ".share" / "voila" / "templates" / TEMPLATE
    _put(shared / "conf.json", '{"base_template": "lab"}\n')
    _put(shared / "tree-lab.html", _first_page(entries))
    return written


def _folded(question: str, about: str) -> str:
    """Markdown that shows its question, and when that or the explorer's "?" is pressed the rest."""
    return (
        f'<details class="fml-about"><summary><h1>{escape(question)}</h1></summary>\n'
        f'<section aria-label="about this page">\n\n{about.strip()}\n\n</section></details>'
    )


def _entry(notebook: str, question: str, pictures: Path) -> str:
    """A link with the picture that `make screenshots` made, where it is there."""
    file, shown = pictures / f"explorer_{notebook[3:-6]}.png", ""
    if file.exists():
        small, data = Image.open(file).convert("RGB"), io.BytesIO()
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        small.save(data, "jpeg", quality=85)
        encoded = base64.b64encode(data.getvalue()).decode()
        shown = f'<img alt="" src="data:image/jpeg;base64,{encoded}">'
    address = "{{ base_url }}voila/render/" + notebook
    return f'<li><a href="{address}">{shown}<span>{escape(question)}</span></a></li>'


def _first_page(entries: list[str]) -> str:
    """The template that Voilà shows of the folder."""
    return FIRST_PAGE.format(entries="\n".join(entries))


FIRST_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>FM-LoRA Lab: explorers</title>
<style>
body {{ font: 18px/1.35 system-ui, sans-serif; color: #222; margin: 2em auto; padding: 0 1em;
        max-width: 1200px; }}
ul {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 24px;
      list-style: none; padding: 0; }}
a {{ display: block; height: 100%; box-sizing: border-box; color: #0b4f8a; padding: 12px;
     border: 1px solid #ccc; border-radius: 6px; text-decoration: none; }}
a:hover, a:focus-visible {{ border-color: #0b4f8a; text-decoration: underline; }}
img {{ display: block; width: 100%; aspect-ratio: 16 / 10; object-fit: cover; object-position: top;
       margin-bottom: 8px; }}
</style>
</head>
<body>
<main>
<h1>Explorers</h1>
<ul>
{entries}
</ul>
</main>
</body>
</html>
"""


def _put(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
