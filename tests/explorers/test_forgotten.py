"""The explorer of forgetting shows what the stored heads said of the benchmark's own images."""

import base64
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.explorers import forgotten
from fmlora_lab.explorers.forgotten import answers_of, built, explorer, nearest, suits
from fmlora_lab.explorers.images import images_of
from fmlora_lab.runs.archive import collections
from fmlora_lab.runs.run import stream_of_run
from fmlora_lab.runs.stored import load_runs

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return explorer(tmp_path_factory.mktemp("none"))


def run_of(page):
    return page.controls["run"].value


def test_its_answers_are_those_that_the_run_counted(page, move):
    """Of every head, after every task, on every task."""
    run = run_of(page)
    for head in run.said(0):
        found = answers_of(run, head)
        a, _ = run.matrices(head)
        for t in range(10):
            counts = found.counts(t)
            for i, own in enumerate(found.images.classes[: t + 1]):
                block = counts[own.start : own.stop]
                right = np.trace(block[:, own.start : own.stop])
                assert 100 * right / block.sum() == pytest.approx(a[t, i], abs=1e-3)


def test_the_map_has_shares_and_what_is_yet_to_come_is_blank(page, move):
    move(head="ridge", after=4, block=2)
    run = run_of(page)
    shown = built(run, "ridge").map.get_array().filled(np.nan)
    counts = answers_of(run, "ridge").counts(3)
    np.testing.assert_allclose(shown[:40, :40], counts[:40, :40] / 16)
    assert np.isnan(shown[40:]).all() and np.isnan(shown[:, 40:]).all()


def test_the_accuracies_are_the_runs(page, move):
    move(head="trained", after=7, block=3)
    run, picture = run_of(page), built(run_of(page), "trained")
    among, within = run.matrices("trained")
    np.testing.assert_array_equal(picture.own.get_ydata(), among[2:, 2])
    np.testing.assert_array_equal(picture.own_within.get_ydata(), within[2:, 2])
    assert list(picture.own.get_xdata()) == list(range(3, 11))
    for a in (among, within):
        assert f"<td>{a[2, 2]:.1f}%</td><td>{a[6, 2]:.1f}%</td>" in page.words.value


def test_a_cells_images_are_the_benchmarks_and_so_is_their_story(page, move):
    move(head="trained", after=6, block=2)
    run = run_of(page)
    kind, called = page.controls["kind"].value, page.controls["called"].value
    said = [run.said(t)["trained"] for t in range(6)]
    stream = stream_of_run(RunConfig.model_validate(run.config), 32)
    task = stream.tasks[1].test
    cell = [k for k in range(160) if task.labels[k] == kind and said[5][160 + k] == called]
    assert kind != called and cell
    figures = re.findall("<figure>.*?</figure>", page.words.value)
    assert len(figures) == len(cell)
    for k, figure in zip(cell, figures, strict=True):
        data = base64.b64decode(figure.split("base64,")[1].split('"')[0])
        shown = np.asarray(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(shown, task.pixels[k].permute(1, 2, 0).numpy())
        first = next(t for t in range(1, 6) if said[t][160 + k] != kind)
        assert (
            f"first wrong after task {first + 1}, now called {stream.class_names[called]}" in figure
        )
        assert f'alt="test image {160 + k + 1} of {stream.class_names[kind]}"' in figure


def test_an_image_that_was_never_wrong_is_told_so(page, move):
    move(head="ridge", after=1, block=1)
    kind = page.controls["kind"].value
    move(called=kind)
    assert "never wrong up to now, now right" in page.words.value
    assert f"images of {images_of(run_of(page)).names[kind]} are right" in page.picture.alt


def test_it_opens_with_the_class_that_fares_worst(page, move):
    move(head="trained", after=9, block=5)
    move(block=4)
    counts = answers_of(run_of(page), "trained").counts(8)
    wrong = counts.sum(1) - counts.diagonal()
    kind = page.controls["kind"].value
    assert kind in range(30, 40) and wrong[kind] == wrong[30:40].max()
    assert page.controls["called"].value != kind
    labels = [label for label, _ in page.controls["called"].options]
    assert sum(int(re.search(r": (\d+) images", label).group(1)) for label in labels) == 16


def test_a_task_that_is_yet_to_come_has_no_images(page, move):
    move(after=2, block=5)
    assert "yet to come" in page.picture.alt and "<figure>" not in page.words.value
    assert page.controls["called"].options == (("yet to come", page.controls["kind"].value),)


@pytest.mark.parametrize(("control", "value"), [("after", 5), ("block", 3), ("head", "lda")])
def test_each_control_changes_the_picture(page, move, control, value):
    before = move(head="trained", after=8, block=1)
    assert move(**{control: value}) != before


def test_a_press_chooses_the_cell(page, move):
    move(head="trained", after=10, block=1)
    counts = answers_of(run_of(page), "trained").counts(9)
    i, j = 57, int(counts[57].argmax())
    picture = page.screen
    x, y = picture.figure.transFigure.inverted().transform(
        picture.map.axes.transData.transform((j, i))
    )
    page.picture.pressed = [x, 1 - y, 1]
    page.wait()
    chosen = {name: page.controls[name].value for name in ("block", "kind", "called")}
    assert chosen == {"block": 6, "kind": i, "called": j}


def test_a_press_means_the_fullest_cell_near_it():
    counts = np.zeros((20, 20), int)
    counts[4, 5], counts[6, 5] = 9, 1
    assert nearest(counts, 5.0, 5.4) == (4, 5)
    assert nearest(counts, 6.1, 5.1) == (6, 5)  # where there is something, that is meant
    assert nearest(counts, 15.2, 14.9) == (15, 15)


def test_runs_of_which_the_images_are_not_here_are_told_in_a_sentence(page, monkeypatch):
    run = run_of(page)
    folder = {"name": "folder", "data": "nowhere", "tasks": 10}
    monkeypatch.setattr(run, "config", {**run.config, "benchmark": folder})
    with pytest.raises(BadInput, match=f"the test images of run {run.id} are not here: .*nowhere"):
        images_of.__wrapped__(run)


def test_other_images_are_not_taken_for_the_runs(page, monkeypatch):
    run = run_of(page)
    monkeypatch.setattr(run, "config", {**run.config, "data_seed": 3})
    with pytest.raises(BadInput, match="tested on other images"):
        images_of.__wrapped__(run)


def test_static_is_the_figure_that_it_opens_with():
    figure = forgotten(static=True)
    assert isinstance(figure, Figure) and len(figure.axes) == 3
    assert figure.axes[0].texts[-1].get_text().startswith("After task 10, trained head: ")


def test_runs_without_answers_are_not_on_offer(tmp_path):
    """Shipped ones that are no examples, and those of before answers were kept."""
    old = Path(__file__).parents[1] / "runs" / "data" / "of_version_0_1.zip"
    with zipfile.ZipFile(old) as content:
        content.extractall(tmp_path)
    shipped, older = load_runs(collections()["demo"]), load_runs(tmp_path / "runs")
    have = [not run.label.one_task and bool(run.said(0)) for run in [*shipped, *older]]
    assert [suits(run) for run in [*shipped, *older]] == have
    assert any(have) and len(older) == 2 and not any(have[-2:])
