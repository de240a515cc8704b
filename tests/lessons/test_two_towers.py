"""The control of lesson 16 teaches the first scripts, watches all, answers at once, remembers."""

import base64
from threading import Event, Thread

import numpy as np
import pytest
import torch

from fmlora_lab.backbone.glyphs_clip import GlyphsCLIP
from fmlora_lab.backbone.two_towers import TwoTowers
from fmlora_lab.benchmarks.stream import Stream, of_domains
from fmlora_lab.config import RunConfig
from fmlora_lab.interrupts import Stopped
from fmlora_lab.lessons import two_towers as lesson
from fmlora_lab.lessons.two_towers import (
    LONGEST,
    Taught,
    Teach,
    course,
    grouped,
    guesses,
    kept,
    overlap,
    scripts,
)
from fmlora_lab.training.loop import Trainer

pytestmark = pytest.mark.train

SCRIPTS = 3


@pytest.fixture
def tiny(monkeypatch, tiny_images):
    """Has lessons teach three tiny scripts of two characters; `make(rank)` is a configuration."""
    domains = [
        (f"script {d}", ("one", "two"), tiny_images(range(2), 6, seed=d), tiny_images(range(2), 4))
        for d in range(SCRIPTS)
    ]
    stream: Stream = of_domains("tiny", domains, 0, "tiny", "natural", {})

    def given(config) -> tuple[TwoTowers, Stream]:
        torch.manual_seed(0)
        network = GlyphsCLIP(["one", "two"]).eval()
        return TwoTowers(network, network.words, 128, 32), stream

    monkeypatch.setattr(lesson, "parts", given)

    def make(rank: int) -> RunConfig:
        training = {"epochs": 2, "batch_size": 8, "precision": "float32", "augmentation": "none"}
        method = {"name": "lora", "rank": rank, "layers": ("attn.proj",), "lr": 0.02}
        backbone, heads = {"name": "glyphs-clip"}, {"random_features": 10}
        own = {"method": method, "training": training, "backbone": backbone, "heads": heads}
        return RunConfig(**own, measure_ahead=True)

    return make


@pytest.fixture
def held(monkeypatch):
    """`held(rank)`: a training of that rank waits after its first look until it is cancelled; the
    event is set once it does."""
    look = Taught._look

    def hold(rank: int) -> Event:
        waits = Event()

        def looked(taught):
            if taught.config.method.rank == rank and not taught.given:
                look(taught)
                waits.set()
                assert taught.cancelled.wait(60)
            else:
                look(taught)

        monkeypatch.setattr(Taught, "_look", looked)
        return waits

    return hold


def opened(*words) -> Teach:
    page = Teach(*words)
    page.begin()
    page.wait()
    return page


def test_the_first_scripts_are_taught_and_all_are_watched(tiny):
    taught = Taught(tiny(2)).train()
    assert taught.ended and taught.looks == 5 == len(taught.among_all)
    assert len(taught.records) == lesson.TAUGHT and len(taught.names) == SCRIPTS
    assert taught.seen(True).shape == taught.seen(False).shape == (5, SCRIPTS)
    assert taught.steps().tolist() == [0, 2, 4, 6, 8]
    assert (taught.seen(True) >= taught.seen(False)).all()  # among fewer more are right


def test_watching_does_not_change_what_is_taught(tiny):
    taught = Taught(tiny(2)).train()

    class Plain:
        def __getattr__(self, name):
            return lambda *_: None

    model, stream = lesson.parts(tiny(2))
    trainer = Trainer(tiny(2), stream, model, Plain(), after_task=lesson._enough)
    with pytest.raises(lesson.Ended):
        trainer.run()
    for rows, own in ((trainer.at.within, taught.given), (trainer.at.correct, taught.among_all)):
        np.testing.assert_allclose(100 * np.array(rows["trained"]) / 8, own[2::2])


def test_the_control_changes_what_is_taught_and_the_picture(tiny):
    page = opened(tiny, [1, 3], 3, "rank")
    first = [image.value for image in page.images]
    page.choice.value = 1
    page.wait()
    assert [*page.tried] == ["3", "1"] and page.now is page.tried["1"]
    assert all(image.value != old for image, old in zip(page.images, first, strict=True))
    for value, taught in page.tried.items():
        assert next(a for n, a in taught.records[0].items() if n[:2] == "U.").shape[1] == int(value)


def test_it_says_how_far_it_is(tiny):
    page, heard = Teach(tiny, [3], 3, "rank"), []
    page.status.observe(lambda change: heard.append(change["new"]), "value")
    page.begin()
    page.wait()
    said = [text.removeprefix("<span role='status'>rank 3: ").split("<")[0] for text in heard]
    trained = [f"trained {n} of 4 epochs" for n in range(5)]
    assert said == ["training begins", *trained, "trained"]


def test_another_choice_cancels_at_once_and_what_was_cancelled_is_forgotten(tiny, held):
    waits = held(3)
    page = Teach(tiny, [1, 3], 3, "rank")
    page.begin()
    assert waits.wait(60)
    cancelled = page.now
    page.choice.value = 1
    page.wait()
    assert len(cancelled.given) == 1 and [*page.tried] == ["1"]
    assert page.status.value == "<span role='status'>rank 1: trained</span>"


