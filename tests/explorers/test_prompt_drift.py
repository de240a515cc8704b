"""The prompt explorer shows the stored prompts' own way, and the stored accuracies beside it."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from fmlora_lab.analysis.prompt_drift import drift_of, prompts_of
from fmlora_lab.config import BadInput
from fmlora_lab.explorers import prompt_drift
from fmlora_lab.explorers.prompt_drift import ALL, built, explorer

pytestmark = pytest.mark.unit

N, M, D = 4, 3, 6


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return explorer(tmp_path_factory.mktemp("none"))


def drawn() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, M, D))


def test_cosines_and_norms_are_of_each_token_to_itself():
    P, found = drawn(), drift_of(drawn())
    assert np.isnan(found.to_previous[0]).all()
    for t in range(N):
        for k in range(M):
            token = P[t, k]
            assert found.norms[t, k] == pytest.approx(np.sqrt((token**2).sum()))
            for s, cosine in ((0, found.to_first), (t - 1, found.to_previous)):
                if s >= 0:
                    wanted = token @ P[s, k] / np.sqrt((token @ token) * (P[s, k] @ P[s, k]))
                    assert cosine[t, k] == pytest.approx(wanted)


def test_tokens_that_move_in_a_plane_are_shown_as_they_move():
    """Distances are kept, whatever plane it is and wherever it lies."""
    flat = np.random.default_rng(1).standard_normal((N, M, 2))
    plane = np.linalg.qr(np.random.default_rng(2).standard_normal((D, 2)))[0]
    found = drift_of(flat @ plane.T + 5)
    assert found.shown == pytest.approx(1)
    between = np.linalg.norm(flat[:, None, :, None] - flat[None, :, None], axis=-1)
    shown = np.linalg.norm(found.path[:, None, :, None] - found.path[None, :, None], axis=-1)
    np.testing.assert_allclose(shown, between)
    assert drift_of(drawn()).shown < 0.9


def test_a_prompt_that_never_moves_has_no_drift():
    found = drift_of(np.ones((N, M, D)))
    np.testing.assert_allclose(found.to_first, 1)
    np.testing.assert_allclose(found.path, 0, atol=1e-12)


def test_the_way_and_the_accuracy_are_those_of_the_run(page, move):
    move(task=6, of_token=2, earlier=3)
    run = page.controls["run"].value
    found, picture = drift_of(prompts_of(run)), built(run)
    np.testing.assert_allclose(np.transpose(picture.ways[2].get_data()), found.path[:6, 2])
    assert [way.get_visible() for way in picture.ways] == [k == 2 for k in range(8)]
    for line, of in zip(
        picture.means, (found.to_first, found.to_previous, found.norms), strict=True
    ):
        np.testing.assert_allclose(line.get_ydata(), of[:, 2])
    a = run.accuracy_matrix
    np.testing.assert_array_equal(picture.on_earlier.get_xdata(), range(3, 11))
    np.testing.assert_array_equal(picture.on_earlier.get_ydata(), a[2:, 2])
    assert all(list(line.get_xdata()) == [6, 6] for line in picture.now)
    move(of_token=ALL)
    np.testing.assert_allclose(picture.means[0].get_ydata(), found.to_first.mean(axis=1))


def test_the_numbers_are_written_out(page, move):
    move(task=5, of_token=1, earlier=2)
    run = page.controls["run"].value
    found, a = drift_of(prompts_of(run)), run.accuracy_matrix
    for number in (found.to_first[4, 1], found.to_previous[4, 1], found.norms[4, 1]):
        assert f">{number:.3f}<" in page.words.value
    assert f">{a[1, 1]:.1f}%<" in page.words.value and f">{a[4, 1]:.1f}%<" in page.words.value
    move(task=1)
    assert ">–<" in page.words.value and ">now<" not in page.words.value


@pytest.mark.parametrize(("control", "value"), [("task", 9), ("of_token", 4), ("earlier", 5)])
def test_each_control_changes_the_picture(page, move, control, value):
    before = move(task=7, of_token=ALL, earlier=1)
    assert move(**{control: value}) != before


def test_another_run_has_another_way(page, move):
    before = move(task=7, of_token=ALL, earlier=1)
    (_, kept), (_, other) = page.controls["run"].options
    assert move(run=other) != before
    move(run=kept)


def test_a_run_without_a_prompt_says_how_to_make_one(page, move, monkeypatch):
    run = page.controls["run"].value
    method = {**run.config["method"], "prompt": {"tokens": 0}}
    monkeypatch.setattr(run, "config", {**run.config, "method": method})
    with pytest.raises(BadInput, match=r"no meta-prompt; .* --set method.prompt.tokens=8"):
        prompts_of(run)


def test_static_is_the_figure_that_it_opens_with():
    figure = prompt_drift(static=True)
    assert isinstance(figure, Figure) and len(figure.axes) == 4
    assert figure.axes[0].texts[-1].get_text().startswith("After task 10: all tokens")
