"""A run's name is known without a model and without an image, and it is the right one."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fmlora_lab import configure, grid, identity, restore, run, sweep
from fmlora_lab.backbone import device
from fmlora_lab.backbone.vit import GLYPHS_VIT
from fmlora_lab.benchmarks import cache, fingerprint
from fmlora_lab.benchmarks import decode as decoding
from fmlora_lab.benchmarks.glyphs import streams
from fmlora_lab.config import BadInput
from fmlora_lab.files import cache_dir, remember
from fmlora_lab.runs import archive
from fmlora_lab.runs import identity as identities
from fmlora_lab.runs import run as run_module
from fmlora_lab.runs.archive import collections, ship
from fmlora_lab.runs.run import find_stored
from fmlora_lab.runs.stored import load_runs

KINDS = {
    "glyphs": {"benchmark.train_images": 2, "benchmark.test_images": 1},
    "folder": {"benchmark.tasks": 2},
    "domains": {},
}


@pytest.fixture
def own(images, tmp_path):
    """A copy of the images that may be changed, their cache, and nothing known of either."""
    shutil.copytree(images, tmp_path / "images")
    forget()
    return tmp_path / "images"


@pytest.fixture
def own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FMLORA_CACHE", str(tmp_path / "cache"))


def forget():
    """What another process would not know."""
    fingerprint._asked.clear()
    identities._asked.clear()


@pytest.fixture
def reads_nothing(monkeypatch):
    """After calling it, whatever builds a model or reads a pixel is an error."""

    def never(*_, **__):
        raise AssertionError("something was loaded")

    def arm():
        forget()
        for module in (identities, run_module):
            monkeypatch.setattr(module, "load_tower", never)
        monkeypatch.setattr(run_module, "load", never)
        monkeypatch.setattr(cache, "decoded_once", never)
        monkeypatch.setattr(decoding, "decode", never)
        monkeypatch.setattr(cache, "_crc32", never)
        monkeypatch.setattr(streams, "_drawn", never)
        monkeypatch.setattr(np, "load", never)
        monkeypatch.setattr(Image, "open", never)

    return arm


def configuration(images, kind="folder", method="prototypes", **overrides):
    given = {"benchmark.data": images} if kind in ("folder", "domains") else {}
    return configure(method, kind, "smoke", {**KINDS[kind], **given, **overrides})


@pytest.mark.train
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_is_that_of_the_run_and_nothing_is_read_for_it(own, tmp_path, reads_nothing, kind):
    configs = [configuration(own, kind), configuration(own, kind, order_seed=1, seed=2)]
    if kind in ("folder", "domains"):
        configs += [
            configuration(own, kind, data_seed=3),
            configuration(own, kind, evaluate_on="validation"),
            configuration(own, kind, **{"backbone.image_size": 48}),
        ]
    before = [identity(config) for config in configs]
    made = [run(config, tmp_path / "runs").id for config in configs]
    reads_nothing()
    assert [identity(config) for config in configs] == before == made
    assert len(set(made)) == len(made)
    assert [stored.id for stored in sweep(configs, tmp_path / "runs").run] == made


@pytest.mark.unit
def test_runs_that_came_with_the_lab_are_found_without_reading_anything(tmp_path, reads_nothing):
    methods = ["fm-lora", "prototypes"]
    asked = grid("demo", method=methods, order_seed=range(4))
    forget()  # what was noted in another test's cache
    identity(asked[0].config)  # the backbone's fingerprint is noted once
    reads_nothing()
    found = sweep(asked, tmp_path)
    came = {stored.id for stored in load_runs(collections()["demo"])}
    assert len(found) == 8 and {stored.id for stored in found.run} < came
    assert not list(tmp_path.iterdir())


@pytest.mark.train
def test_a_class_a_task_is_settled_in_the_name_as_in_the_run(own, tmp_path):
    each = configuration(own, method="linear-probe", **{"benchmark.tasks": 4})
    asked = configuration(
        own, method="linear-probe", **{"benchmark.tasks": 4, "training.loss_over": "seen"}
    )
    assert identity(each) == identity(asked) == run(each, tmp_path).id
    two = {"benchmark.tasks": 2}
    assert identity(configuration(own, **two)) != identity(
        configuration(own, **two, **{"training.loss_over": "seen"})
    )


@pytest.mark.train
def test_one_stream_has_one_name_in_whichever_words(own, tmp_path, capsys):
    def asked(**overrides):
        return configuration(own, **{"benchmark." + k: v for k, v in overrides.items()})

    equal = asked(tasks=2)
    assert identity(equal) == identity(asked(tasks=[2, 2])) == identity(asked(tasks="B0-Inc2"))
    file = tmp_path / "order.txt"
    names = sorted((path.name for path in (own / "train").iterdir()), reverse=True)
    file.write_text("\n".join(names))
    words = [asked(order=str(file)), asked(order=[3, 2, 1, 0], tasks="B2-Inc2")]
    words.append(words[0].model_copy(update={"order_seed": 7}))  # which draws nothing here
    assert len({identity(config) for config in words}) == 1 != len({identity(equal)}) + 1
    stored = run(words[0], tmp_path / "runs")
    assert stored.environment["class_names"] == names
    file.unlink()
    again = run(words[2].model_copy(update={"benchmark": words[1].benchmark}), tmp_path / "runs")
    assert again.id == stored.id and again.config["order_seed"] == 0
    assert again.config["benchmark"]["order"] == names
    assert restore(again).head is not None
    uneven = run(asked(tasks=[1, 3]), tmp_path / "runs")
    said = capsys.readouterr().err
    assert "4 classes in 2 tasks of 1 and 3 classes" in said
    assert uneven.result["acc"] != uneven.result["task_mean_acc"] or uneven.result["acc"] == 100


@pytest.mark.train
def test_validation_needs_two_training_images_of_every_class_and_testing_one(own, tmp_path):
    few = {"benchmark.train_images": 1, "benchmark.test_images": 1}
    with pytest.raises(BadInput, match=r"evaluate_on is 'validation'.* have one; allowed: test"):
        run(configuration(own, **few, evaluate_on="validation"), tmp_path / "runs")
    stored = run(configuration(own, **few), tmp_path / "runs")
    assert stored.result["acc"] is not None


TYPES = ["float32", "bfloat16"]


@pytest.mark.train
@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_a_name_has_the_type_that_is_computed_in(own, tmp_path, monkeypatch, has_bfloat16):
    monkeypatch.setattr(device, "has_bfloat16", lambda _: has_bfloat16)
    auto = configuration(own)
    each = {p: configuration(own, **{"training.precision": p}) for p in TYPES}
    names = {p: identity(config) for p, config in each.items()}
    assert len(set(names.values())) == 2
    came_to = TYPES[has_bfloat16]
    made = run(auto, tmp_path)
    assert identity(auto) == made.id == names[came_to]
    assert made.folder.read_json("config.json")["training"]["precision"] == came_to
    assert made.config["training"]["precision"] == came_to
    monkeypatch.setattr(device, "has_bfloat16", lambda _: not has_bfloat16)
    assert identity(auto) == names[TYPES[not has_bfloat16]]


@pytest.mark.train
def test_a_run_that_came_with_the_lab_counts_in_the_type_of_its_machine(own, tmp_path, monkeypatch):
    auto = configuration(own)
    each = [configuration(own, **{"training.precision": p}) for p in TYPES]
    monkeypatch.setattr(archive, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    (stored,) = [run(each[0], tmp_path / "runs")]
    ship([stored], tmp_path / "results/tiny.zip", {})
    for has_bfloat16 in (False, True):
        monkeypatch.setattr(device, "has_bfloat16", lambda _, has=has_bfloat16: has)
        found = find_stored(auto, tmp_path / "empty", use_shipped=True)
        assert found is not None and found.id == stored.id
        assert found.config["training"]["precision"] == "float32"
    assert find_stored(each[1], tmp_path / "empty", use_shipped=True) is None


@pytest.mark.train
@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_runs_from_before_types_were_in_names_say_theirs(own, tmp_path, has_bfloat16):
    made = run(configuration(own), tmp_path)
    for name, part, value in (
        ("config.json", "training", {**made.config["training"], "precision": "auto"}),
        ("environment.json", "bfloat16", has_bfloat16),
    ):
        content = made.folder.read_json(name)
        content.pop("sha256", None)
        made.folder.write_json(name, {**content, part: value})
    (found,) = load_runs(tmp_path)
    assert found.config["training"]["precision"] == TYPES[has_bfloat16]


# --- what changed is noticed ----------------------------------------------------------------------


def paint(file, shade):
    Image.new("RGB", (32, 32), (shade, shade, shade)).save(file)
    os.utime(file, ns=(shade, shade))  # a clock may be too coarse for two changes


CHANGES = {
    "an image more": lambda root: paint(root / "train/class1/new.png", 9),
    "an image less": lambda root: (root / "test/class2/0.png").unlink(),
    "an image of another name": lambda root: (root / "train/class0/0.png").rename(
        root / "train/class0/zero.png"
    ),
    "a class of another name": lambda root: [
        (root / part / "class3").rename(root / part / "other") for part in ("train", "test")
    ],
    "an image in another class": lambda root: (root / "train/class0/1.png").rename(
        root / "train/class1/+1.png"
    ),
}


@pytest.mark.unit
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_more_or_less_is_noticed_at_once(own, change):
    config = configuration(own)
    before = identity(config)
    CHANGES[change](own)
    after = identity(config)
    assert after != before
    forget()
    assert identity(config) == after


@pytest.mark.unit
def test_a_changed_image_is_noticed_by_the_next_process(own):
    config = configuration(own)
    before, file = identity(config), own / "train/class1/3.png"
    whole, times = file.read_bytes(), file.stat()
    paint(file, 9)
    forget()
    assert identity(config) != before
    file.write_bytes(whole)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    forget()
    assert identity(config) == before


@pytest.mark.train
def test_a_changed_image_is_noticed_when_it_is_read(own, tmp_path):
    config = configuration(own)
    before = identity(config)
    paint(own / "test/class0/1.png", 9)
    computed = run(config, tmp_path / "runs")
    assert computed.id != before and identity(config) == computed.id
    forget()
    assert identity(config) == computed.id
    assert [path.parent.name for path in (tmp_path / "runs").glob("*/result.json")] == [computed.id]


@pytest.mark.unit
def test_a_changed_weight_file_is_noticed_at_once(own, tmp_path):
    file = tmp_path / "weights.safetensors"
    shutil.copy(GLYPHS_VIT, file)
    config = configuration(own, **{"backbone.weights": file})
    before = identity(config)
    assert before == identity(configuration(own))  # the same content, wherever it lies
    state = load_file(file)
    state["norm.bias"] += 1
    save_file(state, file)
    after = identity(config)
    assert after != before
    forget()
    assert identity(config) == after


@pytest.mark.train
def test_a_run_on_a_pytorch_file_is_found_and_restored(own, tmp_path, capsys):
    """In a wrapper's names, with a head that features do not use: said once for the run."""
    state = {f"module.{name}": tensor for name, tensor in load_file(GLYPHS_VIT).items()}
    file = tmp_path / "weights.pth"
    torch.save({"model": {**state, "module.head.weight": torch.ones(9, 128)}}, file)
    config = configuration(own, method="lora", **{"backbone.weights": file})
    computed = run(config, tmp_path / "runs")
    forget()
    assert identity(config) == computed.id == run(config, tmp_path / "runs").id
    assert capsys.readouterr().err.count("left out what features do not use: head\n") == 1
    merged, _ = restore(computed).merge()
    assert "blocks.0.attn.qkv.weight" in merged and "head.weight" in merged
    config = configuration(own, method="lora", **{"backbone.weights": GLYPHS_VIT})
    assert (
        run(config, tmp_path / "runs").result["accuracy_matrix"]
        == (computed.result["accuracy_matrix"])
    )


