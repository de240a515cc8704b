"""The walkthrough: solutions are right, mistakes are known, a control changes what is trained."""

import base64
import inspect
import re
import runpy
from pathlib import Path

import nbformat
import numpy as np
import pytest

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.benchmarks.stream import Stream
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.lessons import check, show, small
from fmlora_lab.lessons import live as page
from fmlora_lab.lessons.exercises import EXERCISES
from fmlora_lab.lessons.pictures import heads, progress
from fmlora_lab.methods.low_rank.lora import LoRA
from fmlora_lab.methods.references.linear_probe import LinearProbeSettings
from fmlora_lab.metrics import summary

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("1?_*.ipynb"))
MISTAKES = [(n, i) for n, exercise in EXERCISES.items() for i in range(len(exercise.mistakes))]


def asked(lesson: Path) -> list[str]:
    """The exercises of a lesson, in its order."""
    cells = nbformat.read(lesson, 4).cells
    return [name for cell in cells for name in re.findall(r'^check\("(\w+)"', cell.source, re.M)]


@pytest.mark.unit
def test_every_exercise_is_in_one_lesson():
    found = [name for lesson in LESSONS for name in asked(lesson)]
    assert sorted(found) == sorted(EXERCISES)
    assert all(2 <= len(asked(lesson)) <= 4 for lesson in LESSONS)


@pytest.mark.unit
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_the_solutions_are_right(lesson):
    solutions = runpy.run_path(str(NOTEBOOKS / "solutions" / f"{lesson.stem}.py"))
    for name in asked(lesson):
        verdict = check(name, solutions[name])
        assert verdict.right is True, (name, verdict.says)
        assert verdict.says == EXERCISES[name].praise


@pytest.mark.unit
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_lesson_as_it_is_given_out_is_unanswered_and_raises_nothing(lesson):
    cells = [
        cell for cell in nbformat.read(lesson, 4).cells if re.search(r"^check\(", cell.source, re.M)
    ]
    for cell, name in zip(cells, asked(lesson), strict=True):
        scope = {"check": check}
        exec(cell.source, scope)
        verdict = check(name, scope[name])
        assert verdict.right is None
        assert verdict._repr_markdown_().startswith("**✏️ Not answered yet.**")


@pytest.mark.unit
@pytest.mark.parametrize(("name", "number"), MISTAKES)
def test_a_typical_mistake_is_known(name, number):
    wrong, says = EXERCISES[name].mistakes[number]
    verdict = check(name, wrong)
    assert verdict.right is False and verdict.says == says
    assert says != EXERCISES[name].praise


@pytest.mark.unit
def test_what_is_said_of_other_wrong_answers():
    def says(answer, name="forgetting"):
        verdict = check(name, answer)
        assert verdict.right is False
        return verdict.says

    assert says(3.0) == "A function is asked for here, and this is a float."
    assert says(lambda a: None) == "Your function returns nothing: does it have a `return`?"
    assert says(lambda a: a.mode()).startswith("Your function raises AttributeError: 'numpy")
    assert says(lambda a: 1.0).startswith("On a trial it gives 1.0, and 25 is right. For each")
    assert says(lambda a: a[0]).startswith("The result has the shape (3,), not (). For each")
    assert says("many", "guessing") == says(7, "guessing") == EXERCISES["guessing"].hint
    assert check("forgetting", ...).right is None
    with pytest.raises(BadInput, match="no exercise 'nonsense'; known: forgetting"):
        check("nonsense", 1)


@pytest.mark.unit
def test_show_prints_the_real_lines():
    whole = show(summary).data
    lines, number = inspect.getsourcelines(summary)
    assert whole.startswith(
        f"`fmlora_lab/metrics.py`, lines {number} to {number + len(lines) - 1}\n\n```python\n"
    )
    assert "".join(lines).strip() in whole
    part = show(summary, since="diagonal, last", until="best =").data
    assert len(part.splitlines()) == 6 and part.splitlines()[3].startswith("diagonal, last, n = ")
    decorated = show(LoRA.begin_task, since="U.zero_()", until="U.zero_()").data
    assert re.match(r"`fmlora_lab/methods/low_rank/lora.py`, line \d+\n", decorated)
    with pytest.raises(ValueError, match="summary has no line with 'no such words'"):
        show(summary, since="no such words")


@pytest.fixture
def tiny(monkeypatch, tiny_vit, tiny_stream):
    """Retrains on three tiny tasks with a tiny model; `make(rank)` is its configuration."""
    stream: Stream = tiny_stream(classes=6, tasks=3)
    monkeypatch.setattr(page, "first_tasks", lambda config: (ViT(tiny_vit()), stream))

    def make(rank: int) -> RunConfig:
        training = {"epochs": 2, "batch_size": 8, "precision": "float32", "augmentation": "none"}
        method, heads = {"name": "lora", "rank": rank}, {"random_features": 30}
        return RunConfig(method=method, training=training, heads=heads)

    return make, stream


@pytest.mark.train
def test_the_control_changes_what_is_trained_and_the_picture(tiny):
    make, _ = tiny
    shown = page.Retrain(make, [1, 4], 4, "rank")
    shown.train()
    first = shown.image.value
    shown.choice.value = 1
    assert list(shown.tried) == ["4", "1"] and shown.image.value != first
    for label, trained in shown.tried.items():
        assert trained.records[0]["U.blocks.0.attn.proj"].shape[1] == int(label)
    assert not shown.choice.disabled


