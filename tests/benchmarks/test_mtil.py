"""Data sets one after another: folders as they come, published orders, texts of their own."""

import numpy as np
import pytest
from PIL import Image

from fmlora_lab.benchmarks import known, load
from fmlora_lab.benchmarks.mtil import DATASETS, SECOND, ordered
from fmlora_lab.config import BadInput, Mtil

CLASSES = {
    "dtd": ["banded", "dotted"],
    "food": ["apple_pie", "ramen", "sushi"],
    "caltech101": ["airplane", "banded"],
    "own": ["thing", "other"],
}


@pytest.fixture
def root(tmp_path):
    for d, (dataset, classes) in enumerate(CLASSES.items()):
        for part, each in (("train", 7), ("test", 2)):
            for c, name in enumerate(classes):
                for n in range(each):
                    file = tmp_path / dataset / part / name / f"{n}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    value = np.full((8, 8, 3), 40 * d + 9 * c + n, np.uint8)
                    Image.fromarray(value).save(file)
    return tmp_path


def test_a_task_is_a_data_set_with_its_own_classes_and_texts(root):
    stream = load(Mtil(data=root), 8, 0, 0)
    assert [task.name for task in stream.tasks] == ["caltech101", "dtd", "food", "own"]
    assert stream.class_names == (
        *("caltech101/airplane", "caltech101/banded", "dtd/banded", "dtd/dotted"),
        *("food/apple_pie", "food/ramen", "food/sushi", "own/other", "own/thing"),
    )
    assert [list(task.classes) for task in stream.tasks] == [[0, 1], [2, 3], [4, 5, 6], [7, 8]]
    assert all(len(task.train) == 5 * len(task.classes) for task in stream.tasks)
    assert all(len(task.test) == 2 * len(task.classes) for task in stream.tasks)
    for task in stream.tasks:
        assert set(task.train.labels.tolist()) == set(task.classes)
    assert stream.texts[2] == ["a photo of a banded texture.", "a photo of a banded pattern."]
    assert stream.texts[4] == ["a photo of apple pie, a type of food."]
    assert stream.texts[7] == ["a photo of a other."]


def test_five_shots_are_the_same_images_whatever_else_is_asked_for(root):
    five, all_of_them = (load(Mtil(data=root, train_images=n), 8, 0, 0) for n in (5, None))
    few = {p.numpy().tobytes() for p in five.tasks[1].train.pixels}
    assert few < {p.numpy().tobytes() for p in all_of_them.tasks[1].train.pixels}
    again = load(Mtil(data=root), 8, 1, 0)
    assert {p.numpy().tobytes() for p in again.tasks[1].train.pixels} == few


def test_published_orders_are_of_what_is_there():
    assert ordered(1, ["food", "own", "dtd"]) == ("dtd", "food", "own")
    assert ordered(2, ["dtd", "own", "food"]) == ("food", "dtd", "own")
    assert set(SECOND) == set(DATASETS)
    assert list(DATASETS) == sorted(DATASETS)


def test_its_name_is_known_without_loading_and_changes_with_its_files(root):
    before = known(Mtil(data=root), 8, 0)
    assert before.fingerprint == load(Mtil(data=root), 8, 0, 0).fingerprint
    assert before.names == ("caltech101", "dtd", "food", "own")
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(
        root / "own" / "test" / "thing" / "9.png"
    )
    assert known(Mtil(data=root), 8, 0).fingerprint != before.fingerprint


def test_what_is_no_such_folder_is_said(tmp_path, root):
    with pytest.raises(BadInput, match="the folders of two or more data sets"):
        known(Mtil(data=root / "dtd" / "train" / "banded"), 8, 0)
    with pytest.raises(BadInput, match="the folders of two or more data sets"):
        known(Mtil(data=tmp_path / "nowhere"), 8, 0)
    (root / "empty").mkdir()
    with pytest.raises(BadInput, match="empty"):
        known(Mtil(data=root), 8, 0)


def test_the_names_of_the_data_sets_are_part_of_what_is_read(root):
    """They say how classes are put into words, which two towers learn from."""
    before = known(Mtil(data=root), 8, 0).fingerprint
    assert load(Mtil(data=root), 8, 0, 0).fingerprint == before
    (root / "dtd").rename(root / "dth")
    stream = load(Mtil(data=root), 8, 0, 0)
    assert stream.texts[0] != ["a photo of a banded texture."]
    assert before != stream.fingerprint == known(Mtil(data=root), 8, 0).fingerprint