@pytest.mark.train
@pytest.mark.usefixtures("own_cache_folder")
def test_a_wrong_note_of_the_weights_does_not_outlive_a_run(own, tmp_path):
    config = configuration(own)
    right = identity(config)
    forget()
    remember(identities._key(config.backbone), ["0" * 64, 32])
    assert identity(config) != right
    assert run(config, tmp_path / "runs").id == right == identity(config)
    forget()
    assert identity(config) == right


@pytest.mark.train
@pytest.mark.usefixtures("own_cache_folder")
def test_a_wrong_note_of_the_images_does_not_outlive_a_run(own, tmp_path):
    config = configuration(own)
    right = identity(config)
    (note,) = (cache_dir() / "decoded").glob("*.json")
    note.write_text(json.dumps({**json.loads(note.read_text()), "fingerprint": "0" * 64}))
    forget()
    assert identity(config) != right
    assert run(config, tmp_path / "runs").id == right == identity(config)
    forget()
    assert identity(config) == right


# --- what cannot be remembered --------------------------------------------------------------------

DAMAGE = {
    "gone": lambda note: note.unlink(),
    "empty": lambda note: note.write_bytes(b""),
    "cut": lambda note: note.write_bytes(note.read_bytes()[:-9]),
    "no text": lambda note: note.write_bytes(b"\xff\xfe\x00"),
    "a number": lambda note: note.write_text("3"),
    "a list": lambda note: note.write_text("[1, 2]"),
    "without values": lambda note: note.write_text("{}"),
    "other kinds of values": lambda note: note.write_text(
        json.dumps(dict.fromkeys(json.loads(note.read_text()), 3))
    ),
    "a folder": lambda note: (note.unlink(), note.mkdir()),
}


