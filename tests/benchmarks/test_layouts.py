"""Folders as they come: each layout is recognised, or what is wrong with it is named; nothing is
left out without a word."""

import os
import unicodedata
from pathlib import Path

import pytest
from own_images import (
    RED,
    SIZE,
    colour_of,
    domains,
    drawn,
    error,
    folder,
    make_domains,
    make_folders,
    write,
)

from fmlora_lab import run
from fmlora_lab.benchmarks import known, load
from fmlora_lab.config import Folder
from fmlora_lab.progress import TOLD, once
from fmlora_lab.runs.estimate import stream_sizes

pytestmark = pytest.mark.unit

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.fixture(autouse=True)
def nothing_said():
    once.cache_clear()


def make_classes(root: Path, names=("ant", "bee"), count=10, inner="") -> Path:
    for label, name in enumerate(names):
        for k in range(count):
            write(root / name / inner / f"{k}.png", colour_of(0, label, k))
    return root


def make_tiny_imagenet(root: Path) -> Path:
    """Six images a class to train on, four to validate on, tests without labels."""
    make_folders(root, ("n01", "n02"), test=4)
    lines = ""
    for label, name in enumerate(("n01", "n02")):
        (root / "train" / name / "images").mkdir()
        for file in (root / "train" / name).glob("*.png"):
            file.rename(file.parent / "images" / file.name)
        (root / "train" / name / f"{name}_boxes.txt").write_text("0.png\t0\t0\t9\t9\n")
        for k in range(4):
            write(root / f"val/images/val_{label + 2 * k}.png", colour_of(1, label, k))
            lines += f"val_{label + 2 * k}.png\t{name}\t0\t0\t9\t9\n"
    (root / "val/val_annotations.txt").write_text(lines)
    for file in (root / "test").rglob("*.png"):
        file.unlink()
    for name in ("n01", "n02"):
        (root / "test" / name).rmdir()
    write(root / "test/images/test_0.png", RED)
    (root / "wnids.txt").write_text("n01\nn02\n")
    return root


def validating(root: Path, **settings):
    return load(Folder(data=root, tasks=1, **settings), SIZE, 0, 0, with_validation=True)


# --- layouts that are known --------------------------------------------------------------------


def test_a_split_folder_has_the_fingerprint_that_it_always_had(tmp_path):
    """Fixed before other layouts were known: a run's name must not change."""
    root = make_folders(tmp_path / "a", classes=("ant", "bee", NFD))
    assert folder(root).fingerprint.startswith("fe89b89209e1df75940c1d28031515c8")
    drawn_of_it = folder(root, train_images=3, data_seed=1)
    assert drawn_of_it.fingerprint.startswith("20eeae9a232c722586595287413520e2")
    root = make_domains(tmp_path / "b")
    assert domains(root).fingerprint.startswith("068c50ed40bd725004c4a5700857140d")
    drawn_of_it = domains(root, train_images=3, data_seed=1, test_share=0.5)
    assert drawn_of_it.fingerprint.startswith("3e47ef4434d0917fed1491fa42a91276")


def test_classes_without_a_split_hold_out_a_share_of_each(tmp_path, capsys):
    root = make_classes(tmp_path / "data")
    stream = folder(root)
    for label, name in enumerate(("ant", "bee")):
        train, test = drawn(stream, "train", name), drawn(stream, "test", name)
        assert (len(train), len(test)) == (7, 3)
        assert sorted(train + test) == [colour_of(0, label, k) for k in range(10)]
    folder(root, order_seed=1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1, "it is said once"
    assert f"{root} is not split: 30% of the images of each of its 2 classes (ant, bee)" in said


def test_what_is_held_out_depends_on_the_data_seed_and_its_own_class_alone(tmp_path):
    root = make_classes(tmp_path / "data", ("ant", "bee", "cat"))
    held_out = drawn(folder(root), "test", "bee")
    fewer = make_classes(tmp_path / "fewer", ("ant", "bee"))
    assert drawn(folder(fewer), "test", "bee") == held_out
    assert drawn(folder(root, order_seed=2, tasks=3), "test", "bee") == held_out
    assert drawn(folder(root, data_seed=1), "test", "bee") != held_out
    assert len(drawn(folder(root, test_share=0.5), "test", "bee")) == 5
    assert set(drawn(folder(root, test_images=2), "test", "bee")) < set(held_out)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "TEST"])
def test_validation_images_are_tests_where_no_others_are(tmp_path, capsys, name):
    root = make_folders(tmp_path / "data")
    before = folder(root).fingerprint
    (root / "test").rename(root / name)
    (root / "train").rename(root / "Train")
    assert folder(root).fingerprint == before
    assert (f"{root}/{name} is taken for testing" in capsys.readouterr().err) == (name != "TEST")


