"""Tables as LaTeX with booktabs. Bold says "clearly best": an interval that overlaps no other."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fmlora_lab.analysis.tidy import grid, pivot

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
    summary: pd.DataFrame,
    rows: str,
    columns: str,
    value: str,
    caption: str,
    label: str,
    highest: bool = True,
) -> str:
    r"""What `tidy.summarize` gives, as a `table`: cells `54.0 $\pm$ 1.2`, in order of appearance.

    A column's best mean (`highest`, or lowest) is bold if there is another and its interval
    overlaps none. Raises BadInput if `rows` and `columns` do not tell the summary's rows apart.
    """
    cells = pivot(summary, rows, columns, value).map(_tex)
    low, high = f"{value}_low", f"{value}_high"
    if low not in summary or summary[low].isna().all():
        return _environment(cells, caption, label, SINGLE)
    of = [grid(summary, rows, columns, name).to_numpy(float) for name in (value, low, high)]
    for column, numbers in enumerate(np.stack(of).transpose(2, 0, 1)):
        if (row := _clear_best(*numbers, highest)) is not None:
            cells.iloc[row, column] = rf"\textbf{{{cells.iloc[row, column]}}}"
    return _environment(cells, caption, label, SEVERAL)


def plain_latex(table: pd.DataFrame, caption: str, label: str) -> str:
    """Any table that is ready to read, as a `table`: escaped, nothing bold, no index names."""
    return _environment(table.map(_tex), caption, label)


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


def _environment(cells: pd.DataFrame, caption: str, label: str, note: str | None = None) -> str:
    """A `table` around cells that are LaTeX already; heads, caption and note are plain text."""
    heads = cells.rename(index=_tex, columns=_tex).rename_axis(columns=_name)
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


def _tex(value: Any) -> str:
    return "--" if pd.isna(value) else str(value).translate(ESCAPED)


def _name(name: Any) -> str:
    return "" if name is None else _tex(name)
