"""The explorer of features shows what was computed of a run, and what its head said."""

import shutil

import numpy as np
import pytest
from coloured import coloured_folders
from matplotlib.figure import Figure

from fmlora_lab import configure, run
from fmlora_lab.explorers import features, offer
from fmlora_lab.explorers.features import built, explorer, kept_of
from fmlora_lab.runs.archive import ship
from fmlora_lab.runs.stored import load_runs

pytestmark = pytest.mark.train

TASKS, CLASSES = 3, 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    images = coloured_folders(root / "images", CLASSES * TASKS, {"train": 6, "test": 5}, noise=60)
    fixed = {"benchmark.data": images, "benchmark.tasks": TASKS, "training.epochs": 3}
    fixed |= {"training.batch_size": 6, "method.blocks": (1, 4), "method.lr": 0.02}
    fixed |= {"method.basis_rank": 8, "method.drs.candidates": (2, 4)}
    run(configure("fm-lora", "folder", "smoke", fixed), root / "runs")
    return root / "runs"


@pytest.fixture(scope="module", autouse=True)
def no_examples():
    """A run of one's own is then what the page begins with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offer, "prepared", lambda: [])
        yield


@pytest.fixture(scope="module")
def page(runs):
    return explorer(runs)


def of(page):
    return page.controls["run"].value


def test_points_are_those_that_are_kept_and_wrong_ones_are_ringed(page, move):
    move(block=2, after=3, image=4)
    kept, picture = kept_of(of(page)), built(of(page))
    points, labels = kept["points.1"][2].astype(float), kept["labels.1"]
    for dots, k in zip(picture.dots, kept["classes.1"], strict=True):
        np.testing.assert_array_equal(np.transpose(dots.get_data()), points[labels == k])
    looks = {(dots.get_color(), dots.get_marker()) for dots in picture.dots}
    assert len(looks) == CLASSES and len({marker for _, marker in looks}) == CLASSES
    wrong = of(page).said(2)["trained"][kept["images.1"]] != labels
    np.testing.assert_array_equal(np.transpose(picture.rings.get_data()), points[wrong])
    assert f"after task 3: {wrong.sum()} of {len(wrong)} called wrongly" in page.picture.alt
    for marks, row in zip(picture.marks, (1, 2, 0), strict=True):
        np.testing.assert_array_equal(
            np.transpose(marks.get_data()), kept["means.1"][row, 2].astype(float)
        )


def test_before_a_task_is_learned_nothing_is_wrong_and_nothing_kept(page, move):
    move(block=3, after=2)
    picture = built(of(page))
    assert len(picture.rings.get_xdata()) == 0 and "before it is learned" in page.picture.alt
    assert np.isnan(picture.marks[0].get_xdata()).all()
    assert page.words.value.count("<td>–</td>") >= 2
    assert page.controls["after"].min == 2


def test_attention_is_that_of_the_chosen_image_before_and_after(page, move):
    move(block=1, after=2, image=3)
    kept, picture = kept_of(of(page))["attention.0"].astype(float), built(of(page))
    for row, state in zip(picture.maps, (1, 2), strict=True):
        for k, shades in enumerate(row):
            wanted = kept[state, k, 2, 2:].reshape(4, 4)
            np.testing.assert_array_equal(shades.get_array().filled(np.nan), wanted)
    for state, k in ((1, 0), (2, 1)):
        assert f">{100 * kept[state, k, 2, 1]:.0f}%<" in page.words.value
    move(after=0)
    assert all(np.isnan(s.get_array().filled(np.nan)).all() for s in picture.maps[0])


def test_what_is_pointed_at_is_told_with_its_image(page, move):
    move(block=2, after=3)
    kept, run = kept_of(of(page)), of(page)
    names, said = run.environment["class_names"], run.said(2)["trained"]
    assert len(page.picture.spots) == 15
    for spot, number, label in zip(
        page.picture.spots, kept["images.1"], kept["labels.1"], strict=True
    ):
        wrong = said[number] != label
        assert spot["text"] == names[label] + (f", called {names[said[number]]}" if wrong else "")
        assert page.picture.images[spot["image"]].startswith("data:image/png;base64,")
        assert 0 < spot["x"] < 1 and 0 < spot["y"] < 1


def test_a_press_chooses_the_image(page, move):
    move(block=2, after=3, image=1)
    spot = page.picture.spots[7]
    page.picture.pressed = [spot["x"], spot["y"], 1]
    page.wait()
    chosen = np.transpose(built(of(page)).chosen.get_data())
    np.testing.assert_allclose(chosen, [kept_of(of(page))["points.1"][2][7]], atol=1e-3)


@pytest.mark.parametrize(("control", "value"), [("block", 2), ("after", 3), ("image", 6)])
def test_each_control_changes_the_picture(page, move, control, value):
    before = move(block=1, after=1, image=1)
    assert move(**{control: value}) != before


def test_of_a_run_that_was_shipped_what_is_kept_is_shown(page, runs, tmp_path, monkeypatch):
    kept_of(of(page))
    path = ship(load_runs(runs), tmp_path / "few.zip", {})
    monkeypatch.setattr("fmlora_lab.explorers.offer.prepared", list)
    figure = features(path, static=True)
    assert isinstance(figure, Figure) and len(figure.axes) == 7


def test_where_no_run_suits_a_small_one_is_trained(runs, tmp_path, monkeypatch, capsys):
    asked = []

    def trained(config, runs_dir):
        asked.append(config)
        shutil.copytree(runs, runs_dir)

    monkeypatch.setattr("fmlora_lab.run", trained)
    monkeypatch.setattr("fmlora_lab.explorers.offer.prepared", list)
    page = explorer(tmp_path / "own")
    (config,) = asked
    assert config.method.name == "fm-lora" and config.benchmark.name == "glyphs"
    assert of(page).folder.path.parent == tmp_path / "own"
    assert "a small one is trained, once" in capsys.readouterr().err


def test_while_features_are_computed_a_sentence_says_so(page, runs, tmp_path):
    shutil.copytree(runs, tmp_path / "anew")
    shutil.rmtree(next((tmp_path / "anew").iterdir()) / "derived")
    (anew,) = load_runs(tmp_path / "anew")
    assert f"The features of run {anew.id} are being computed, once" in page.waiting(run=anew)
    assert page.waiting(run=of(page)) == ""
