"""Tables as LaTeX with booktabs. Bold says "clearly best": better than every other, by interval."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fmlora_lab.analysis.differences import differences_of
from fmlora_lab.analysis.tables import numbers, summarize
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
        "σ": r"$\sigma$",
        "τ": r"$\tau$",
        "ᵀ": r"$^\top$",
    }
)
"""LaTeX's special characters, and the lab's symbols that plain LaTeX does not know."""

SEVERAL = (
    "Mean over class orders ± half the width of its 95% t interval. Bold: the best of its column, "
    "where the 95% interval of its difference from every other, paired by order, excludes 0."
)
SINGLE = "One class order: there are no intervals, so nothing is bold."


def to_latex(
    shown: pd.DataFrame, caption: str, label: str, bold: NDArray[np.bool_] | None = None
) -> str:
    """A table that is ready to read as a LaTeX `table`, escaped; `bold` (rows, columns) as
    `clearly_best` gives it, with a note of what it says."""
    cells = shown.map(_tex)
    note = None
    if bold is not None:
        note = SEVERAL if any("±" in str(cell) for cell in shown.to_numpy().flat) else SINGLE
        cells = cells.mask(bold, r"\textbf{" + cells.astype(str) + "}")
    heads = cells.rename(index=_tex, columns=_tex).rename_axis(columns=_name, index=_name)
    tabular = heads.to_latex(
        escape=False,
        index_names=False,
        sparsify=False,
        multirow=False,
        column_format="l" * cells.index.nlevels + "r" * cells.shape[1],
    )
    lines = [
        r"% The preamble needs \usepackage{booktabs}.",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(caption)}}}",
        rf"\label{{{label}}}",
        tabular.rstrip(),
        *([rf"\par\smallskip{{\footnotesize {_tex(note)}\par}}"] if note else []),
        r"\end{table}",
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


def _tex(value: Any) -> str:
    return "--" if pd.isna(value) else str(value).translate(ESCAPED)


def _name(name: Any) -> str:
    return "" if name is None else _tex(name)
