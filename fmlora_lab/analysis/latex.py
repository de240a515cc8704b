"""Tables as LaTeX with booktabs, as wide as the paper's column or page. Bold says "clearly best":
better than every other, by interval.

Widths are reckoned with Computer Modern's own glyphs at \\footnotesize, so that a table is split
before it is compiled; a paper's Times is narrower.
"""

import re
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fmlora_lab.analysis.differences import differences_of
from fmlora_lab.analysis.tables import numbers, summarize
from fmlora_lab.config import BadInput
from fmlora_lab.runs.frame import by_draw, pick

ESCAPED = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{special: "\\" + special for special in "%_&#${}"},
        **{sign: f"${sign}$" for sign in "<>|"},
        "–": "--",
        "−": "$-$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "≤": r"$\le$",
        "≥": r"$\ge$",
        "Δ": r"$\Delta$",
        "λ": r"$\lambda$",
        "ρ": r"$\rho$",
        "σ": r"$\sigma$",
        "τ": r"$\tau$",
        "ᵀ": r"$^\top$",
        "‖": r"$\|$",
        "→": r"$\to$",
        "’": "'",
    }
)
"""LaTeX's special characters, and the lab's symbols that plain LaTeX does not know."""

ROOM = {"column": 252.0, "page": 516.0}
"""Points (72.27 an inch) that a table may take."""
GAP = 3.0
"""Points on either side of a column."""
HEAD_LINES = 4
"""Into how many lines a heading is broken at most."""
SEVERAL = (
    "Bold: the best of its column, where the 95% interval of its difference from every other, "
    "paired by order, excludes 0."
)
SINGLE = "One class order: there are no intervals, so nothing is bold."


def to_latex(
    shown: pd.DataFrame,
    caption: str,
    label: str,
    bold: NDArray[np.bool_] | None = None,
    width: str | None = None,
    over: str = "class orders",
) -> str:
    """A table that is ready to read as a LaTeX `table`, escaped; `bold` (rows, columns) as
    `clearly_best` gives it, with a note of what it says.

    It is as wide as a paper's "column" or, as a `table*`, its "page"; where no `width` is asked
    for, as the narrower of the two that holds all columns. Where they do not fit, the columns are
    split into tables below each other, each with the names of the rows. The caption says what ±
    and brackets mean; `over` is what means are over. BadInput for another width.
    """
    if width not in (None, *ROOM):
        raise BadInput(f"width is {width!r}; a table is as wide as a {' or a '.join(ROOM)}")
    cells = shown.map(_tex)
    note = None
    if bold is not None:
        note = SEVERAL if any("±" in str(cell) for cell in shown.to_numpy().flat) else SINGLE
        cells = cells.mask(bold, r"\textbf{" + cells.astype(str) + "}")
    laid = {room: _laid_out(shown, room) for room in ROOM}
    width = width or ("column" if len(laid["column"][1]) == 1 else "page")
    name, (heads, parts) = ("table" if width == "column" else "table*"), laid[width]
    lines = [
        r"% The preamble needs \usepackage{booktabs}.",
        rf"\begin{{{name}}}",
        r"\centering\footnotesize",
        rf"\setlength{{\tabcolsep}}{{{GAP:g}pt}}",
        rf"\caption{{{_tex(_whole(caption, _explained(shown, over)))}}}",
        rf"\label{{{label}}}",
        "\n\\par\\medskip\n".join(
            _tabular(shown, cells, heads, part, ROOM[width]) for part in parts
        ),
        *([rf"\par\smallskip{{{_tex(note)}\par}}"] if note else []),
        rf"\end{{{name}}}",
    ]
    return "\n".join(lines) + "\n"


def clearly_best(found: pd.DataFrame, rows: str, columns: str, value: str) -> NDArray[np.bool_]:
    """Which cells of `tables.pivot` are the highest of their column, by a difference from every
    other row, paired by class order, whose interval excludes 0: (rows, columns)."""
    means = numbers(summarize(found, [rows, columns], [value]), rows, columns, value)
    best = pd.DataFrame(False, means.index, means.columns)
    for column in means:
        table = by_draw(pick(found, **{columns: column}), value, rows)
        first = table.mean().idxmax()
        others = differences_of(table, first)
        everyone = 0 < len(others) == table.notna().any().sum() - 1
        best.loc[first, column] = everyone and others.apart.astype(bool).all()
    return best.to_numpy(bool)


def _whole(caption: str, more: list[str]) -> str:
    """One after another, as sentences."""
    ended = caption if not more or caption.endswith((".", "?", "!")) else f"{caption}."
    return " ".join([ended, *more])


