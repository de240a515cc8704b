"""A control that trains: it answers at once, cancels, remembers, and changes nothing by looking."""

import base64
import os
import signal
from threading import Event

import numpy as np
import pytest

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.benchmarks.stream import Stream
from fmlora_lab.config import RunConfig
from fmlora_lab.interrupts import Stopped
from fmlora_lab.lessons import live, pictures, small
from fmlora_lab.lessons.watched import Cancelled, Trained, first_tasks
from fmlora_lab.methods.references.linear_probe import LinearProbeSettings

pytestmark = pytest.mark.train


@pytest.fixture
def tiny(monkeypatch, tiny_vit, tiny_stream):
    """Retrains on three tiny tasks with a tiny model; `make(rank)` is its configuration."""
    stream: Stream = tiny_stream(classes=6, tasks=3)
    monkeypatch.setattr(live, "first_tasks", lambda config: (ViT(tiny_vit()), stream))

    def make(rank: int) -> RunConfig:
        training = {"epochs": 2, "batch_size": 8, "precision": "float32", "augmentation": "none"}
        method, heads = {"name": "lora", "rank": rank}, {"random_features": 30}
        return RunConfig(method=method, training=training, heads=heads)

    return make, stream


@pytest.fixture
def frozen(tiny):
    make, _ = tiny
    return make(4).model_copy(update={"method": LinearProbeSettings()})


@pytest.fixture
def held(monkeypatch):
    """`held(when)`: a training for which that is so waits after its first epoch until it is
    cancelled; set once it does."""
    log, waits = Trained.log, Event()

    def hold(when):
        def logged(trained, line):
            log(trained, line)
            if when(trained):
                waits.set()
                assert trained.cancelled.wait(60)

        monkeypatch.setattr(Trained, "log", logged)
        return waits

    return hold


def rank(trained: Trained) -> int:
    return getattr(trained.config.method, "rank", 0)


def said(page: live.Retrain) -> str:
    return page.status.value.removeprefix("<span role='status'>").removesuffix("</span>")


def opened(*words, **how) -> live.Retrain:
    page = live.Retrain(*words, **how)
    page.begin()
    page.wait()
    return page


def test_the_control_changes_what_is_trained_and_the_picture(tiny):
    make, _ = tiny
    page = opened(make, [1, 4], 4, "rank")
    first = [image.value for image in page.images]
    page.choice.value = 1
    page.wait()
    assert [*page.tried] == [("4", 0), ("1", 0)]
    assert all(image.value != old for image, old in zip(page.images, first, strict=True))
    for (label, _), trained in page.tried.items():
        assert trained.records[0]["U.blocks.0.attn.proj"].shape[1] == int(label)
    assert [*page._seen().tried] == ["1", "4"]  # in the order of the control


def test_it_says_how_far_it_is_from_the_click_on(tiny, monkeypatch):
    make, _ = tiny
    page = live.Retrain(make, [4], 4, "rank")
    heard = []
    page.status.observe(lambda change: heard.append(said(page)), "value")
    page.begin()
    assert heard[0] == "rank 4: training, epoch 1 of 6"
    page.wait()
    assert heard == [*(f"rank 4: training, epoch {n} of 6" for n in range(1, 7)), "rank 4: trained"]


def test_a_new_choice_cancels_the_old_training_and_stands_over_its_picture(tiny, held, monkeypatch):
    make, _ = tiny
    waits, titles, draw = held(lambda trained: rank(trained) == 4), [], live.drawn

    def drawn(panel, seen):
        titles.append((seen.title, rank(seen.now)))
        return draw(panel, seen)

    monkeypatch.setattr(live, "drawn", drawn)
    page = live.Retrain(make, [1, 4], 4, "rank")
    page.begin()
    assert waits.wait(60)
    cancelled = page.now
    page.choice.value = 1
    assert said(page).startswith("rank 1: train")
    page.wait()
    assert len(cancelled.given) == 1 and [*page.tried] == [("1", 0)]
    assert said(page) == "rank 1: trained"
    switched = titles.index(("rank: 1", 1))
    assert {*titles[:switched]} == {("rank: 4", 4)} and {*titles[switched:]} == {("rank: 1", 1)}