def test_validation_images_beside_tests_are_read_where_they_are_asked_for(tmp_path, capsys):
    root = make_folders(tmp_path / "data")
    before = folder(root).fingerprint
    for label, name in enumerate(("ant", "bee", "cat", "dog")):
        for k in range(5):
            write(root / "val" / name / f"{k}.png", colour_of(2, label, k))
    stream = folder(root)
    assert stream.fingerprint == before
    assert stream.tasks[0].validation is None
    assert f"{root}/val is left out: it is read where evaluate_on is" in capsys.readouterr().err
    stream = validating(root, test_images=3)
    assert "left out" not in capsys.readouterr().err
    assert len(drawn(stream, "test", "bee")) == len(drawn(stream, "validation", "bee")) == 3
    assert set(drawn(stream, "validation", "bee")) < {colour_of(2, 1, k) for k in range(5)}
    assert stream.fingerprint != before
    asked = Folder(data=root, tasks=1)
    assert known(asked, SIZE, 0).fingerprint == before
    assert known(asked, SIZE, 0, with_validation=True) != known(asked, SIZE, 0)


@pytest.mark.train
def test_a_run_is_evaluated_on_validation_images_of_ones_own(tiny_config, tmp_path):
    root = make_folders(tmp_path / "data", test=4)
    for name in ("ant", "bee", "cat", "dog"):
        write(root / "val" / name / "0.png", RED)
    asked = {"benchmark.data": root, "training.epochs": 1}
    on_test = run(tiny_config("prototypes", **asked))
    on_validation = run(tiny_config("prototypes", **asked, evaluate_on="validation"))
    assert on_test.result["test_images"] == [8, 8]
    assert on_validation.result["test_images"] == [2, 2]
    assert on_test.id != on_validation.id
    write(root / "val/ant/1.png", RED)
    assert run(tiny_config("prototypes", **asked)).id == on_test.id
    other = run(tiny_config("prototypes", **asked, evaluate_on="validation"))
    assert other.id != on_validation.id and sum(other.result["test_images"]) == 5


def test_images_may_lie_one_folder_deeper(tmp_path):
    plain, nested = make_classes(tmp_path / "a"), make_classes(tmp_path / "b", inner="images")
    (nested / "ant/ant_boxes.txt").write_text("0.png\t0\t0\t9\t9\n")
    assert folder(nested).fingerprint == folder(plain).fingerprint


def test_tiny_imagenet_as_it_ships(tmp_path, capsys):
    root = make_tiny_imagenet(tmp_path / "data")
    plain = make_folders(tmp_path / "plain", ("n01", "n02"), test=4)
    assert folder(root).fingerprint == folder(plain).fingerprint
    said = capsys.readouterr().err
    assert f"left out: {root}/test, which has no class folders" in said
    assert f"{root}/val is taken for testing" in said
    write(root / "val/images/val_99.png", RED)
    assert folder(root).fingerprint == folder(plain).fingerprint
    assert (
        f"left out: {root}/val/images/val_99.png, which have no line in" in capsys.readouterr().err
    )


@pytest.mark.parametrize("inner", ["", "images"])
def test_a_class_may_be_called_train(tmp_path, inner):
    stream = folder(make_classes(tmp_path / "data", ("bus", "train", "car"), inner=inner))
    assert sorted(stream.class_names) == ["bus", "car", "train"]


def test_domains_may_be_split(tmp_path, capsys):
    for domain in ("photo", "sketch"):
        make_folders(tmp_path / "data" / domain)
    stream = domains(tmp_path / "data")
    assert sorted(task.name for task in stream.tasks) == ["photo", "sketch"]
    assert stream.class_names == ("ant", "bee", "cat", "dog")
    for task in stream.tasks:
        assert (len(task.train), len(task.test)) == (24, 16)
    assert drawn(stream, "test", "bee") == 2 * [colour_of(1, 1, k) for k in range(4)]
    assert capsys.readouterr().err == ""


def test_splits_that_are_taken_for_domains_are_said(tmp_path, capsys):
    assert len(domains(make_folders(tmp_path / "data")).tasks) == 2
    assert f"test, train in {tmp_path}/data are taken for domains" in capsys.readouterr().err


def test_class_names_that_unicode_writes_in_two_ways_are_one(tmp_path):
    root = make_folders(tmp_path / "data", ("ant", NFC))
    before = folder(root)
    (root / "test" / NFC).rename(root / "test" / NFD)
    after = folder(root)
    assert after.fingerprint == before.fingerprint
    assert sorted(after.class_names) == ["ant", NFC]
    (root / "train" / NFC).rename(root / "train" / NFD)
    assert sorted(folder(root).class_names) == ["ant", NFD], "as it always was"


