"""Copies of the explorers' notebooks for a class-room's screen, where Voilà shows them without
code: `python -m fmlora_lab.explorers.pages FOLDER`, from the project's folder.

What is there to be printed, in cells tagged `print`, is left out.
"""

import sys
from pathlib import Path

import nbformat

from fmlora_lab.files import write_atomically


def write(folder: Path) -> list[Path]:
    """The copies' paths; the folder is made where it is missing."""
    written = []
    for source in sorted(Path("notebooks").glob("4?_*.ipynb")):
        page = nbformat.read(source, as_version=4)
        page.cells = [c for c in page.cells if "print" not in c.metadata.get("tags", ())]
        written.append(folder / source.name)
        text = nbformat.writes(page).encode()
        write_atomically(written[-1], lambda file, text=text: file.write(text))
    return written


if __name__ == "__main__":
    write(Path(sys.argv[1]))