def test_another_cell_cancels_too(tiny, held):
    make, _ = tiny
    waits = held(lambda trained: rank(trained) == 4)
    old = live.Retrain(make, [4], 4, "rank")
    old.begin()
    assert waits.wait(60)
    opened(make, [1], 1, "rank")
    assert old.tried == {}


def test_a_tried_value_comes_back_without_training(tiny, monkeypatch):
    make, _ = tiny
    page = opened(make, [1, 4], 4, "rank")
    first = page.images[0].value
    page.choice.value = 1
    page.wait()
    monkeypatch.setattr(live, "first_tasks", None)
    monkeypatch.setattr(live, "drawn", None)
    page.choice.value = 4
    assert said(page) == "rank 4: trained" and page.images[0].value == first
    assert page.now is page.tried["4", 0]


def test_what_was_tried_comes_back_while_another_is_trained(tiny, held):
    make, _ = tiny
    page = opened(make, [1, 4], 4, "rank")
    waits = held(lambda trained: rank(trained) == 1)
    page.choice.value = 1
    assert waits.wait(60)
    page.choice.value = 4
    page.wait()
    assert said(page) == "rank 4: trained" and [*page.tried] == [("4", 0)]


def test_among_the_own_classes_is_another_picture_of_the_same_training(tiny, monkeypatch):
    make, _ = tiny
    page = opened(make, [4], 4, "rank")
    before = [image.value for image in page.images]
    monkeypatch.setattr(live, "first_tasks", None)
    page.view.value = True
    assert all(image.value != old for image, old in zip(page.images, before, strict=True))
    page.view.value = False
    assert [image.value for image in page.images] == before


def test_seeds_are_lines_of_one_row(tiny):
    make, _ = tiny
    page = opened(make, [4], 4, "rank", seeds=(0, 1))
    assert said(page) == "rank 4, seed 0: trained"
    page.seed.value = 1
    page.wait()
    assert [t.config.seed for t in page._seen().tried["4"]] == [0, 1]


def test_what_stands_beside_is_trained_once_and_first(tiny, frozen):
    make, _ = tiny
    page = live.Retrain(make, [1, 4], 4, "rank", beside={"frozen backbone": frozen})
    heard = []
    page.status.observe(lambda change: heard.append(said(page)), "value")
    page.begin()
    page.wait()
    page.choice.value = 1
    page.wait()
    compared = [line for line in heard if "to compare with" in line]
    assert compared == [
        f"rank 4: frozen backbone, to compare with, epoch {n} of 6" for n in range(1, 7)
    ]
    assert heard.index(compared[-1]) < heard.index("rank 4: training, epoch 2 of 6")


def test_what_stands_beside_is_begun_anew_where_it_was_cancelled(tiny, frozen, held):
    make, _ = tiny
    waits = held(lambda trained: rank(trained) == 0 and not waits.is_set())
    page = live.Retrain(make, [1, 4], 4, "rank", beside={"frozen backbone": frozen})
    page.begin()
    assert waits.wait(60)
    page.choice.value = 1
    page.wait()
    assert len(page.beside["frozen backbone"].given) == 6 and [*page.tried] == [("1", 0)]


def test_an_interrupt_cancels_and_says_where(tiny, held):
    make, _ = tiny
    held(lambda trained: trained.learned == 1 and not os.kill(os.getpid(), signal.SIGINT))
    page = live.Retrain(make, [4], 4, "rank")
    page.begin()
    with pytest.raises(Stopped, match=r"^stopped after task 1 of 3; run the cell again"):
        page.wait()
    assert page.tried == {} and "stopped after task 1 of 3" in said(page)