# --- what stays as it is -----------------------------------------------------------------------

ODD = ("-rf", "a b", 'it\'s "q"', "new\nline", "🐝", "10", "2", "%d{x}", "ü", "con")


@pytest.mark.train
def test_class_folders_may_have_any_name(tiny_config, tmp_path):
    root = make_folders(tmp_path / "data", ODD, train=2, test=1)
    for part in ("train", "test"):
        os.rename(os.fsencode(root / part / "2"), os.fsencode(root / part) + b"/\xff\xfe")
    names = sorted([*(set(ODD) - {"2"}), os.fsdecode(b"\xff\xfe")])
    assert sorted(folder(root).class_names) == names
    stored = run(tiny_config("prototypes", **{"benchmark.data": root, "training.epochs": 1}))
    assert sorted(stored.environment["class_names"]) == names


def test_numeric_class_names_are_names(tmp_path):
    stream = folder(make_classes(tmp_path / "data", ("0", "1", "10", "2")))
    assert sorted(stream.class_names) == ["0", "1", "10", "2"]
    assert drawn(stream, "train", "10")[0][1] == 2 * 50


def test_image_files_may_have_any_name(tmp_path):
    root = make_folders(tmp_path / "data")
    plain = folder(root).fingerprint
    names = ["-x y'\"\n🐝.png", "0.png.tar.png", "noext", "Zähler.PNG", "liar.jpg", "zzz"]
    for k, name in enumerate(sorted(names)):
        (root / "train/ant" / f"{k}.png").rename(root / "train/ant" / name)
    assert folder(root).fingerprint == plain


def test_linked_folders_are_folders(tmp_path):
    real = make_folders(tmp_path / "real")
    root = tmp_path / "root"
    (root / "test").mkdir(parents=True)
    (root / "train").symlink_to(real / "train")
    for name in ("ant", "bee", "cat", "dog"):
        (root / "test" / name).symlink_to(real / "test" / name)
    assert folder(root).fingerprint == folder(real).fingerprint


def test_hidden_folders_are_no_classes(tmp_path, capsys):
    root = make_folders(tmp_path / "data")
    plain = folder(root).fingerprint
    for place in ("train/.ipynb_checkpoints", "test/.git", "__MACOSX/train", "train/__MACOSX"):
        write(root / place / "0.png", RED)
    (root / "train/ant/._0.png").write_bytes(b"\0\5\x16\7")
    assert folder(root).fingerprint == plain
    assert capsys.readouterr().err == ""


# --- what is left out, and said ----------------------------------------------------------------


def test_what_lies_beside_the_classes_is_said(tmp_path, capsys):
    root = make_folders(tmp_path / "data")
    plain = folder(root).fingerprint
    write(root / "train/stray.jpg", RED)
    write(root / "extra/0.png", RED)
    (root / "test/gone").symlink_to(root / "nowhere")
    assert folder(root).fingerprint == plain
    said = capsys.readouterr().err
    assert f"left out: {root}/extra, {root}/train/stray.jpg, {root}/test/gone, which lie" in said
    root = make_domains(tmp_path / "domains")
    write(root / "stray.jpg", RED)
    domains(root)
    assert f"left out: {root}/stray.jpg, which lie beside the domains" in capsys.readouterr().err


# --- what is refused ---------------------------------------------------------------------------


def linked_in_a_circle(root: Path) -> None:
    (root / "train/ant/loop").symlink_to("loop")


def no_classes(root: Path) -> None:
    for part in ("train", "test"):
        for k, file in enumerate((root / part).rglob("*.png")):
            file.rename(root / part / f"image{k}.png")
        for name in ("ant", "bee", "cat", "dog"):
            (root / part / name).rmdir()


def flat_validation(root: Path) -> None:
    write(root / "val/0.png", RED)
    (root / "test").rename(root / ".test")


