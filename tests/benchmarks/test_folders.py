"""One's own images: every kind of file comes out right, or one error says what is wrong.

Most images here are of one colour (own_images.py), so that a pixel of a stream tells which file
it came from.
"""

import json
import os
import struct
import threading
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import (
    BLUE,
    GREEN,
    RED,
    SIZE,
    Colour,
    colour_of,
    colours,
    domains,
    drawn,
    error,
    folder,
    make_domains,
    make_folders,
    write,
)
from PIL import Image

from fmlora_lab.benchmarks import decode as decoding
from fmlora_lab.benchmarks import load
from fmlora_lab.benchmarks.decode import decode
from fmlora_lab.benchmarks.stream import Images, Stream, together, validation_stream
from fmlora_lab.config import Domains, Folder
from fmlora_lab.training.loop import as_one_task

pytestmark = pytest.mark.unit

WHITE = (255, 255, 255)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FMLORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_decoding(monkeypatch):
    """Calling it makes every further decoding an error."""

    def refuse(path, size):
        raise AssertionError(f"{path} was decoded again")

    return lambda: monkeypatch.setattr(decoding, "decode", refuse)


# --- from file to pixels -----------------------------------------------------------------------


def halves(mode: str, left, right) -> Image.Image:
    image = Image.new(mode, (16, 16), right)
    image.paste(left, (0, 0, 8, 16))
    return image


def palette(*entries: Colour) -> Image.Image:
    """Left half shows the first entry, right half the second."""
    image = halves("P", 0, 1)
    image.putpalette([channel for entry in entries for channel in entry])
    return image


def grey16(left: int, right: int) -> Image.Image:
    values = np.full((16, 16), right, np.uint16)
    values[:, :8] = left
    return Image.fromarray(values)


KINDS = {
    "rgb.png": (halves("RGB", RED, BLUE), {}, RED, BLUE),
    "rgb.bmp": (halves("RGB", RED, BLUE), {}, RED, BLUE),
    "rgb.ppm": (halves("RGB", RED, BLUE), {}, RED, BLUE),
    "rgb.tif": (halves("RGB", RED, BLUE), {"compression": "tiff_lzw"}, RED, BLUE),
    "rgb.webp": (halves("RGB", RED, BLUE), {"lossless": True}, RED, BLUE),
    "rgb.JPG": (halves("RGB", RED, BLUE), {"subsampling": 0}, RED, BLUE),
    "rgb.gif": (halves("RGB", RED, BLUE), {}, RED, BLUE),
    "grey.png": (halves("L", 100, 30), {}, (100,) * 3, (30,) * 3),
    "grey.jpg": (halves("L", 100, 30), {}, (100,) * 3, (30,) * 3),
    "bits.png": (halves("1", 1, 0), {}, WHITE, (0, 0, 0)),
    "palette.png": (palette(RED, BLUE), {}, RED, BLUE),
    "palette-key.png": (palette(RED, BLUE), {"transparency": 1}, RED, WHITE),
    "palette-alpha.png": (
        palette(RED, BLUE),
        {"transparency": bytes([0, 127])},
        WHITE,
        (128, 128, 255),
    ),
    "palette-key.gif": (palette(RED, BLUE), {"transparency": 0}, WHITE, BLUE),
    "rgb-key.png": (halves("RGB", RED, BLUE), {"transparency": RED}, WHITE, BLUE),
    "alpha.png": (halves("RGBA", (*RED, 0), (*RED, 127)), {}, WHITE, (255, 128, 128)),
    "alpha.webp": (
        halves("RGBA", (*RED, 0), (*RED, 127)),
        {"lossless": True},
        WHITE,
        (255, 128, 128),
    ),
    "grey-alpha.png": (halves("LA", (9, 0), (9, 255)), {}, WHITE, (9, 9, 9)),
    "cmyk.jpg": (halves("CMYK", (0, 255, 255, 0), (255, 0, 255, 0)), {}, RED, GREEN),
    "cmyk.tif": (halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 255)), {}, RED, (0, 0, 0)),
    "grey16.png": (grey16(65535, 257 * 40), {}, WHITE, (40,) * 3),
    "grey16.tif": (grey16(300, 257 * 40 + 129), {}, (1,) * 3, (41,) * 3),
    "grey16.pgm": (grey16(65535, 257 * 40), {}, WHITE, (40,) * 3),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_image_comes_out_as_the_right_rgb(tmp_path, name):
    image, how, left, right = KINDS[name]
    image.save(tmp_path / name, **how)
    pixels = decode(tmp_path / name, 16)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, 16, 16)
    lossy = 4 if name.lower().endswith("jpg") else 0
    # Away from the edge between the halves, where lossy compression may ring.
    np.testing.assert_allclose(pixels[:, 8, 2], left, atol=lossy)
    np.testing.assert_allclose(pixels[:, 8, 13], right, atol=lossy)


