"""Tables as LaTeX with booktabs. Bold says "clearly best": an interval that overlaps no other."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fmlora_lab.analysis.tables import numbers

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
    "Mean ± standard deviation over seeds. Bold: the best of its column, where its 95% bootstrap "
    "interval overlaps no other."
)
SINGLE = "One seed: there are no intervals, so nothing is bold."


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


def clearly_best(
    summary: pd.DataFrame, rows: str, columns: str, value: str, highest: bool = True
) -> NDArray[np.bool_]:
    """Which cells of `tables.pivot` are the best of their column with an interval that overlaps
    no other row's: (rows, columns). Nothing is where there are no intervals."""
    names = (value, f"{value}_low", f"{value}_high")
    means = numbers(summary, rows, columns, value).to_numpy(float)
    best = np.zeros(means.shape, bool)
    if names[1] in summary and summary[names[1]].notna().to_numpy().any():
        of = [numbers(summary, rows, columns, name).to_numpy(float) for name in names]
        for column, (mean, low, high) in enumerate(np.stack(of).transpose(2, 0, 1)):
            if (row := _clear_best(mean, low, high, highest)) is not None:
                best[row, column] = True
    return best


def _clear_best(
    mean: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], highest: bool
) -> int | None:
    """The row of the best of `mean` (rows,) if its [low, high] overlaps no other row's, else None.

    A row without a mean does not compete; one without an interval may overlap any.
    """
    there = np.flatnonzero(~np.isnan(mean))
    if len(there) < 2:
        return None
    best = there[np.argmax(mean[there] if highest else -mean[there])]
    others = there[there != best]
    apart = (low[best] > high[others]) | (high[best] < low[others])
    return int(best) if apart.all() else None


def _tex(value: Any) -> str:
    return "--" if pd.isna(value) else str(value).translate(ESCAPED)


def _name(name: Any) -> str:
    return "" if name is None else _tex(name)
