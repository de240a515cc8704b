"""A paper of two columns, compiled by pdfLaTeX."""

import re
import subprocess
from pathlib import Path

PAPER = r"""\documentclass[10pt,twocolumn]{article}
\usepackage{booktabs}
\setlength{\textwidth}{7.2in}\setlength{\columnsep}{0.2in}
\begin{document}
%s
\end{document}
"""
"""Its columns are 3.5 inches wide, as plots are."""


def overfull(text: str, folder: Path) -> list[str]:
    """What LaTeX's log says of boxes that are wider than their column; an AssertionError where the
    text does not compile."""
    (folder / "paper.tex").write_text(PAPER % text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    return re.findall(r"Overfull \\hbox.*", (folder / "paper.log").read_text(errors="replace"))
