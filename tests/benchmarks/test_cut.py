"""Streams as the field cuts them: how many classes a task brings, and in which order they come."""

import json

import numpy as np
import pytest

from fmlora_lab.benchmarks import cut_of, known
from fmlora_lab.benchmarks.cut import PUBLISHED, arranged, shortest, sizes, sizes_said
from fmlora_lab.config import BadInput, Folder, GlyphDomains, Glyphs

pytestmark = pytest.mark.unit

NAMES = ("ant", "bee", "cat", "dog")


@pytest.mark.parametrize(
    ("tasks", "classes", "each"),
    [
        (10, 100, (10,) * 10),
        (3, 7, (3, 2, 2)),
        (10, 101, (11, *(10,) * 9)),
        (7, 7, (1,) * 7),
        ("B50-Inc10", 100, (50, *(10,) * 5)),
        ("B0-Inc10", 100, (10,) * 10),
        ("B50-Inc10", 101, (50, *(10,) * 5, 1)),
        ("B0-Inc30", 100, (30, 30, 30, 10)),
        ("B100-Inc5", 100, (100,)),
        ((5, 1, 1, 1, 1, 1), 10, (5, 1, 1, 1, 1, 1)),
    ],
)
def test_classes_of_each_task(tasks, classes, each):
    assert sizes(tasks, classes) == each
    assert sizes(shortest(each), classes) == each


@pytest.mark.parametrize("base", [0, 5, 50])
@pytest.mark.parametrize("step", [5, 7, 20])
@pytest.mark.parametrize("n", [100, 101, 65])
def test_base_and_increment_are_what_others_make_of_them(base, step, n):
    """PyCIL's and PILOT's loop, with its init_cls = increment where the notation says B0."""
    increments = [base or step]
    while sum(increments) + step < n:
        increments.append(step)
    if n > sum(increments):
        increments.append(n - sum(increments))
    assert sizes(f"B{base}-Inc{step}", n) == tuple(increments)


@pytest.mark.parametrize(
    ("given", "known_as"),
    [("b50inc10", "B50-Inc10"), ("B50 Inc10", "B50-Inc10"), ("B050_INC10", "B50-Inc10"),
     ([5, 1], (5, 1)), (3, 3)],
)  # fmt: skip
def test_the_notation_is_read_as_people_write_it(given, known_as):
    assert Folder(data="x", tasks=given).tasks == known_as


@pytest.mark.parametrize("given", [0, -1, True, 2.0, "10x", "B5-Inc0", "", [], [3, 0], [2, "a"]])
def test_what_is_no_cut_is_refused(given):
    with pytest.raises(ValueError, match="allowed: a number of tasks, B50-Inc10, or a list"):
        Folder(data="x", tasks=given)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (8, "benchmark.tasks is 8; allowed for 7 classes: 1 to 7"),
        ("B8-Inc1", "benchmark.tasks is 'B8-Inc1', but there are 7 classes"),
        ((5, 1), r"benchmark.tasks is \[5, 1\], 6 classes together, but there are 7"),
    ],
)
def test_what_does_not_come_out_is_refused(tasks, said):
    with pytest.raises(BadInput, match=said):
        sizes(tasks, 7)


@pytest.mark.parametrize(
    ("each", "said"),
    [
        ((3, 2, 2), "3 tasks of 3 and 2 × 2 classes"),
        ((50, *(10,) * 5, 1), "7 tasks of 50, 5 × 10 and 1 classes"),
        ((4, 4), "2 tasks of 2 × 4 classes"),
    ],
)
def test_sizes_are_said(each, said):
    assert sizes_said(each) == said


def test_pilots_order_is_numpys_permutation_of_that_seed():
    np.random.seed(1993)
    theirs = np.random.permutation(100).tolist()
    assert arranged("pilot-1993", [f"{k}" for k in range(100)], 0) == theirs
    assert theirs[:5] == [68, 56, 78, 8, 23]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_orders_have_every_class_once(name):
    names = [f"class {k}" for k in range(100)]
    assert sorted(arranged(name, names, 0)) == list(range(100))
    with pytest.raises(BadInput, match=f"benchmark.order is '{name}', which is of 100 classes"):
        arranged(name, NAMES, 0)


@pytest.mark.parametrize(
    "text", ["dog\nbee\n\n ant \ncat", "3\n1\n0\n2", '["dog", "bee", "ant", "cat"]', "[3, 1, 0, 2]"]
)
def test_an_order_is_read_from_a_file_or_a_list(tmp_path, text):
    file = tmp_path / "order.txt"
    file.write_text(text, encoding="utf-8-sig")
    assert arranged(str(file), NAMES, 0) == [3, 1, 0, 2]
    if text[0] == "[":
        assert arranged(json.loads(text), NAMES, 0) == [3, 1, 0, 2]


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (["dog", "bee", "ant"], "a list lacks the classes cat"),
        (["dog", "bee", "ant", "cow"], "a list has cow, not among the 4 classes"),
        ([0, 1, 2, 3, 3], "a list has dog more than once"),
        ([0, 1, 2, 4], "a list has 4, not among"),
        ([0, 1, 2, -1], "a list has -1, not among"),
        ("nowhere.txt", "benchmark.order is 'nowhere.txt'; allowed: drawn, natural, pilot-SEED"),
        ("pilot-99999999999", "NumPy's seeds end at"),
    ],
)
def test_what_is_no_order_is_refused(order, said):
    with pytest.raises(BadInput, match=said):
        arranged(order, NAMES, 0)


def test_damaged_files_of_orders_are_refused(tmp_path):
    file = tmp_path / "order"
    for content, said in ((b"[1, 2", "no JSON list"), (b"[[1]]", "names or positions only"),
                          (b"\xff\xfe\x00", "no UTF-8 text")):  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(BadInput, match=said):
            arranged(str(file), NAMES, 0)


def test_numbers_are_names_where_classes_are_named_so_and_never_silently_positions():
    numbered = ("0", "1", "10", "2")
    assert arranged(["2", "10", "1", "0"], numbered, 0) == [3, 2, 1, 0]
    with pytest.raises(BadInput, match="may be names or positions"):
        arranged([0, 1, 2, 10], numbered, 0)
    assert arranged([2, 1, 0], ("0", "1", "2"), 0) == [2, 1, 0]  # both are the same


def test_one_stream_has_one_form_in_whichever_words():
    def plain(**settings):
        asked = Glyphs(**settings)
        found = cut_of(asked, known(asked, 32, 0).names)
        return found.tasks, found.order

    first, *rest = known(Glyphs(), 32, 0).names
    assert plain(tasks="B0-Inc10") == plain(tasks=[10] * 10) == plain() == (10, "drawn")
    assert plain(tasks="B50-Inc10")[0] == (50, 10, 10, 10, 10, 10)
    assert plain(order=list(range(100))) == plain(order="natural")
    assert plain(order=[*range(1, 100), 0])[1] == (*rest, first)


def test_domains_come_in_a_given_order_too():
    names = known(GlyphDomains(), 32, 0).names
    asked = GlyphDomains(order=names[::-1])
    assert arranged(asked.order, names, 5, "domains") == list(range(len(names)))[::-1]
    with pytest.raises(BadInput, match="lacks the domains"):
        cut_of(GlyphDomains(order=names[1:]), names)
