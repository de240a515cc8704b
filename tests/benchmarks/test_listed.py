"""A CSV of paths and labels is the stream that folders of the same images are; a line that cannot
be used is named."""

import csv
import os
from pathlib import Path

import pytest
from own_images import RED, SIZE, domains, drawn, error, folder, make_domains, make_folders, write

from fmlora_lab.benchmarks import known, load
from fmlora_lab.config import Folder
from fmlora_lab.progress import once

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def nothing_said():
    once.cache_clear()


def listed(root: Path, columns: str, at="list.csv", **how) -> Path:
    """A CSV of all images under a folder; `columns` names the folders of their paths in order, and
    `-` leaves one out: "split label" for train/ant/0.png."""
    places = {name: k for k, name in enumerate(columns.split()) if name != "-"}
    rows = [["path", *places]]
    for file in sorted(root.rglob("*.png"), reverse=True):
        parts = file.relative_to(root).parts
        path = os.path.relpath(file, (root / at).parent)
        rows.append([path, *(parts[k] for k in places.values())])
    return save(root / at, rows, **how)


def save(file: Path, rows: list[list[str]], encoding="utf-8", **how) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding=encoding, newline="") as text:
        csv.writer(text, **how).writerows(rows)
    return file


def test_a_list_is_the_stream_that_its_folders_are(tmp_path, capsys):
    root = make_folders(tmp_path / "data", ("ant", "bee", 'a, "b"\nc'))
    stream = folder(listed(root, "split label"), train_images=3)
    assert stream.fingerprint == folder(root, train_images=3).fingerprint
    assert stream.class_names == folder(root).class_names
    root = make_domains(tmp_path / "domains")
    assert domains(listed(root, "domain label")).fingerprint == domains(root).fingerprint
    for domain in ("photo", "sketch"):
        make_folders(tmp_path / "split" / domain)
    root = tmp_path / "split"
    assert domains(listed(root, "domain split label")).fingerprint == domains(root).fingerprint
    capsys.readouterr()
    assert folder(root / "photo").fingerprint != folder(listed(root, "domain - label")).fingerprint
    said = capsys.readouterr().err
    assert "list.csv: left out are the columns domain\n" in said and "is not split: 30%" in said


@pytest.mark.parametrize(
    "how",
    [
        {"encoding": "utf-8-sig"},
        {"delimiter": ";"},
        {"delimiter": "\t"},
        {"quoting": csv.QUOTE_ALL},
        {"lineterminator": "\n\n"},
        {"at": "list.TSV", "delimiter": "\t"},
        {"at": "lists/of/mine.csv"},
    ],
    ids=str,
)
def test_a_list_may_be_written_as_spreadsheets_do(tmp_path, how):
    root = make_folders(tmp_path / "data")
    assert folder(listed(root, "split label", **how)).fingerprint == folder(root).fingerprint


def test_columns_may_stand_in_any_order_and_case(tmp_path):
    root = make_folders(tmp_path / "data")
    with listed(root, "split label").open(newline="") as text:
        rows = list(csv.reader(text))
    turned = [[" Label ", "SPLIT", "Path"], *([r[2], r[1].upper(), r[0]] for r in rows[1:])]
    assert folder(save(root / "b.csv", turned)).fingerprint == folder(root).fingerprint


def test_paths_may_be_absolute(tmp_path):
    """Two lists of one folder, whose images lie elsewhere, are told apart."""
    streams = []
    for place, colour in (("a", RED), ("b", (0, 0, 9))):
        files = [write(tmp_path / place / f"{k}.bmp", colour) for k in range(8)]
        for file in files:
            os.utime(file, (1, 1))
        rows = [["path", "label"], *([str(file), str(k % 2)] for k, file in enumerate(files))]
        streams.append(folder(save(tmp_path / "lists" / "list.csv", rows)))
    assert [set(drawn(stream, "train", "1")) for stream in streams] == [{RED}, {(0, 0, 9)}]


def test_labels_are_one_where_unicode_writes_them_in_two_ways(tmp_path):
    root = make_folders(tmp_path / "data", ("caf\u00e9", "ant"))
    file = listed(root, "split label")
    text = file.read_text("utf-8")
    lines = text.splitlines()
    lines[1:] = [
        line[::-1].replace("\u00e9", "\u0301e", k % 2)[::-1] for k, line in enumerate(lines[1:])
    ]
    # The label stands last, so that this leaves the path as it is on disk.
    file.write_text("\n".join(lines), "utf-8")
    assert "e\u0301" in file.read_text("utf-8") != text
    assert folder(file).fingerprint == folder(root).fingerprint