REFUSED = {
    "a file": (
        lambda root: (root.rename(root.with_name("a")), root.write_text("")),
        ["is the file"],
    ),
    "no test": (
        lambda root: (root / "test").rename(root / ".test"),
        ["no folder {0}/test, only train", "to hold out a share of its images give {0}/train"],
    ),
    "no labels": (no_classes, ["the images in {0}/train and {0}/test have no labels"]),
    "no labels to test with": (flat_validation, ["the images in {0}/val have no labels"]),
    "other names of a split": (
        lambda root: [(root / part).rename(root / f"{part}ing") for part in ("train", "test")],
        ["{0}/testing/ant is a folder", "expected are image files"],
    ),
    "a folder in a folder": (
        lambda root: (
            root.rename(root.with_name("a")),
            (root.with_name("a")).rename(mkdir(root) / "data"),
        ),
        ["{0} has 1 class folders (data), at least 2"],
    ),
    "nothing": (
        lambda root: mkdir(root.rename(root.with_name("a")).with_name("data")),
        ["0 class"],
    ),
    "masks beside images": (
        lambda root: [write(root / f"train/ant/{part}/0.png", RED) for part in ("images", "masks")],
        ["{0}/train/ant/images is a folder"],
    ),
    "links in a circle": (linked_in_a_circle, ["{0}/train/ant/loop cannot be read", "symbolic"]),
    "one name in two forms": (
        lambda root: [write(root / "train" / name / "0.png", RED) for name in (NFC, NFD)],
        ["{0}/train holds two folders whose names are one", r"'cafe\u0301' and 'caf\xe9'"],
    ),
}


def mkdir(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_known_layout_is_named_in_one_line(tmp_path, call, case):
    root = make_folders(tmp_path / "data")
    change, said = REFUSED[case]
    change(root)
    asked = ("run", "--profile", "smoke", "--method", "lora", "--benchmark", "folder")
    code, out, err = call(*asked, "--data", root)
    assert (code, out, err.count("\n")) == (2, "", 1), "one line, and no note before it"
    for words in said:
        assert words.replace("{0}", str(root)) in err


def test_a_class_too_small_to_be_split_is_named(tmp_path):
    root = make_classes(tmp_path / "data")
    write(root / "cat/0.png", RED)
    assert f"{root}/cat holds 1 images; expected is at least 2" in error(folder, root)


def test_a_share_is_refused_where_nothing_has_to_be_held_out(tmp_path):
    root = make_folders(tmp_path / "data")
    assert f"benchmark.test_share is 0.5, but {root} has test images" in error(
        folder, root, test_share=0.5
    )


ANNOTATIONS = {
    "val_0.png n01\n": "line 1 of {0} is 'val_0.png n01'; expected are",
    "val_0.png\tn01\nval_77.png\tn01\n": "line 2 of {0} names 'val_77.png', which is not in",
    "val_0.png\tn01\nval_0.png\tn02\n": "line 2 of {0} names 'val_0.png', which is not in",
    "val_0.png\tn03\n": "must hold the same class folders, but only",
}


@pytest.mark.parametrize("text", ANNOTATIONS)
def test_annotations_that_do_not_fit_are_named(tmp_path, text):
    root = make_tiny_imagenet(tmp_path / "data")
    notes = root / "val/val_annotations.txt"
    notes.write_text(text)
    assert ANNOTATIONS[text].replace("{0}", str(notes)) in error(folder, root)


def test_domains_must_be_split_alike(tmp_path):
    root = tmp_path / "data"
    make_folders(root / "photo", ("class0", "class1"))
    make_domains(root, ("sketch",))
    message = error(domains, root)
    assert "domain photo has images for train, test, but domain sketch is not split" in message


# --- beside loading ----------------------------------------------------------------------------


def test_a_change_of_the_annotations_is_noticed_in_the_same_process(tmp_path):
    root = make_tiny_imagenet(tmp_path / "data")
    asked = Folder(data=root, tasks=1)
    before = known(asked, SIZE, 0)
    notes = root / "val/val_annotations.txt"
    notes.write_text(notes.read_text().replace("val_0.png\tn01", "val_0.png\tn02"))
    os.utime(notes, (1, 1))
    after = known(asked, SIZE, 0)
    assert after != before and after.fingerprint == folder(root).fingerprint


def test_a_plan_counts_the_images_of_every_layout(tmp_path):
    split, whole = make_folders(tmp_path / "a"), make_classes(tmp_path / "b")
    assert stream_sizes(Folder(data=split, tasks=2)) == (24, 16, 2)
    assert stream_sizes(Folder(data=split, tasks=2, train_images=3)) == (12, 16, 2)
    assert stream_sizes(Folder(data=whole, tasks=1)) == (14, 6, 1)


@pytest.mark.parametrize("told", ["lines", "none"])
def test_what_is_left_out_is_said_once_and_not_at_all_under_quiet(
    tmp_path, monkeypatch, capsys, told
):
    monkeypatch.setenv(TOLD, told)
    data = Folder(data=make_classes(tmp_path / "data"), tasks=1)
    for _ in range(2):
        load(data, SIZE, 0, 0)
    assert capsys.readouterr().err.count("is not split") == (told == "lines")