def test_what_goes_wrong_in_the_thread_is_raised_in_the_cell_and_said(tiny, monkeypatch):
    make, _ = tiny

    def broken(config):
        raise ValueError("no <such> weights")

    monkeypatch.setattr(live, "first_tasks", broken)
    page = live.Retrain(make, [4], 4, "rank")
    page.begin()
    with pytest.raises(ValueError, match="no <such> weights"):
        page.wait()
    assert said(page) == "rank 4: ValueError: no &lt;such&gt; weights"


def test_there_is_a_picture_before_anything_is_trained(tiny):
    make, _ = tiny
    page = live.Retrain(make, [4], 4, "rank")
    assert all("data:image/png;base64,iVBOR" in image.value for image in page.images)


def test_watching_does_not_change_the_training(tiny, trainer):
    make, stream = tiny
    model, _ = live.first_tasks(make(4))
    watched = Trained(make(4)).train(stream, model)
    plain = trainer(make(4).method, stream).run()
    counts = np.array([len(task.test) for task in stream.tasks])
    for given, kept in ((False, "correct"), (True, "within")):
        assert watched.matrices(given).keys() == plain[kept].keys()
        for name, a in watched.matrices(given).items():
            right = np.array(plain[kept][name], float)
            np.testing.assert_allclose(a, np.where(right < 0, np.nan, 100 * right / counts))
        seen = watched.given if given else watched.among_all
        np.testing.assert_allclose(seen[1::2], watched.matrices(given)["trained"][:, 0])
    assert watched.epochs == len(watched.given) and watched.learned == 3


def test_a_cancelled_training_ends_at_its_next_step(tiny):
    make, stream = tiny
    model, _ = live.first_tasks(make(4))
    trained = Trained(make(4))
    trained.cancelled.set()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(Cancelled):
        trained.train(stream, model)
    assert trained.given == [] and len(before)


def test_a_frozen_backbone_answers_alike_with_the_task_given_whatever_is_learned_later(
    tiny, frozen
):
    _, stream = tiny
    model, _ = live.first_tasks(frozen)
    watched = Trained(frozen).train(stream, model)
    assert len(set(watched.given[1:])) == 1 and watched.given[1] == watched.among_all[1]
    assert watched.among_all[-1] < watched.given[-1]  # six classes compete
    learned, left = watched.earlier(given=True)
    assert learned == left


def test_joint_training_is_one_task_of_its_own_epochs(tiny):
    make, stream = tiny
    method = small("joint", {"method.epochs": 2}).method
    joint = make(4).model_copy(update={"method": method})
    model, _ = live.first_tasks(joint)
    watched = Trained(joint).train(stream, model)
    assert watched.epochs == len(watched.given) == 2
    assert watched.earlier(given=False)[1] == watched.matrices()["trained"][-1, :2].mean()


def test_without_a_front_end_the_same_call_trains_once_and_leaves_the_picture(tiny, monkeypatch):
    make, _ = tiny
    left = []

    class Shown:
        def update(self, what):
            left.append(what._repr_mimebundle_())

    monkeypatch.setattr(live, "display", lambda what, display_id: Shown())
    live.retrain(make, [1, 4], 4, "rank")
    (bundle,) = left
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.parametrize("picture", [live.BY_TASK, live.BY_HEAD])
def test_a_picture_keeps_what_ended(tiny, picture, monkeypatch):
    make, _ = tiny
    rows, png = [], pictures.png

    def looked_at(figure):
        rows.append([t.get_text() for t in figure.axes[-1].get_yticklabels()])
        return png(figure)

    monkeypatch.setattr(pictures, "png", looked_at)
    page = opened(make, [1, 4], 4, "rank", picture)
    assert rows[-1] == ["4"]
    page.choice.value = 1
    page.wait()
    assert rows[-1] == ["1", "4"]