def test_validation_lines_are_as_validation_folders(tmp_path, capsys):
    root = make_folders(tmp_path / "data")
    (root / "test").rename(root / "val")
    assert folder(listed(root, "split label")).fingerprint == folder(root).fingerprint
    assert "list.csv, validation is taken for testing" in capsys.readouterr().err
    make_folders(root)
    asked = Folder(data=listed(root, "split label"), tasks=1)
    assert load(asked, SIZE, 0, 0).tasks[0].validation is None
    assert "list.csv, validation is left out" in capsys.readouterr().err
    stream = load(asked, SIZE, 0, 0, with_validation=True)
    assert len(drawn(stream, "validation", "bee")) == 4


def test_a_change_of_the_list_is_noticed_in_the_same_process(tmp_path):
    root = make_folders(tmp_path / "data")
    file = listed(root, "split label")
    before = known(Folder(data=file, tasks=1), SIZE, 0)
    text = file.read_text()
    file.write_text(text.replace("test/bee/0.png,test,bee", "test/bee/0.png,test,cat"))
    assert file.read_text() != text
    os.utime(file, (1, 1))
    assert known(Folder(data=file, tasks=1), SIZE, 0) != before


HEADER = "expected is a first line that names the columns path and label"
REFUSED = {
    "nothing": (b"", "{0} is empty; " + HEADER),
    "a header alone": (b"path,label\n", "{0} has no line after its first"),
    "no header": (b"a.png,ant\nb.png,bee\n", "the first line of {0} is 'a.png,ant'; " + HEADER),
    "a header of something else": (b"file,class\n", "the first line of {0} is 'file,class'; "),
    "a column twice": (b"path,label,label\n", "the first line of {0} is 'path,label,label'; "),
    "a field too few": (
        b"path,label\na.png,ant\nb.png\n",
        "line 3 of {0} has 1 fields, its first 2",
    ),
    "a field too many": (b"path,label\na,b.png,ant\n", "line 2 of {0} has 3 fields, its first 2"),
    "no label": (b"path,label\na.png, \n", "line 2 of {0} has no label"),
    "no path": (b"path,label\n,ant\n", "line 2 of {0} has no path"),
    "an image twice": (
        b"path,label\na.png,ant\nb.png,bee\n./x/../a.png,bee\n",
        "lines 2 and 4 of {0} both name {1}/a.png",
    ),
    "another split": (
        b"path,label,split\na.png,ant,trian\n",
        "line 2 of {0} has the split 'trian'; allowed: train, test, val, valid, validation",
    ),
    "half a split": (
        b"path,label,split\na.png,ant,train\nb.png,ant,\n",
        "line 3 of {0} has the split ''; allowed: train",
    ),
    "no test": (b"path,label,split\na.png,ant,train\n", "{0} has no line with the split test"),
    "no training": (b"path,label,split\na.png,ant,test\n", "{0} has no line with the split train"),
    "one label": (b"path,label\na.png,ant\nb.png,ant\n", "{0} has 1 labels (ant), at least 2"),
    "a label in one split": (
        b"path,label,split\na,ant,train\nb,bee,train\nc,ant,test\n",
        "must hold the same labels, but only {0}, train has bee",
    ),
    "one image to split": (
        b"path,label\na,ant\nb,ant\nc,bee\n",
        "{0} holds 1 images of 'bee'; expected is at least 2",
    ),
    "UTF-16": ("path,label\n".encode("utf-16"), "{0} cannot be read as CSV in UTF-8 ("),
    "Latin-1": ("path,label\na.png,ähre\n".encode("latin-1"), "{0} cannot be read as CSV in UTF-8"),
    "null characters": (b"path,label\na\0.png,ant\n", "{0} holds null characters"),
    "an open quote": (b'path,label\n"a.png,ant\n', "{0} cannot be read as CSV in UTF-8 ("),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_line_that_cannot_be_used_is_named(tmp_path, case):
    content, said = REFUSED[case]
    file = tmp_path / "list.csv"
    file.write_bytes(content)
    message = error(folder, file)
    assert said.replace("{0}", str(file)).replace("{1}", str(tmp_path)) in message


def test_a_list_without_domains_has_none(tmp_path):
    root = make_domains(tmp_path / "data")
    message = error(domains, listed(root, "- label"))
    assert "is 'path,label'; expected is a first line" in message and "domain" in message


def test_lists_and_files_that_are_not_there_are_named_in_one_line(tmp_path, call):
    asked = ("run", "--profile", "smoke", "--method", "lora", "--benchmark", "folder", "--data")
    code, _, err = call(*asked, tmp_path / "no.csv")
    assert (code, err.count("\n")) == (2, 1) and "no.csv cannot be read" in err
    rows = [["path", "label"], *([f"{k}.png", str(k % 2)] for k in range(9))]
    for k in range(8):
        write(tmp_path / f"{k}.png", RED)
    code, _, err = call(*asked, save(tmp_path / "list.csv", rows), "--tasks", 2)
    assert (code, err.count("\n")) == (2, 1)
    assert f"1 of 9 images under {tmp_path} cannot be read: 8.png (No such file" in err
