"""LaTeX: well formed, escaped, the same each time, and bold only for what is clearly best."""

import re
import shutil
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from compiling import overfull

from fmlora_lab.analysis.latex import clearly_best, to_latex
from fmlora_lab.analysis.tables import pivot
from fmlora_lab.config import BadInput
from fmlora_lab.runs.frame import frame

pytestmark = pytest.mark.unit

SUMMARY = pd.DataFrame(
    [
        ("lora", 5, 50.0, 49.0, 51.0),
        ("lora", 10, 40.0, 39.0, 41.0),
        ("my_own", 5, 60.0, 58.0, 62.0),
        ("my_own", 10, 42.0, 40.0, 44.0),
        ("joint", 5, np.nan, np.nan, np.nan),
    ],
    columns=["method", "tasks", "acc", "acc_low", "acc_high"],
)

TABLE = r"""% The preamble needs \usepackage{booktabs}.
\begin{table}
\centering\footnotesize
\setlength{\tabcolsep}{3pt}
\caption{Acc by N. Means over class orders; $\pm$: half the width of the 95\% t interval.}
\label{tab:a_b}
\begin{tabular}{lrr}
\toprule
tasks & 5 & 10 \\
\midrule
sequential LoRA & 50.0 $\pm$ 1.0 & 40.0 $\pm$ 1.0 \\
my\_own & \textbf{60.0 $\pm$ 2.0} & 42.0 $\pm$ 2.0 \\
joint training & -- & -- \\
\bottomrule
\end{tabular}
\par\smallskip{Bold: the best of its column, where the 95\% interval of its """
TABLE += r"""difference from every other, paired by order, excludes 0.\par}
\end{table}
"""


def latex(summary: pd.DataFrame, columns: str = "tasks", bold: np.ndarray | None = None) -> str:
    return to_latex(pivot(summary, "method", columns, "acc"), "Acc by N", "tab:a_b", bold)


def best(cells, **methods: Sequence[float | None]) -> list[bool]:
    """Which of methods is clearly best, each with its Acc by class order."""
    rows = [
        ({"method": name, "tasks": 5}, cells(name, acc, acc, acc, order=order))
        for name, accs in methods.items()
        for order, acc in enumerate(accs)
        if acc is not None
    ]
    return clearly_best(frame(rows), "method", "tasks", "acc")[:, 0].tolist()