def _explained(shown: pd.DataFrame, over: str) -> list[str]:
    """What a caption must say of signs that are in the table."""
    cells = [str(cell) for cell in shown.to_numpy().flat]
    said = []
    if any("±" in cell for cell in cells):
        said.append(f"Means over {over}; ±: half the width of the 95% t interval.")
    if any(re.search(r"\([^)]* to [^)]*\)", cell) for cell in cells):
        said.append("In brackets behind a number: its 95% interval.")
    if any("(" in head for head in map(_words, shown.columns)):
        said.append("In brackets in a heading: its unit.")
    return said


def _laid_out(shown: pd.DataFrame, room: str) -> tuple[list[list[str]], list[list[int]]]:
    """The lines of each column's heading, as few as hold all columns beside each other, and which
    columns stand in which of the tables below each other, in order."""
    cells = [max(map(_inked, map(_words, shown.iloc[:, k]))) for k in range(shown.shape[1])]
    heads, parts = [], []
    for most in range(1, HEAD_LINES + 1):
        both = zip(map(_words, shown.columns), cells, strict=True)
        heads = [_broken(head, width, most) for head, width in both]
        parts = _parts(shown, heads, cells, ROOM[room])
        if len(parts) == 1:
            break
    return heads, parts


def _parts(
    shown: pd.DataFrame, heads: list[list[str]], cells: list[float], room: float
) -> list[list[int]]:
    left = room - _names_width(shown, room) - 2 * GAP
    parts, free = [[]], left
    for k, (head, width) in enumerate(zip(heads, cells, strict=True)):
        needed = max(width, *map(_inked, head)) + 2 * GAP
        if parts[-1] and needed > free:
            parts.append([])
            free = left
        parts[-1].append(k)
        free -= needed
    return parts


def _tabular(
    shown: pd.DataFrame, cells: pd.DataFrame, heads: list[list[str]], part: list[int], room: float
) -> str:
    """The columns of one part, with the names of the rows at their left."""
    names = [_tex(_words(name)) for name in shown.index]
    width = _names_width(shown, room)
    broken = max(map(_inked, map(_words, shown.index)), default=0) > width
    first = f"p{{{width:.0f}pt}}" if broken else "l"
    names = [rf"\raggedright {name}" for name in names] if broken else names
    rows = cells.iloc[:, part].to_numpy()
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{first}{'r' * len(part)}}}",
            r"\toprule",
            " & ".join([_tex(_corner(shown)), *(_heading(heads[k]) for k in part)]) + r" \\",
            r"\midrule",
            *(" & ".join([name, *row]) + r" \\" for name, row in zip(names, rows, strict=True)),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _corner(shown: pd.DataFrame) -> str:
    """What the heads are, over the names of the rows."""
    names = [name for name in shown.columns.names if name is not None]
    return ", ".join(map(str, names))


def _heading(lines: list[str]) -> str:
    lines = list(map(_tex, lines))
    return lines[0] if len(lines) == 1 else r"\shortstack[r]{" + r"\\".join(lines) + "}"


def _broken(head: str, width: float, most: int) -> list[str]:
    """A heading in at most so many lines, no wider than its cells or its longest word if that is
    possible."""
    words = head.split(" ")
    width = max(width, *map(_inked, words))
    while True:
        lines = [words[0]]
        for word in words[1:]:
            longer = f"{lines[-1]} {word}"
            if _inked(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        if len(lines) <= most:
            return lines
        width *= 1.1


def _names_width(shown: pd.DataFrame, room: float) -> float:
    """Points for the names of the rows, which are broken where they take more than a third."""
    longest = max((_inked(_words(name)) for name in [*shown.index, _corner(shown)]), default=0)
    return min(longest, 0.36 * room)


@lru_cache
def _inked(text: str) -> float:
    """Points that a text takes at \\footnotesize, bold at the worst."""
    from matplotlib import get_data_path
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(fname=f"{get_data_path()}/fonts/ttf/cmb10.ttf")
    plain = re.sub(r"[^ -~]", "m", text)  # signs that the font lacks are no wider
    # cmr8 is by a sixteenth wider for its size than cmr10.
    width, _, _ = TextToPath().get_text_width_height_descent(plain, font, False)
    return 8.5 * width / font.get_size()


def _words(value: Any) -> str:
    """A head of several levels as one."""
    if isinstance(value, tuple):
        return ", ".join(map(_words, value))
    return "–" if pd.isna(value) else str(value)


def _tex(value: Any) -> str:
    if pd.isna(value):
        return "--"
    return re.sub(r"(?<![\w.)])-(?=\d)", "−", str(value)).translate(ESCAPED)
