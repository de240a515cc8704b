"""Publishing: the same runs leave the same bytes, and say which runs they are of."""

import json

import pandas as pd
import pytest

from fmlora_lab.analysis.tables import compared, read_table, readable
from fmlora_lab.plots import dots
from fmlora_lab.render.publish import publish, rounded
from fmlora_lab.runs.sweep import load_frame

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def found():
    """Two methods of a collection, three seeds each."""
    return load_frame("glyphs-10", ["linear-probe", "prototypes"])


def published(folder, found, **more):
    table = readable(compared(found), ["acc", "forgetting"])
    picture = dots({"a": {"x": 1.0}, "b": {"x": 2.0}}, "x", "Title")
    return publish(
        folder,
        found,
        figures={"picture": picture, "left_out": None},
        table=table,
        title="A title",
        question="Is it so?",
        answer="It is.",
        numbers={"acc": found.acc.mean()},
        **more,
    )


def test_publishing_twice_gives_the_same_bytes(found, tmp_path):
    first, again = (published(tmp_path / part / "name", found) for part in "ab")
    assert [path.name for path in first] == [
        "picture.png", "picture.svg", "picture.pdf", "name.csv", "name.md", "name.tex", "runs.csv",
        "answer.md", "figures.json", "results.json", "provenance.json",
    ]  # fmt: skip
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_what_is_published_says_what_it_is_and_where_it_comes_from(found, tmp_path):
    folder = tmp_path / "name"
    published(folder, found)
    assert (folder / "answer.md").read_text() == "# A title\n\n**Is it so?**\n\nIt is.\n"
    assert json.loads((folder / "results.json").read_text()) == {"acc": rounded(found.acc.mean())}
    about = {"picture": {"title": "Title", "width": "column"}}
    assert json.loads((folder / "figures.json").read_text()) == about
    source = json.loads((folder / "provenance.json").read_text())
    assert source["notebook"] == "name" and set(source["runs"]) == set(map(str, found.run))
    assert source["methods"] == ["linear-probe", "prototypes"]
    assert (source["orders"], source["seeds"]) == ([0], [0, 1, 2])
    assert {"torch", "timm", "fmlora-lab"} <= source["drawn_with"].keys()
    every = pd.read_csv(folder / "runs.csv")
    assert every.acc.tolist() == found.acc.tolist() and every.run.tolist() == [*map(str, found.run)]


def test_the_table_is_there_to_be_read_in_every_format(found, tmp_path):
    folder = tmp_path / "name"
    published(folder, found)
    rows = ["linear probe", "nearest class mean"]
    assert list(read_table(folder).index) == rows
    markdown, latex = ((folder / f"name.{kind}").read_text() for kind in ("md", "tex"))
    assert all(f"| {row} | " in markdown and f"{row} & " in latex for row in rows)
    assert r"\toprule" in latex and r"\label{tab:name}" in latex and "Is it so?" in latex
    assert "Means over 3 seeds of training" in latex
    published(folder, found, width="page")
    assert r"\begin{table*}" in (folder / "name.tex").read_text()
    published(folder, found, latex="another table")
    assert (folder / "name.tex").read_text() == "another table"


def test_published_numbers_are_json():
    assert rounded({"a": float("nan"), 1: [0.123456789]}) == {"a": None, "1": [0.123457]}