@pytest.mark.unit
@pytest.mark.usefixtures("own_cache_folder")
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_notes_are_made_anew(own, damage):
    config = configuration(own)
    right = identity(config)
    notes = sorted(cache_dir().rglob("*.json"))
    assert len(notes) == 2  # of the backbone and of the images
    for note in notes:
        DAMAGE[damage](note)
    for _ in range(2):
        forget()
        assert identity(config) == right


@pytest.mark.unit
@pytest.mark.usefixtures("own_cache_folder")
def test_a_note_of_the_weights_that_was_altered_is_not_taken(own):
    config = configuration(own)
    right = identity(config)
    (note,) = (cache_dir() / "fingerprints").glob("*.json")
    note.write_text(json.dumps({**json.loads(note.read_text()), "value": ["0" * 64, 32]}))
    forget()
    assert identity(config) == right


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["glyphs", "folder"])
def test_without_a_cache_that_can_be_written_names_are_the_same(own, tmp_path, monkeypatch, kind):
    config = configuration(own, kind)
    right = identity(config)
    (tmp_path / "a file").write_text("where a folder would be")
    monkeypatch.setenv("FMLORA_CACHE", str(tmp_path / "a file" / "cache"))
    for _ in range(2):
        forget()
        assert identity(config) == right


@pytest.mark.unit
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"benchmark.data": "nowhere"}, "there is no folder nowhere;"),
        ({"benchmark.tasks": 5}, "benchmark.tasks is 5; allowed for 4 classes: 1 to 4"),
        ({"benchmark.order": "pilot-x"}, "benchmark.order is 'pilot-x'; allowed: drawn, natural"),
        ({"backbone.weights": "nowhere.safetensors"}, "there is no file nowhere.safetensors"),
        ({"backbone.name": "vit_of_dreams"}, "backbone.name is 'vit_of_dreams'"),
    ],
)
def test_what_has_no_name_is_refused(own, overrides, said):
    identity(configuration(own))
    with pytest.raises(BadInput, match=said):
        identity(configuration(own, **overrides))
