"""LaTeX: well formed, escaped, the same each time, and bold only for what is clearly best."""

import re

import numpy as np
import pandas as pd
import pytest

from fmlora_lab.analysis.latex import clearly_best, to_latex
from fmlora_lab.analysis.tables import pivot

pytestmark = pytest.mark.unit

SEEDS = pd.DataFrame(
    [
        ("lora", 5, 50.0, 1.0, 49.0, 51.0),
        ("lora", 10, 40.0, 1.0, 39.0, 41.0),
        ("my_own", 5, 60.0, 2.0, 58.0, 62.0),
        ("my_own", 10, 42.0, 2.0, 40.0, 44.0),
        ("joint", 5, np.nan, np.nan, np.nan, np.nan),
    ],
    columns=["method", "tasks", "acc", "acc_std", "acc_low", "acc_high"],
)

TABLE = r"""% The preamble needs \usepackage{booktabs}.
\begin{table}
\centering
\caption{Acc by N}
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
\par\smallskip{\footnotesize Mean $\pm$ standard deviation over seeds. Bold: the best of its """
TABLE += r"""column, where its 95\% bootstrap interval overlaps no other.\par}
\end{table}
"""


def latex(summary: pd.DataFrame, columns: str = "tasks", highest: bool = True) -> str:
    bold = clearly_best(summary, "method", columns, "acc", highest)
    return to_latex(pivot(summary, "method", columns, "acc"), "Acc by N", "tab:a_b", bold)


def bold(text: str) -> list[str]:
    return re.findall(r"\\textbf\{([\d.]+)", text)


def of(*rows: tuple[float, float, float]) -> pd.DataFrame:
    """One column; a row from (mean, low, high)."""
    own = pd.DataFrame(rows, columns=["acc", "acc_low", "acc_high"])
    return own.assign(method=[f"m{i}" for i in range(len(rows))], tasks=5)


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
    assert latex(SEEDS) == TABLE
    others = SEEDS[SEEDS.columns[::-1]].assign(seeds=3)
    assert latex(others) == TABLE
    check_structure(TABLE, 3)


def test_bold_is_what_lies_apart_from_every_other():
    assert bold(latex(of((50, 49, 51), (60, 52, 68)))) == ["60.0"]
    assert bold(latex(of((50, 49, 51), (60, 51, 69)))) == [], "touching intervals overlap"
    assert bold(latex(of((50, 40, 60), (70, 59, 81), (75, 74, 76)))) == []
    assert bold(latex(of((50, 40, 62), (55, 54, 56), (40, 39, 41)))) == [], "not the next best only"
    assert bold(latex(of((60, 60, 60), (60, 60, 60)))) == [], "a tie has no best"


def test_the_lowest_is_best_where_less_is_better():
    own = of((5, 4, 6), (9, 8, 10), (20, 19, 21))
    assert bold(latex(own, highest=False)) == ["5.0"] and bold(latex(own)) == ["20.0"]


def test_bold_needs_a_rival_and_every_rivals_interval():
    assert bold(latex(of((50, 49, 51), (np.nan,) * 3))) == []
    assert bold(latex(of((50, 49, 51), (60, 59, 61), (np.nan,) * 3))) == ["60.0"]
    assert bold(latex(of((50, np.nan, np.nan), (60, 59, 61)))) == []
    assert bold(latex(of((50, 49, 51), (60, np.nan, np.nan)))) == []


@pytest.mark.parametrize("intervals", [[], ["acc_std", "acc_low", "acc_high"]], ids=str)
def test_without_intervals_nothing_is_bold_and_the_table_says_so(intervals):
    text = latex(SEEDS[["method", "tasks", "acc"]].assign(**dict.fromkeys(intervals, np.nan)))
    assert not bold(text) and r"\pm" not in text and "60.0" in text
    assert text.index(r"\end{tabular}") < text.index("so nothing is bold")
    check_structure(text, 3)


def test_special_characters_print_as_themselves():
    table = pd.DataFrame(
        {"a_b & c": [r"5% #1 \x", "p{q} ~^$"], 'λ ≤ "2"': ["1 ± 2", None]}, index=["x_1", "y<z"]
    )
    text = to_latex(table, "50% of R&D", "tab:x")
    check_structure(text, 3)
    for written in (
        r"\caption{50\% of R\&D}",
        r' & a\_b \& c & $\lambda$ $\le$ "2" \\',
        r"x\_1 & 5\% \#1 \textbackslash{}x & 1 $\pm$ 2 \\",
        r"y$<$z & p\{q\} \textasciitilde{}\textasciicircum{}\$ & -- \\",
    ):
        assert written in text
    assert text.isascii() and "textbf" not in text and "footnotesize" not in text


def test_heads_are_escaped_too():
    own = SEEDS.assign(tasks="N_t & 5%").drop_duplicates("method").rename(columns={"tasks": "a_b"})
    text = latex(own, "a_b")
    assert r"a\_b & N\_t \& 5\% \\" in text
    check_structure(text, 2)


def test_heads_of_several_levels_need_no_further_package():
    heads = pd.MultiIndex.from_tuples([("a_b", 5), ("a_b", 10)])
    index = pd.MultiIndex.from_tuples([("m", "u"), ("m", "v")], names=["p_q", "r"])
    text = to_latex(pd.DataFrame([[1.5, 2], ["x", "y"]], index, heads), "c", "l")
    check_structure(text, 4)
    assert "multi" not in text and "cline" not in text and text.count(r"a\_b") == 2