# Where the EXIF standard says that the stored top left and top right corners are seen.
ORIENTATIONS = {
    1: ("top left", "top right"),
    2: ("top right", "top left"),
    3: ("bottom right", "bottom left"),
    4: ("bottom left", "bottom right"),
    5: ("top left", "bottom left"),
    6: ("top right", "bottom right"),
    7: ("bottom right", "top right"),
    8: ("bottom left", "top left"),
}


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_rotated_photo_stands_upright(tmp_path, orientation, suffix):
    stored = Image.new("RGB", (32, 32), "white")
    stored.paste(RED, (0, 0, 16, 16))
    stored.paste(GREEN, (16, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"photo.{suffix}", exif=exif)
    pixels = decode(tmp_path / f"photo.{suffix}", 32)
    corner = {"top": 4, "bottom": 27, "left": 4, "right": 27}
    for place, colour in zip(ORIENTATIONS[orientation], (RED, GREEN), strict=True):
        row, column = place.split()
        np.testing.assert_allclose(pixels[:, corner[row], corner[column]], colour, atol=4)


@pytest.mark.parametrize("upright", [True, False])
def test_the_middle_square_is_kept(tmp_path, upright):
    image = Image.new("RGB", (90, 30), BLUE)
    image.paste(RED, (0, 0, 30, 30))
    image.paste(GREEN, (30, 0, 60, 30))
    (image.transpose(Image.Transpose.ROTATE_90) if upright else image).save(tmp_path / "wide.png")
    pixels = decode(tmp_path / "wide.png", 10)
    # The outermost pixel's filter reaches over the crop's edge, as in resizing before cropping.
    inner = pixels[:, 1:-1, 1:-1].reshape(3, -1)
    np.testing.assert_array_equal(inner, np.repeat([[0], [255], [0]], 64, axis=1))


def test_shrinking_averages_and_a_small_image_is_enlarged(tmp_path):
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    assert np.ptp(decode(tmp_path / "board.png", 8)[:, 1:-1, 1:-1]) <= 4
    assert abs(decode(tmp_path / "board.png", 8).mean() - 127.5) < 4
    halves("RGB", RED, BLUE).resize((4, 4)).save(tmp_path / "small.png")
    pixels = decode(tmp_path / "small.png", 32)
    assert pixels.shape == (3, 32, 32)
    assert tuple(pixels[:, 16, 1]) == RED
    assert tuple(pixels[:, 16, 30]) == BLUE
    Image.new("RGB", (1, 20_000), GREEN).save(tmp_path / "thin.png")
    assert tuple(decode(tmp_path / "thin.png", 32)[:, 16, 16]) == GREEN


def test_a_range_that_nobody_knows_is_refused(tmp_path):
    for name, values in (
        ("float", np.ones((4, 4), np.float32)),
        ("large", np.full((4, 4), 70_000, np.int32)),
        ("negative", np.full((4, 4), -1, np.int32)),
    ):
        Image.fromarray(values).save(tmp_path / f"{name}.tif")
        with pytest.raises(ValueError, match="no known range"):
            decode(tmp_path / f"{name}.tif", 4)


def icon(colour: Colour) -> Image.Image:
    """A disc that alpha alone draws."""
    image = Image.new("RGBA", (16, 16), colour)
    image.putalpha(Image.radial_gradient("L").resize((16, 16)))
    return image


SEVERAL = {"save_all": True, "append_images": [Image.new("RGB", (16, 16), BLUE)]}
LOSING = {
    "film.gif": (Image.new("RGB", (16, 16), RED), SEVERAL, "hold several images"),
    "film.webp": (Image.new("RGB", (16, 16), RED), SEVERAL, "hold several images"),
    "film.png": (Image.new("RGB", (16, 16), RED), SEVERAL, "hold several images"),
    "pages.tif": (Image.new("RGB", (16, 16), RED), SEVERAL, "hold several images"),
    "12-bit.png": (grey16(4095, 7), {}, "at most a sixteenth of the range of their 16 bits"),
    "int32.tif": (Image.fromarray(np.eye(9, dtype=np.int32) * 255), {}, "nearly black"),
    "white-on-nothing.png": (icon(WHITE), {}, "are of one colour on white"),
    "nothing-to-see.png": (halves("RGBA", (*RED, 0), (*BLUE, 0)), {}, "are of one colour on white"),
    "infrared.tif": (Image.new("RGBX", (16, 16), (1, 2, 3, 4)), {}, "more than three colours"),
}


@pytest.mark.parametrize("name", LOSING)
def test_what_an_image_loses_is_said(tmp_path, capsys, name):
    root = make_folders(tmp_path / "data")
    image, how, said = LOSING[name]
    image.save(root / "train/bee" / name, **how)
    (root / "train/bee" / "again").write_bytes((root / "train/bee" / name).read_bytes())
    folder(root)
    err = capsys.readouterr().err
    assert said in err and f"2 of 42 images under {root} " in err and err.count("\n") == 1
    assert err.endswith(f": {', '.join(sorted(['train/bee/again', f'train/bee/{name}']))}\n")


def deep_colours(path: Path, high: int) -> None:
    """A PNG of 16 bits a colour, which Pillow reads and does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    rows = (b"\0" + np.full((4, 3), high, ">u2").tobytes()) * 4
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def test_what_colours_of_16_bits_lose_is_said(tmp_path, capsys):
    root = make_folders(tmp_path / "data")
    deep_colours(root / "train/bee/dark.png", 4095)
    deep_colours(root / "train/bee/light.png", 257 * 40)
    assert (40, 40, 40) in drawn(folder(root), "train", "bee")
    said = capsys.readouterr().err
    assert "1 of 42" in said and said.endswith("nearly black: train/bee/dark.png\n")


def test_of_an_image_that_loses_nothing_nothing_is_said(tmp_path, capsys):
    root = make_folders(tmp_path / "data")
    for name, (image, how, *_) in KINDS.items():
        image.save(root / "train/ant" / name, **how)
    Image.new("RGBA", (16, 16), (*WHITE, 0)).save(root / "train/ant/blank.png")
    photo = Image.new("RGB", (16, 16), RED)
    photo.save(root / "train/ant/phone.jpg", "MPO", save_all=True, append_images=[photo])
    folder(root)
    assert capsys.readouterr().err == ""


# --- class folders -----------------------------------------------------------------------------


def test_every_image_stands_once_under_its_class_role_and_task(tmp_path):
    names = ("ant", "bee", "cat", "dog")
    stream = folder(make_folders(tmp_path / "data"), tasks=2, order_seed=3)
    assert sorted(stream.class_names) == sorted(names)
    assert [task.classes for task in stream.tasks] == [range(0, 2), range(2, 4)]
    for task in stream.tasks:
        for role, part, count in ((0, task.train, 6), (1, task.test, 4)):
            assert part.pixels.shape == (2 * count, 3, SIZE, SIZE)
            for label in task.classes:
                label_on_disk = names.index(stream.class_names[label])
                expected = [colour_of(role, label_on_disk, k) for k in range(count)]
                assert colours(part[part.labels == label]) == expected


def test_classes_and_files_come_in_the_order_of_their_names(tmp_path):
    """Code points, so that no locale or file system changes a label."""
    root = make_folders(tmp_path, classes=("zoo", "Zebra", "ähre", "class10", "class2"))
    stream = folder(root)
    order = np.random.default_rng(0).permutation(5)
    by_name = ["Zebra", "class10", "class2", "zoo", "ähre"]
    assert list(stream.class_names) == [by_name[k] for k in order]


def test_the_order_seed_changes_the_order_and_nothing_else(tmp_path):
    root = make_folders(tmp_path / "data")
    streams = [folder(root, order_seed=seed, tasks=4) for seed in range(4)]
    assert len({stream.class_names for stream in streams}) > 1
    assert len({stream.fingerprint for stream in streams}) == 1
    for name in ("ant", "dog"):
        assert len({tuple(drawn(stream, "train", name)) for stream in streams}) == 1


def test_a_subset_is_drawn_by_the_data_seed_alone(tmp_path):
    root = make_folders(tmp_path / "data", train=20, test=20)

    def picks(**settings):
        stream = folder(root, **{"train_images": 5, "test_images": 4, **settings})
        return drawn(stream, "train", "bee"), drawn(stream, "test", "bee")

    train, test = picks()
    assert len(train) == 5 and len(test) == 4
    assert picks(order_seed=1, tasks=2) == (train, test)
    assert picks(data_seed=1)[0] != train
    assert picks(data_seed=1)[1] != test
    assert picks(test_images=6)[0] == train
    assert set(picks(train_images=9)[0]) > set(train)
    assert picks(train_images=21)[0] == picks(train_images=None)[0]
    assert len(picks(train_images=None)[0]) == 20


def test_a_subset_does_not_depend_on_other_classes(tmp_path):
    few = folder(make_folders(tmp_path / "few", ("bee", "dog"), train=20), train_images=5)
    more = folder(make_folders(tmp_path / "more", ("bee", "dog", "ant"), train=20), train_images=5)
    for name in ("bee", "dog"):
        assert drawn(few, "train", name) == drawn(more, "train", name)
    numbers = [[c[2] for c in drawn(few, "train", name)] for name in ("bee", "dog")]
    assert numbers[0] != numbers[1], "classes draw the same file numbers"


def test_only_chosen_files_are_decoded(tmp_path):
    root = make_folders(tmp_path / "data")
    kept = {c[2] // 10 for c in drawn(folder(root, train_images=3), "train", "ant")}
    for k in set(range(6)) - kept:
        (root / "train/ant" / f"{k}.png").write_bytes(b"")
    assert len(drawn(folder(root, train_images=3, size=9), "train", "ant")) == 3
    assert "3 of 40" in error(folder, root)


def test_files_beside_images_are_ignored(tmp_path):
    root = make_folders(tmp_path / "data")
    plain = folder(root).fingerprint
    for name in (".DS_Store", ".hidden.png", "Thumbs.db", "notes.txt", "a.JSON", "b.csv", "c.md"):
        (root / "train/ant" / name).write_bytes(b"not an image")
    (root / "train/labels.csv").write_bytes(b"")
    (root / "train/.git").mkdir()
    (root / "val/whatever").mkdir(parents=True)
    assert folder(root).fingerprint == plain


# --- domain folders ----------------------------------------------------------------------------


def test_every_domain_is_a_task_whose_split_loses_nothing(tmp_path):
    stream = domains(make_domains(tmp_path / "data"), test_share=0.3)
    assert stream.scenario == "domain-incremental"
    assert sorted(task.name for task in stream.tasks) == ["photo", "quick", "sketch"]
    assert stream.class_names == ("class0", "class1")
    for task in stream.tasks:
        role = ("photo", "quick", "sketch").index(task.name)
        for label in range(2):
            train = colours(task.train[task.train.labels == label])
            test = colours(task.test[task.test.labels == label])
            assert (len(train), len(test)) == (7, 3)
            assert sorted(train + test) == [colour_of(role, label, k) for k in range(10)]
            assert train == sorted(train) and test == sorted(test)


def test_a_split_depends_on_the_data_seed_and_its_own_class_alone(tmp_path):
    root = make_domains(tmp_path / "data")

    def photo(stream, part):
        (task,) = (task for task in stream.tasks if task.name == "photo")
        return colours(getattr(task, part)), getattr(task, part).labels

    held_out, labels = photo(domains(root), "test")
    assert photo(domains(root, order_seed=5), "test")[0] == held_out
    assert photo(domains(root, data_seed=1), "test")[0] != held_out
    numbers = [[c[2] for c, k in zip(held_out, labels, strict=True) if k == n] for n in (0, 1)]
    assert numbers[0] != numbers[1], "classes hold out the same file numbers"
    fewer = make_domains(tmp_path / "fewer", domains=("photo",))
    assert photo(domains(fewer), "test")[0] == held_out
    capped = domains(root, train_images=4, test_images=2)
    assert set(photo(capped, "test")[0]) < set(held_out)
    assert len(photo(capped, "test")[0]) == 2 * 2
    assert len(photo(capped, "train")[0]) == 2 * 4
    assert not set(photo(capped, "train")[0]) & set(held_out)


def test_the_order_seed_changes_the_order_of_the_domains_and_nothing_else(tmp_path):
    root = make_domains(tmp_path / "data")
    streams = [domains(root, order_seed=seed) for seed in range(4)]
    assert len({tuple(task.name for task in stream.tasks) for stream in streams}) > 1
    assert len({stream.fingerprint for stream in streams}) == 1
    photos = [task.train for stream in streams for task in stream.tasks if task.name == "photo"]
    assert len({tuple(colours(images)) for images in photos}) == 1


def test_the_smallest_class_still_gives_one_image_to_each_side(tmp_path):
    root = make_domains(tmp_path / "data", count=2)
    for share in (0.01, 0.99):
        for task in domains(root, test_share=share).tasks:
            assert task.train.labels.tolist() == task.test.labels.tolist() == [0, 1]


# --- what cannot be used -----------------------------------------------------------------------


def spoil(root: Path) -> dict[str, str]:
    """Put one file of every bad kind into the folders; gives what the error says of each."""
    noise = Image.effect_noise((64, 64), 80)
    for place, kind in (("train/ant/cut.jpg", "JPEG"), ("test/bee/cut.png", "PNG")):
        noise.save(root / place, kind)
        whole = (root / place).read_bytes()
        (root / place).write_bytes(whole[: len(whole) // 2])
    noise.save(root / "test/dog/cut.bmp")
    with (root / "test/dog/cut.bmp").open("r+b") as file:
        file.truncate(2000)
    (root / "train/bee/empty.png").write_bytes(b"")
    (root / "train/cat/text.jpg").write_text("these are words")
    (root / "test/ant/film.mp4").write_bytes(bytes(range(256)))
    (root / "test/cat/gone.png").symlink_to(root / "nowhere.png")
    return {
        "train/ant/cut.jpg": "truncated",
        "test/bee/cut.png": "truncated",
        "test/dog/cut.bmp": "truncated",
        "train/bee/empty.png": "the file is empty",
        "train/cat/text.jpg": "not an image that Pillow knows",
        "test/ant/film.mp4": "not an image that Pillow knows",
        "test/cat/gone.png": "No such file",
    }


def test_one_error_lists_every_unreadable_file(tmp_path, cache):
    root = make_folders(tmp_path / "data")
    bad = spoil(root)
    message = error(folder, root)
    assert f"7 of 47 images under {root} cannot be read" in message
    for place, reason in bad.items():
        assert reason in message.split(f"{place} (")[1].split(");")[0]
    assert "0.png" not in message
    assert message.count(str(root)) == 1, "places are told relative to the root"
    assert not list(cache.rglob("*.npy"))
    assert error(folder, root) == message


def test_a_long_list_is_cut_and_counted(tmp_path):
    root = make_folders(tmp_path / "data")
    for k in range(25):
        (root / "train/ant" / f"bad{k:02}.png").write_bytes(b"")
    message = error(folder, root)
    assert "25 of 65 images" in message
    assert message.count("the file is empty") == 20
    assert message.endswith("; and 5 more")


def test_a_decompression_bomb_is_unreadable(tmp_path, monkeypatch):
    root = make_folders(tmp_path / "data")
    Image.new("1", (60, 60)).save(root / "train/ant/bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    message = error(folder, root)
    assert "1 of 41 images" in message
    assert "train/ant/bomb.png" in message and "decompression bomb" in message


def remove(path: Path) -> None:
    for file in path.rglob("*.png"):
        file.unlink()


LAYOUTS = {
    "no root": (
        lambda root: root.rename(root.with_name("elsewhere")),
        ["no folder", "/data;", "{train,test}/<class>/*"],
    ),
    "no train": (
        lambda root: (root / "train").rename(root / "training"),
        ["no folder", "data/train", "{train,test}/<class>/*"],
    ),
    "no test": (
        lambda root: (root / "test").rename(root / "held-out"),
        ["no folder", "data/test, only held-out, train; to hold out", "{train,test}/<class>/*"],
    ),
    "class only in train": (
        lambda root: write(root / "train/eel/0.png", RED),
        ["data/train", "data/test", "only", "data/train has eel", "same class folders"],
    ),
    "class only in test": (
        lambda root: write(root / "test/eel/0.png", RED),
        ["data/train", "data/test", "only", "data/test has eel", "same class folders"],
    ),
    "many classes only in test": (
        lambda root: [write(root / f"test/eel{k}/0.png", RED) for k in range(7)],
        ["eel0, eel1, eel2, eel3, eel4 and 2 more;"],
    ),
    "empty train class": (
        lambda root: remove(root / "train/bee"),
        ["data/train/bee holds 0 images", "at least 1"],
    ),
    "empty test class": (
        lambda root: remove(root / "test/cat"),
        ["data/test/cat holds 0 images", "at least 1"],
    ),
    "one class": (
        lambda root: [
            (root / part / name).rename(root / f"{part}-{name}")
            for part in ("train", "test")
            for name in ("bee", "cat", "dog")
        ],
        ["data/train has 1 class folders", "at least 2", "{train,test}/<class>/*"],
    ),
    "nested folders": (
        lambda root: write(root / "train/ant/images/0.png", RED),
        ["data/train/ant/images is a folder", "directly in", "data/train/ant"],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_wrong_layout_is_named(tmp_path, layout):
    root = make_folders(tmp_path / "data")
    change, said = LAYOUTS[layout]
    change(root)
    message = error(folder, root)
    for words in said:
        assert words in message


def test_a_wrong_layout_of_domains_is_named(tmp_path):
    root = tmp_path / "data"
    expected = f"{root}/<domain>/<class>/*"
    assert f"no domain folders in {root}; expected is {expected}" in error(domains, root)
    root.mkdir()
    assert f"no domain folders in {root}" in error(domains, root)
    make_domains(root)
    write(root / "quick/extra/0.png", RED)
    message = error(domains, root)
    assert f"only {root}/quick has extra" in message and expected in message
    (root / "quick/extra").rename(tmp_path / "extra")
    for k in range(1, 10):
        (root / "sketch/class1" / f"{k}.png").unlink()
    assert f"{root}/sketch/class1 holds 1 images; expected is at least 2" in error(domains, root)


def test_a_number_of_tasks_that_does_not_fit_is_refused_before_decoding(tmp_path, no_decoding):
    no_decoding()
    data = make_folders(tmp_path / "data")
    assert "allowed for 4 classes: 1 to 4" in error(folder, data, tasks=5)
    assert "lacks the classes bee" in error(folder, data, order=["ant", "cat", "dog"])


# --- the fingerprint ---------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_content_wherever_it_lies(tmp_path):
    here, there = make_folders(tmp_path / "here"), make_folders(tmp_path / "deep/there")
    for file in there.rglob("*.png"):
        os.utime(file, (1, 1))
    assert folder(here).fingerprint == folder(there).fingerprint
    here, there = make_domains(tmp_path / "d"), make_domains(tmp_path / "e")
    assert domains(here).fingerprint == domains(there, order_seed=2).fingerprint


CHANGES = {
    "a pixel": lambda root: write(root / "train/ant/0.png", (1, 2, 3)),
    "a class name": lambda root: [
        (root / part / "ant").rename(root / part / "ape") for part in ("train", "test")
    ],
    # The last of one class becomes the first of the next: the same pixels in the same order.
    "a label": lambda root: (root / "train/ant/5.png").rename(root / "train/bee/!.png"),
    "a role": lambda root: [
        (root / "train/dog" / f"{k}.png").rename(root / "test/ant" / f"!{k}.png") for k in (5,)
    ],
    "the order of the files": lambda root: (root / "train/ant/0.png").rename(
        root / "train/ant/9.png"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_changes_with(tmp_path, change):
    root = make_folders(tmp_path / "data")
    before = folder(root).fingerprint
    CHANGES[change](root)
    assert folder(root).fingerprint != before


def test_the_fingerprint_changes_with_size_subset_and_split(tmp_path):
    root = make_folders(tmp_path / "data")
    kinds = [
        folder(root),
        folder(root, size=9),
        folder(root, train_images=3),
        folder(root, train_images=3, data_seed=1),
    ]
    root = make_domains(tmp_path / "domains")
    kinds += [domains(root), domains(root, data_seed=1), domains(root, test_share=0.5)]
    assert len({stream.fingerprint for stream in kinds}) == len(kinds)


def test_the_fingerprint_changes_with_the_name_of_a_domain(tmp_path):
    root = make_domains(tmp_path / "data")
    for file in root.rglob("*.png"):
        write(file, RED)  # so that no split shows in the pixels
    before = domains(root).fingerprint
    (root / "photo").rename(root / "photos")
    assert domains(root).fingerprint != before


# --- the cache ---------------------------------------------------------------------------------


def same(a: Stream, b: Stream) -> bool:
    return a.fingerprint == b.fingerprint and all(
        torch.equal(getattr(p, part).pixels, getattr(q, part).pixels)
        for p, q in zip(a.tasks, b.tasks, strict=True)
        for part in ("train", "test")
    )


@pytest.mark.parametrize("kind", ["folder", "domains"])
def test_the_second_load_decodes_nothing(tmp_path, no_decoding, kind):
    root = tmp_path / "data"
    make, load_it = {"folder": (make_folders, folder), "domains": (make_domains, domains)}[kind]
    first = load_it(make(root))
    no_decoding()
    assert same(load_it(root), first)
    assert load_it(root, order_seed=1).fingerprint == first.fingerprint
    assert "decoded again" in error(load_it, root, train_images=2)


def test_writing_into_a_stream_leaves_the_cache_whole(tmp_path, no_decoding):
    root = make_domains(tmp_path / "data")
    domains(root).tasks[0].train.source.zero_()
    no_decoding()
    assert domains(root).tasks[0].train.source.any()


@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
def test_pixels_stay_in_the_map_until_they_are_asked_for(tmp_path, evaluate_on):
    """Tasks, subsets of them and all of them together are rows of one mapped file."""
    stream = folder(make_folders(tmp_path / "data"))
    if evaluate_on == "validation":
        stream = validation_stream(stream, torch.Generator())
    parts = [part for task in stream.tasks for part in (task.train, task.test)]
    parts += [
        as_one_task(stream).train,
        parts[0][torch.tensor([2, 0])],
        parts[0].to(torch.device("cpu")),
    ]
    parts.append(parts[0][parts[0].labels == 0])
    assert len({part.source.data_ptr() for part in parts}) == 1
    some = parts[0][torch.tensor([2, 0])]
    assert torch.equal(some.pixels, parts[0].pixels[[2, 0]]) and len(some) == 2
    assert torch.equal(together(parts[:4]).pixels, torch.cat([p.pixels for p in parts[:4]]))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def swap_fingerprint(note: Path) -> None:
    content = json.loads(note.read_text())
    note.write_text(json.dumps({**content, "fingerprint": "0" * 64}))


DAMAGE = {
    "pixels cut": lambda pixels, note: os.truncate(pixels, pixels.stat().st_size - 100),
    "pixels empty": lambda pixels, note: os.truncate(pixels, 0),
    "pixels gone": lambda pixels, note: pixels.unlink(),
    "pixels longer": lambda pixels, note: pixels.write_bytes(pixels.read_bytes() + b"0"),
    "a pixel's bit": lambda pixels, note: flip(pixels, 1000),
    "the header's bit": lambda pixels, note: flip(pixels, 20),
    "note cut": lambda pixels, note: os.truncate(note, 30),
    "note gone": lambda pixels, note: note.unlink(),
    "note of something else": lambda pixels, note: note.write_text("[1, 2]"),
    "note's text": lambda pixels, note: note.write_text('{"fingerprint": 3, "crc32": 4}'),
    "note's bytes": lambda pixels, note: note.write_bytes(b"\xff\xfe{"),
    "note's fingerprint": lambda pixels, note: swap_fingerprint(note),
}


def in_memory(stream: Stream) -> Stream:
    """The same stream, no longer mapped from the cache."""
    tasks = [
        replace(task, **{p: Images(getattr(task, p).pixels.clone(), getattr(task, p).labels)
                         for p in ("train", "test")})
        for task in stream.tasks
    ]  # fmt: skip
    return replace(stream, tasks=tuple(tasks))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_decoded_again(tmp_path, cache, no_decoding, damage):
    root = make_folders(tmp_path / "data")
    first = in_memory(folder(root))
    (pixels,), (note,) = cache.rglob("*.npy"), cache.rglob("*.json")
    DAMAGE[damage](pixels, note)
    assert same(folder(root), first)
    no_decoding()
    assert same(folder(root), first), "the mended cache is not used"


def test_a_changed_file_is_noticed_by_its_time(tmp_path):
    root = make_folders(tmp_path / "data")
    image = write(root / "train/ant/new.bmp", RED)
    before = folder(root)
    size = image.stat().st_size
    write(image, GREEN)
    os.utime(image, (1, 1))
    assert image.stat().st_size == size
    after = folder(root)
    assert GREEN in drawn(after, "train", "ant") and RED not in drawn(after, "train", "ant")
    assert after.fingerprint != before.fingerprint
    write(image, RED)
    os.utime(image, (2, 2))
    assert same(folder(root), before)


def test_folders_of_equal_names_sizes_and_times_are_told_apart(tmp_path):
    streams = []
    for place, colour in (("here", RED), ("there", GREEN)):
        root = make_folders(tmp_path / place)
        for file in root.rglob("*.png"):
            write(file.with_suffix(".bmp"), colour)
            file.unlink()
        for file in root.rglob("*.bmp"):
            os.utime(file, (1, 1))
        streams.append(folder(root))
    assert set(drawn(streams[1], "train", "ant")) == {GREEN}
    assert streams[0].fingerprint != streams[1].fingerprint


def test_two_that_load_at_once_decode_once(tmp_path, monkeypatch):
    root = make_folders(tmp_path / "data")
    decoded, streams, both_there = [], [], threading.Barrier(2)

    def counting(path, size):
        decoded.append(path)
        return decode(path, size)

    def load_it():
        both_there.wait()
        streams.append(folder(root))

    monkeypatch.setattr(decoding, "decode", counting)
    threads = [threading.Thread(target=load_it) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 40
    assert same(*streams)


def test_progress_is_shown_on_stderr_only_when_it_takes_long(tmp_path, monkeypatch, capfd):
    root = make_folders(tmp_path / "data")
    monkeypatch.setattr(decoding, "BAR_AFTER", 1e9)
    folder(root)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(decoding, "BAR_AFTER", 0)
    folder(root, size=9)
    out, err = capfd.readouterr()
    assert out == ""
    assert "decoding images" in err and "40/40" in err


# --- the door, and real images -----------------------------------------------------------------


def test_load_takes_either_kind_of_folder(tmp_path):
    root = make_folders(tmp_path / "data")
    stream = load(Folder(data=root, tasks=2), 9, 1, 0)
    assert stream.fingerprint == folder(root, size=9).fingerprint
    assert stream.class_names == folder(root, order_seed=1).class_names
    root = make_domains(tmp_path / "domains")
    stream = load(Domains(data=root), SIZE, 1, 2)
    assert stream.fingerprint == domains(root, data_seed=2).fingerprint
    order = [task.name for task in domains(root, order_seed=1).tasks]
    assert [task.name for task in stream.tasks] == order


@pytest.mark.real
def test_cifar100_from_its_class_folders(tmp_path):
    data = os.environ.get("FMLORA_TEST_DATA")
    if not data or not (archive := Path(data, "data", "cifar100.zip")).is_file():
        pytest.skip("FMLORA_TEST_DATA names no folder with data/cifar100.zip")
    with zipfile.ZipFile(archive) as content:
        names = sorted({name.split("/")[2] for name in content.namelist() if "/train/" in name})
        assert len(names) == 100
        chosen = names[::25]
        members = [name for name in content.namelist() if name.split("/")[2] in chosen]
        content.extractall(tmp_path, members)
    root = tmp_path / "cifar100"
    stream = folder(root, tasks=2, size=32)
    assert sorted(stream.class_names) == chosen
    assert sum(len(task.train) + len(task.test) for task in stream.tasks) == len(members)
    for task in stream.tasks:
        for label in task.classes:
            files = sorted((root / "train" / stream.class_names[label]).iterdir())
            loaded = task.train[task.train.labels == label]
            assert len(loaded) == len(files)
            for file, pixels in zip(files[:5], loaded.pixels, strict=False):
                original = torch.from_numpy(np.array(Image.open(file).convert("RGB")))
                assert torch.equal(pixels, original.permute(2, 0, 1))
    assert folder(root, tasks=2, size=48, train_images=5).tasks[0].train.pixels.shape == (
        10,
        3,
        48,
        48,
    )