@pytest.mark.train
def test_the_picture_follows_the_epochs_and_moves_made_meanwhile_are_not_taken(tiny, monkeypatch):
    make, _ = tiny
    shown, seen = page.Retrain(make, [4], 4, "rank"), []
    draw = shown._draw

    def watched(trained):
        draw(trained)
        seen.append((len(trained.accuracies), shown.choice.disabled))

    monkeypatch.setattr(shown, "_draw", watched)
    shown.train()
    assert seen == [*((epoch, True) for epoch in range(1, 7)), (6, False)]


@pytest.mark.train
def test_watching_does_not_change_the_training(tiny, trainer):
    make, stream = tiny
    model, _ = page.first_tasks(make(4))
    watched = page.Trained(make(4)).train(stream, model)
    plain = trainer(make(4).method, stream).run()
    counts = np.array([len(task.test) for task in stream.tasks])
    right = np.array(plain["correct"]["trained"], float)
    expected = np.where(right < 0, np.nan, 100 * right / counts)
    np.testing.assert_allclose(watched.matrix(), expected)
    assert watched.matrices().keys() == plain["correct"].keys()
    for name, a in watched.matrices().items():
        right = np.array(plain["correct"][name], float)
        np.testing.assert_allclose(a, np.where(right < 0, np.nan, 100 * right / counts))
    last = 100 * np.array(plain["within"]["trained"][-1]) / counts
    np.testing.assert_allclose(watched.within[-1], last)


@pytest.mark.train
def test_a_frozen_backbone_answers_alike_with_the_task_given_whatever_is_learned_later(tiny):
    make, stream = tiny
    frozen = make(4).model_copy(update={"method": LinearProbeSettings()})
    model, _ = page.first_tasks(frozen)
    watched = page.Trained(frozen).train(stream, model)
    rows = watched.accuracies, watched.within
    among_all, given = ([row[0] for row in epochs[1:]] for epochs in rows)  # once it was learned
    assert len(set(given)) == 1 and given[0] == among_all[0]
    assert among_all[-1] < given[-1]  # six classes compete


@pytest.mark.train
def test_without_a_front_end_the_same_call_trains_once_and_leaves_the_picture(tiny, monkeypatch):
    make, _ = tiny
    made, left = [], []

    class Shown:
        def update(self, what):
            left.append(what._repr_mimebundle_())

    monkeypatch.setattr(page, "display", lambda what, display_id: Shown())
    page.retrain(lambda rank: made.append(rank) or make(rank), [1, 4], 4, "rank")
    (bundle,) = left
    assert made == [4]
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.unit
def test_a_picture_names_the_curves_apart_and_the_ranks():
    figure = progress(
        {"1.0": [[50.0], [40.0, 60.0], [51.0, 50.0, 50.5]]}, {"1.0": "fm-lora"},
        {"1.0": [16, 4, 2]}, epochs=1, tasks=3, label="cost",
    )  # fmt: skip
    live, ended = figure.axes
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in live.texts if t.get_text() in ("task 1", "task 2")]
    assert len(boxes) == 2 and not boxes[0].overlaps(boxes[1])
    assert [t.get_text() for t in ended.get_yticklabels()] == ["1.0\nr = 16, 4, 2"]
    (change,) = [t.get_text() for t in ended.texts]
    assert change == "−4"  # from (50 + 60) / 2 to (51 + 50) / 2, rounded to even


@pytest.mark.train
def test_the_picture_by_head_is_drawn_while_tasks_are_learned_and_keeps_what_ended(tiny):
    make, _ = tiny
    drawn = []

    def picture(tried, label):
        figure = page.by_head(tried, label)
        live, ended = figure.axes
        drawn.append((live.get_title("left"), [t.get_text() for t in ended.get_yticklabels()]))
        return figure

    shown = page.Retrain(make, [1, 4], 4, "rank", picture)
    shown.train()
    shown.choice.value = 1
    assert drawn[:6] == 6 * [("rank: 4", [])] and drawn[6] == ("rank: 4", ["4"])
    assert drawn[-2:] == [("rank: 1", ["4"]), ("rank: 1", ["4", "1"])]


@pytest.mark.unit
def test_a_picture_shows_confusion_and_an_arrow_only_where_a_head_was_carried():
    ends = {name: [70.0, 55.0] for name in ("means", "lda", "ridge")}
    by_head = {"given": 61.0, "trained": 40.0, "means": 50.0, "lda": 62.0, "ridge": 55.0}
    carried = {"means-carried": 50.0, "lda-carried": 66.0, "ridge-carried": 55.0}
    among_all, given = [60.0, 50.0], [60.0, 59.0]
    figure = heads("a", among_all, given, ends, {"a": by_head | carried}, 1, 2, "what")
    live, ended = figure.axes
    curves = [list(line.get_ydata()) for line in live.lines if len(line.get_xdata()) == 2]
    assert curves[:5] == [among_all, given, *ends.values()]
    assert [t.get_text() for t in ended.texts if t.get_text()] == ["−21"]
    (arrow,) = [t for t in ended.texts if not t.get_text()]
    assert (arrow.xy[0], arrow.xyann[0]) == (66.0, 62.0)


@pytest.mark.unit
def test_the_first_tasks_are_those_of_the_stream():
    _, stream = page.first_tasks(small("lora"))
    assert [task.classes for task in stream.tasks] == [range(0, 10), range(10, 20), range(20, 30)]
    assert len(stream.class_names) == 30 and len(stream.tasks[0].train) == 100