def check_structure(text: str, columns: int) -> None:
    """Braces and environments close in order, and each row has one cell a column."""
    plain = re.sub(r"\\[\\{}]", "", text.split("\n", 1)[1])
    assert plain.count("{") == plain.count("}")
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", plain):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert rows and {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}
    assert len(re.search(r"begin\{tabular\}\{(\w+)\}", text)[1]) == columns
    order = [text.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert order == sorted(order)


def test_a_table_is_this_to_the_byte():
    bold = np.array([[False, False], [True, False], [False, False]])
    assert latex(SUMMARY, bold=bold) == TABLE
    check_structure(TABLE, 3)


def test_bold_is_what_is_better_than_every_other_in_the_same_orders(stored_run):
    own = [40, 50, 70]
    assert best(stored_run, lora=own, full=[42, 52.5, 72]) == [False, True]
    assert best(stored_run, lora=own, full=[41, 53, 72]) == [False, False]
    assert best(stored_run, lora=own, full=[42, 52.5, 72], l2p=[30, 60, 70]) == [False] * 3
    assert best(stored_run, lora=own, full=own) == [False, False], "a tie has no best"


def test_bold_needs_rivals_with_orders_in_common(stored_run):
    assert best(stored_run, lora=[40, 50, 70]) == [False]
    assert best(stored_run, lora=[40.0], full=[90.0]) == [False, False]
    without = [None, None, None, 42, 43]
    assert best(stored_run, lora=[40, 50, 70], full=[60, 71, 91], l2p=without) == [False] * 3


def test_bold_is_by_column(stored_run):
    accs = {("lora", 5): (40, 50), ("full", 5): (60, 71), ("lora", 9): (60, 71)}
    accs |= {("full", 9): (40, 50)}
    rows = [
        ({"method": name, "tasks": n}, stored_run(name, acc, acc, acc, order=order))
        for (name, n), pair in accs.items()
        for order, acc in enumerate(pair)
    ]
    bold = clearly_best(frame(rows), "method", "tasks", "acc")
    assert bold.tolist() == [[False, True], [True, False]]


def test_without_intervals_the_table_says_that_nothing_is_bold():
    alone = SUMMARY[["method", "tasks", "acc"]]
    text = latex(alone, bold=np.zeros((3, 2), bool))
    assert r"\pm" not in text and "60.0" in text
    assert text.index(r"\end{tabular}") < text.index("so nothing is bold")
    check_structure(text, 3)


def test_special_characters_print_as_themselves():
    table = pd.DataFrame(
        {"a_b & c": [r"5% #1 \x", "p{q} ~^$"], 'λ ≤ "2"': ["1 ± 2", None]}, index=["x_1", "y<z"]
    )
    text = to_latex(table, "50% of R&D", "tab:x")
    check_structure(text, 3)
    for written in (
        r"\caption{50\% of R\&D. Means over class orders; $\pm$: half",
        r' & a\_b \& c & $\lambda$ $\le$ "2" \\',
        r"x\_1 & 5\% \#1 \textbackslash{}x & 1 $\pm$ 2 \\",
        r"y$<$z & p\{q\} \textasciitilde{}\textasciicircum{}\$ & -- \\",
    ):
        assert written in text
    assert text.isascii() and "textbf" not in text and "smallskip" not in text


def test_a_minus_is_one_and_a_hyphen_stays():
    table = pd.DataFrame({"gain, closed-form": ["-0.5 ± 0.2"]}, index=["SD-LoRA"])
    text = to_latex(table, "c", "l")
    assert r"SD-LoRA & $-$0.5 $\pm$ 0.2 \\" in text and "closed-form" in text


def test_heads_are_escaped_too():
    own = (
        SUMMARY.assign(tasks="N_t & 5%").drop_duplicates("method").rename(columns={"tasks": "a_b"})
    )
    text = latex(own, "a_b")
    assert r"a\_b & N\_t \& 5\% \\" in text
    check_structure(text, 2)


def test_heads_of_several_levels_need_no_further_package():
    heads = pd.MultiIndex.from_tuples([("a_b", 5), ("a_b", 10)])
    index = pd.MultiIndex.from_tuples([("m", "u"), ("m", "v")], names=["p_q", "r"])
    text = to_latex(pd.DataFrame([[1.5, 2], ["x", "y"]], index, heads), "c", "l")
    check_structure(text, 3)
    assert "multi" not in text and "cline" not in text and text.count(r"a\_b") == 2


LONG = {
    "forgetting, trained head (points)": "23.6 ± 2.3",
    "Acc, best closed-form head (%)": "67.7 ± 2.6",
    "kept besides the backbone": "1,216,896",
    "gain, best closed-form head (points)": "+6.9 ± 0.7",
    "Spearman": "+0.62 (+0.24 to +0.84)",
}


def wide(columns: int) -> pd.DataFrame:
    """As many columns of long headings, over rows of which one has a long name."""
    cells = list(LONG.items()) * columns
    heads = [f"{head} {k}" for k, (head, _) in enumerate(cells[:columns])]
    row = [cell for _, cell in cells[:columns]]
    names = ["FM-LoRA", "directions of its own for each task, at ten times the rate (ours)"]
    return pd.DataFrame([row, row], names, heads)


def test_a_table_is_as_wide_as_it_needs_or_as_is_asked_and_splits_where_it_must():
    assert to_latex(wide(2), "c", "l").count(r"\begin{table}") == 1
    assert to_latex(wide(7), "c", "l").count(r"\begin{table*}") == 1
    for width, name in (("column", "table"), ("page", "table*")):
        text = to_latex(wide(20), "c", "l", width=width)
        assert text.count(rf"\begin{{{name}}}") == 1
        parts = re.findall(r"toprule\n(.*?)\\bottomrule", text, re.DOTALL)
        assert len(parts) > 1 and all("FM-LoRA & " in part for part in parts)
        heads = re.findall(r"(\d+)(?=\}| & | \\\\)", " ".join(re.findall(r"toprule\n(.*)", text)))
        assert list(map(int, heads)) == list(range(20))
    with pytest.raises(BadInput, match="width is 'poster'"):
        to_latex(wide(2), "c", "l", width="poster")


def test_a_caption_says_what_signs_and_brackets_mean():
    text = to_latex(wide(5), "What is gained?", "l", over="5 class orders")
    assert (
        r"\caption{What is gained? Means over 5 class orders; $\pm$: half the width of the 95\% t "
        r"interval. In brackets behind a number: its 95\% interval. In brackets in a heading: its "
        r"unit.}"
    ) in text
    plain = to_latex(pd.DataFrame({"a": ["1"]}), "c", "l")
    assert r"\caption{c}" in plain


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
@pytest.mark.parametrize("width", [None, "column", "page"])
def test_tables_compile_and_none_is_wider_than_its_column(width, tmp_path):
    tables = [to_latex(wide(n), "Why ± here?", f"tab:{n}", width=width) for n in (1, 3, 7, 20)]
    signs = pd.DataFrame({"‖ΔW‖ × λ ≤ σ, τ ≥ ρ → ᵀ": ["−1 – 2’s", "a_b & c%#"]})
    bold = np.array([[True], [False]])
    tables.append(to_latex(signs, "|Δ| < 2 ~ x^2", "tab:signs", bold, width))
    assert overfull("\n".join(tables), tmp_path) == []
    too_wide = tables[-1].replace("a\\_b", "a\\_b" + "\\rule{600pt}{1pt}")
    assert overfull(too_wide, tmp_path)