def test_a_tried_value_comes_back_without_training(tiny, monkeypatch):
    page = opened(tiny, [1, 3], 3, "rank")
    page.choice.value = 1
    page.wait()
    monkeypatch.setattr(lesson, "parts", None)
    page.choice.value = 3
    assert page.now is page.tried["3"]
    assert page.status.value == "<span role='status'>rank 3: trained</span>"


def test_the_other_question_is_another_picture_of_the_same_training(tiny):
    page = opened(tiny, [3], 3, "rank")
    before = [image.value for image in page.images]
    page.now.among_all = (0.5 * page.now.seen(True)).tolist()
    page.view.value = False
    assert all(image.value != old for image, old in zip(page.images, before, strict=True))
    page.view.value = True
    assert [image.value for image in page.images] == before


def test_an_error_is_shown_and_raised(tiny, monkeypatch):
    page = Teach(tiny, [3], 3, "rank")
    monkeypatch.setattr(lesson, "parts", lambda config: 1 / 0)
    page.begin()
    with pytest.raises(ZeroDivisionError):
        page.wait()
    assert "ZeroDivisionError: division by zero" in page.status.value


def test_an_interrupt_cancels_and_says_so(tiny, held):
    waits = held(3)
    page = Teach(tiny, [3], 3, "rank")
    page.begin()
    assert waits.wait(60)
    thread, join = lesson.Teach.at_work, Thread.join

    def interrupted(self, timeout=None):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped, match="run the cell again"):
        patch.setattr(Thread, "join", interrupted)
        page.wait()
    join(thread)
    assert page.tried == {} and "run the cell again" in page.status.value


def test_without_a_front_end_the_same_call_teaches_once_and_leaves_the_picture(tiny, monkeypatch):
    left = []

    class Shown:
        def update(self, what):
            left.append(what._repr_mimebundle_())

    monkeypatch.setattr(lesson, "display", lambda what, display_id: Shown())
    page = lesson.teach(tiny, [1, 3], 3, "rank")
    (bundle,) = left
    assert [*page.tried] == ["3"]
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in bundle


# What is drawn and counted


@pytest.fixture
def seen(tiny):
    """A training that went from zero-shot to what it ended with, in round numbers."""
    taught = Taught(tiny(2), names=["latin", "greek", "arrows", "digits"])
    taught.given = [[70.0, 50, 40, 20], [80, 50, 30, 20], [90, 50, 30, 20], [85, 80, 30, 10]]
    taught.given.append([80.0, 90, 30, 0])
    taught.steps = lambda: np.arange(5) * 10
    return taught


def figure_of(draw, *words):
    figure = lesson.Figure()
    axis = figure.subplots()
    draw(axis, *words)
    return axis


def test_the_course_has_the_taught_scripts_and_the_mean_of_the_others(seen):
    axis = figure_of(course, seen, True, "rank: 2")
    curves = {
        line.get_label(): list(line.get_ydata()) for line in axis.lines if line.get_marker() == "o"
    }
    assert curves["latin"] == [70, 80, 90, 85, 80]
    assert curves["mean of the other 2"] == [30, 25, 25, 20, 15]
    assert [text.get_text().strip() for text in axis.texts] == ["learns latin →", "learns greek →"]
    assert [text.get_position()[0] for text in axis.texts] == [0, 20]


def test_what_is_kept_goes_from_zero_shot_to_the_end(seen):
    axis = figure_of(kept, {"2": seen}, True, "rank")
    assert [text.get_text() for text in axis.texts] == ["2", "+25", "−15"]
    spans = [sorted(line.get_xdata()) for line in axis.lines if len(line.get_xdata()) == 2]
    assert spans == [[60, 85], [15, 30]]
    np.testing.assert_array_equal(grouped(seen.given[0]), [70, 50, 30])


def test_guesses_are_the_likeliest_names_and_the_right_ones_bar_is_coloured():
    shares = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])
    names = ["alpha", "beta", "a very long name " * 4]
    figure = guesses(np.zeros((2, 3, 4, 4), np.uint8), shares, names, [2, 0], most=2)
    bars = [axis for axis in figure.axes if axis.patches]
    said = [[text.get_text() for text in axis.texts] for axis in bars]
    assert said[0][0] == "60%  beta" and said[0][1].startswith("30%  a very long name")
    assert all(len(text) <= LONGEST + 5 for texts in said for text in texts)
    colored = [[bar.get_facecolor() for bar in axis.patches] for axis in bars]
    assert colored[0][1] == colored[1][0] != colored[0][0] == colored[1][1]


def test_overlap_is_one_for_the_same_columns_and_none_for_columns_at_right_angles(seen):
    eye = np.eye(4, dtype=np.float32)
    for second, wanted in (
        (3 * eye[:, :1], 1),
        (eye[:, 1:2], 0),
        (eye[:, :1] + eye[:, 1:2], 0.5**0.5),
    ):
        seen.records = [{"U.a": -eye[:, :1]}, {"U.a": second}]
        assert overlap(seen) == pytest.approx(wanted)


def test_a_script_is_taught_in_a_few_steps():
    config = scripts("full", {"method.lr": 0.5})
    assert config.benchmark.name == "glyph-scripts" and config.method.lr == 0.5
    steps = -(-20 * config.benchmark.train_images // config.training.batch_size)
    assert steps * config.training.epochs == 10