def test_the_first_tasks_are_those_of_the_stream():
    _, stream = first_tasks(small("lora"))
    assert [task.classes for task in stream.tasks] == [range(0, 10), range(10, 20), range(20, 30)]
    assert len(stream.class_names) == 30 and len(stream.tasks[0].train) == 200


def test_what_a_selector_scored_is_what_it_chose_by():
    ranks = np.array([2.0, 4.0, 8.0, 16.0])
    record = {
        "candidates": ranks, "w": np.log2(1 + ranks / 2)[None], "H": np.array(0.5),
        "cost": np.array(1.2), "tau": np.array(2.0),
    }  # fmt: skip
    np.testing.assert_allclose(live.score_of(record)[[0, 3]], [0.175, 0.1925], atol=1e-3)


def test_overlap_is_the_cosine_of_whole_updates():
    rng = np.random.default_rng(0)
    A, B = (np.linalg.qr(rng.normal(size=(7, 3)))[0] for _ in "AB")
    cores = rng.normal(size=(3, 1, 3, 3))
    whole = [(A @ core[0] @ B.T).ravel() for core in cores]
    expected = [
        whole[i] @ whole[j] / np.linalg.norm(whole[i]) / np.linalg.norm(whole[j])
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    np.testing.assert_allclose(live.overlap(list(cores)), expected)


def axis():
    from matplotlib.figure import Figure

    return Figure().subplots()


def test_a_picture_shows_confusion_and_an_arrow_only_where_a_head_was_carried():
    by_head = {"given": 61.0, "trained": 40.0, "means": 50.0, "lda": 62.0, "ridge": 55.0}
    carried = {"means-carried": 50.0, "lda-carried": 66.0, "ridge-carried": 55.0}
    drawn = axis()
    pictures.by_head(drawn, {"a": by_head | carried}, "what")
    texts = [t for t in drawn.texts if hasattr(t, "xyann") and t.get_text() != "what"]
    assert [t.get_text() for t in texts if t.get_text()] == ["−21"]
    (arrow,) = [t for t in texts if not t.get_text()]
    assert (arrow.xy[0], arrow.xyann[0]) == (66.0, 62.0)


def test_what_is_frozen_has_no_colour_and_what_is_trained_has():
    def grey(color):
        return color[1:3] == color[3:5] == color[5:7]

    assert grey(pictures.BESIDE["frozen backbone"]["color"]) and grey(pictures.COLORS["frozen"])
    for method in ("full", "lora", "fm-lora"):
        assert not grey(pictures.look_of(method)["color"])


def test_joint_training_is_a_level_once_it_ended_and_the_frozen_backbone_a_curve_from_the_first():
    def seen(joint_ended):
        now, frozen = Trained(small("full")), Trained(small("linear-probe"))
        joint = Trained(small("joint"), ended=joint_ended)
        frozen.among_all, joint.among_all = [30.0], [20.0, 60.0]
        beside = {"frozen backbone": frozen, "joint training": joint}
        return live.Seen("rate", "1", now, {}, beside, given=False)

    for ended in (False, True):
        drawn = axis()
        live.task_1(drawn, seen(ended))
        lines = {line.get_label(): list(line.get_ydata()) for line in drawn.lines}
        assert lines["frozen backbone"] == [30.0]
        assert lines.get("joint training") == ([60.0, 60.0] if ended else None)


def test_a_picture_says_its_numbers_to_those_who_do_not_see_it(tiny):
    make, _ = tiny
    page = opened(make, [1, 4], 4, "rank")
    live_one, ended = (image.value for image in page.images)
    last, (learned, left) = page.now.among_all[-1], page.now.earlier(False)
    assert f'alt="rank: 4. accuracy on task 1 (%): this training {last:.3g}.' in live_one
    assert f"mean accuracy on tasks 1 and 2 (%): 4 {learned:.3g}, {left:.3g}." in ended
