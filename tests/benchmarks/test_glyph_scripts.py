"""The stream of scripts: what two towers never saw, told by names whose words they have."""

import unicodedata
from collections import Counter

import pytest
import torch
from safetensors import safe_open

from fmlora_lab.backbone.glyphs_clip import GLYPHS_CLIP
from fmlora_lab.backbone.vit import GLYPHS_VIT
from fmlora_lab.benchmarks import known, load
from fmlora_lab.benchmarks.fingerprint import cut_of
from fmlora_lab.benchmarks.glyphs.scripts import (
    ORDERS,
    SCRIPTS,
    TRAINING_TEMPLATES,
    UNSEEN_WORDS,
    text_of,
    training_characters,
    unseen_script,
    unseen_words,
)
from fmlora_lab.benchmarks.glyphs.streams import LOOKALIKE
from fmlora_lab.benchmarks.glyphs.typefaces import TEST_FACES, TRAIN_FACES, rasters, similarity
from fmlora_lab.benchmarks.stream import spoken
from fmlora_lab.config import BadInput, GlyphScripts
from fmlora_lab.profiles import configure

CHARACTERS = "".join(script.characters for script in SCRIPTS.values())


def trained_on(file) -> set[str]:
    with safe_open(file, "pt") as opened:
        return set(opened.metadata()["characters"])


def test_the_towers_saw_none_of_the_streams_characters_nor_of_the_unseen_scripts():
    held_out = {*CHARACTERS, *unseen_script(), *unseen_words()}
    assert not held_out & set(training_characters())
    assert not held_out & trained_on(GLYPHS_CLIP)
    assert trained_on(GLYPHS_CLIP) == set(training_characters())
    assert not {*CHARACTERS, *unseen_script()} & trained_on(GLYPHS_VIT)  # as which they start


def test_every_word_of_the_streams_names_stands_in_three_names_of_the_training():
    counts = Counter(w for c in training_characters() for w in set(text_of(c).split()))
    rare = {w for c in CHARACTERS for w in text_of(c).split() if counts[w] < 3}
    assert not rare
    unseen = {w for c in unseen_script() for w in text_of(c).split() if not counts[w]}
    assert unseen == {"mathematical"}  # which all of them have, so that it tells none apart
    assert not any(counts[word.lower()] for word in UNSEEN_WORDS)


def test_words_are_in_the_vocabulary():
    with safe_open(GLYPHS_CLIP, "pt") as opened:
        vocabulary = set(opened.metadata()["vocabulary"].split())
    said = {t.replace("{}", "") for s in SCRIPTS.values() for t in s.templates}
    words = {w for text in (*map(text_of, CHARACTERS), *said) for w in text.split()}
    assert words <= vocabulary
    assert {w for t in TRAINING_TEMPLATES for w in t.replace("{}", "").split()} <= vocabulary


def test_no_two_characters_of_the_stream_look_alike():
    assert len(set(CHARACTERS)) == len(CHARACTERS) == 120
    for faces in (TRAIN_FACES, TEST_FACES):
        sheet = rasters(CHARACTERS, faces, in_proportion=True)
        alike = similarity(sheet, sheet) - torch.eye(len(CHARACTERS)) * 2
        assert alike.max() < LOOKALIKE


@pytest.fixture(scope="module")
def stream():
    return load(GlyphScripts(train_images=2, test_images=2), 32, 0, 0)


def test_a_task_is_a_script_with_its_own_classes_and_texts(stream):
    assert [task.name for task in stream.tasks] == list(ORDERS[1])
    assert [len(task.classes) for task in stream.tasks] == [20] * 6
    assert len(set(stream.class_names)) == 120
    for task in stream.tasks:
        for part in (task.train, task.test):
            assert sorted(set(part.labels.tolist())) == list(task.classes)
            assert part.pixels.flatten(1).float().std(1).min() > 0  # none is blank
    first = stream.texts[0]
    name = unicodedata.name(SCRIPTS["latin"].characters[0]).lower()
    assert first == [f"the letter {name}", name]
    arrows = stream.tasks[3].classes.start
    assert stream.texts[arrows][0].startswith("the sign ")


def test_the_second_order_moves_the_classes_with_their_images(stream):
    other = load(GlyphScripts(train_images=2, test_images=2, order=2), 32, 0, 0)
    assert [task.name for task in other.tasks] == list(ORDERS[2])
    one = {task.name: task for task in stream.tasks}
    for task in other.tasks:
        same = one[task.name]
        assert torch.equal(task.test.pixels, same.test.pixels)
        moved = task.test.labels - task.classes.start
        assert torch.equal(moved, same.test.labels - same.classes.start)
        k, j = task.classes.start, same.classes.start
        assert other.class_names[k] == stream.class_names[j]
        assert other.texts[k] == stream.texts[j]


@pytest.mark.parametrize("order", ["drawn", "natural", ("greek", *set(SCRIPTS) - {"greek"})])
def test_any_order_of_scripts_can_be_asked_for(order):
    settings = GlyphScripts(train_images=1, test_images=1, order=order)
    names = known(settings, 32, 0).names
    assert set(names) == set(SCRIPTS)
    found = [task.name for task in load(settings, 32, 3, 0).tasks]
    assert sorted(found) == sorted(names)
    if order not in ("drawn", "natural"):
        assert tuple(found) == order


def test_one_stream_in_two_words_has_one_name():
    names = tuple(SCRIPTS)
    assert cut_of(GlyphScripts(order=1), names) == cut_of(GlyphScripts(order=ORDERS[1]), names)
    assert cut_of(GlyphScripts(order=1), names) != cut_of(GlyphScripts(order=2), names)


@pytest.mark.parametrize("order", [3, 0, True, ["greek"], ["klingon"] * 6])
def test_an_order_that_there_is_not_is_refused(order):
    with pytest.raises(BadInput, match=r"benchmark\.order"):
        known(configure("lora", "glyph-scripts", overrides={"benchmark.order": order}).benchmark,
              32, 0)  # fmt: skip


def test_what_is_said_of_a_class():
    assert spoken("Ω") == "greek capital letter omega"
    assert spoken("food/apple_pie") == "apple pie"
    assert spoken("plain") == "plain"
