"""The subspace explorer shows what the analysis found, of the runs that came with the lab."""

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fmlora_lab.analysis.overlap import related
from fmlora_lab.analysis.starts import at_weight, said
from fmlora_lab.config import BadInput
from fmlora_lab.explorers import subspace_overlap
from fmlora_lab.explorers.overlap import built, explorer, percent, smallest, start_words
from fmlora_lab.plots.overlap import signed
from fmlora_lab.plots.style import FAMILY_LOOKS

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return explorer(tmp_path_factory.mktemp("none"))


def picture_of(page):
    return built(page.controls["left"].value, page.controls["right"].value)[0]


def runs_of(page, method: str):
    return [run for _, run in page.controls["left"].options if f"'{method}'" in str(run.config)]


def test_it_opens_with_fm_lora_beside_lora(page):
    names = [page.controls[side].value.config["method"]["name"] for side in ("left", "right")]
    assert names == ["fm-lora", "lora"]
    titles = [axis.get_title() for axis in page.figure.axes[:2]]
    assert titles == ["FM-LoRA", "sequential LoRA"]


def test_maps_angles_and_strengths_are_those_of_the_analysis(page, move):
    move(block=3, weight="fc1", first=2, second=5)
    picture = picture_of(page)
    for k, side in enumerate(("left", "right")):
        found = related(page.controls[side].value)["blocks.2.mlp.fc1"]
        shown = picture.maps[k].get_array().filled(np.nan)
        off = ~np.eye(10, dtype=bool)
        np.testing.assert_allclose(shown[off], found.overlap[off])
        assert np.isnan(shown.diagonal()).all()
        for lines, cosines in zip(picture.angles, (found.outputs, found.inputs), strict=True):
            angles = np.radians(lines[k].get_ydata())
            np.testing.assert_allclose(np.cos(angles), cosines[1, 4][: len(angles)], atol=1e-6)
            assert np.isnan(cosines[1, 4][len(angles) :]).all() and len(angles) > 1
        for line, task in zip(picture.strengths[k], (1, 4), strict=True):
            np.testing.assert_array_equal(
                line.get_ydata(), found.sigma[task][: len(line.get_ydata())]
            )
        assert [cell.get_xy() for cell in picture.cells[k]] == [(0.5, 3.5), (3.5, 0.5)]
        assert f"{signed(found.overlap[1, 4])} in" in picture.said.get_text()
    assert "Tasks 2 and 5 at block 3, fc1" in picture.said.get_text()


def test_the_pair_and_its_row_are_written_out(page, move):
    move(block=1, weight="q", first=4, second=9)
    for side in ("left", "right"):
        found = related(page.controls[side].value)["blocks.0.attn.q"].overlap[3]
        assert all(
            f">{signed(value)}<" in page.words.value for t, value in enumerate(found) if t != 3
        )
    assert "Tasks 4 and 9" in page.words.value and "task 10<" in page.words.value


def test_collision_rates_stand_beside_overlaps_where_they_are_known(page, move, monkeypatch):
    move(block=2, weight="k", first=4, second=9)
    pair, shown = page.words.value.split("Of task 4 with")
    assert "collision rate</th><td" in pair
    assert "overlap, FM-LoRA" in shown and "collision, sequential LoRA" in shown
    assert shown.split("</table>")[0].count("%</td>") == 2 * 9
    unknown = np.full((10, 10), np.nan)  # of runs that came without them
    monkeypatch.setattr("fmlora_lab.explorers.overlap.known_rates", lambda run, weight: unknown)
    move(block=3, weight="k", first=5, second=9)
    pair, shown = page.words.value.split("Of task 5 with")
    assert shown.split("</table>")[0].count(">–<") == 2 * 9
    rates = np.arange(100).reshape(10, 10) / 1000
    monkeypatch.setattr("fmlora_lab.explorers.overlap.known_rates", lambda run, weight: rates)
    move(block=3, weight="k", first=4, second=9)
    pair, shown = page.words.value.split("Of task 4 with")
    assert pair.count(">3.8%<") == 2
    assert all(shown.count(f">{percent(rates[3, t])}<") == 2 for t in range(10) if t != 3)


@pytest.mark.parametrize(
    ("control", "value"),
    [("block", 5), ("weight", "proj"), ("first", 7), ("second", 8)],
)
def test_each_control_changes_the_picture(page, move, control, value):
    before = move(block=1, weight="v", first=2, second=3)
    assert move(**{control: value}) != before


def test_both_maps_have_one_scale_that_stays(page, move):
    move(block=1, weight="q")
    limits = [shades.get_clim() for shades in picture_of(page).maps]
    move(block=6, weight="fc2")
    assert limits == [shades.get_clim() for shades in picture_of(page).maps]
    assert limits[0] == limits[1] and limits[0][0] == -limits[0][1]
    every = [r.overlap for s in ("left", "right") for r in related(page.controls[s].value).values()]
    off = np.abs([o[~np.eye(10, dtype=bool)] for o in every])
    assert limits[0][1] == pytest.approx(off.max())


def test_another_run_can_be_chosen_and_two_of_one_method_are_told_apart(page, move):
    before = move(block=1, weight="q", first=2, second=3)
    (inflora,) = runs_of(page, "inflora")
    kept, _ = page.controls["left"].value, page.controls["right"].value
    assert move(right=inflora) != before
    assert picture_of(page).maps[1].axes.get_title() == "InfLoRA"
    other = next(run for run in runs_of(page, "fm-lora") if run is not kept)
    move(right=other)
    colors = [to_hex(lines.get_color()).upper() for lines in picture_of(page).angles[0]]
    assert colors[0] == FAMILY_LOOKS["FM-LoRA"][0] and colors[1] != colors[0]
    titles = [shades.axes.get_title() for shades in picture_of(page).maps]
    assert titles == ["left: FM-LoRA, calibrated DRS", "right: FM-LoRA, paper DRS"]
    assert " in left, " in picture_of(page).said.get_text()
    move(right=kept)
    titles = [shades.axes.get_title() for shades in picture_of(page).maps]
    assert titles == ["left: FM-LoRA, one run", "right: FM-LoRA, one run"]


def test_hints_are_of_the_methods_at_hand(page, move):
    lora, inflora = (runs_of(page, name)[0] for name in ("lora", "inflora"))
    move(left=lora, right=inflora)
    hint = page.look.value
    assert "sequential LoRA gives every task" in hint and "InfLoRA gives every task" in hint
    assert "FM-LoRA" not in hint
    move(left=runs_of(page, "fm-lora")[0], right=lora)
    assert "FM-LoRA's tasks share their bases" in page.look.value
    assert "InfLoRA" not in page.look.value


def test_opposite_senses_are_seen_without_colour(page, move):
    move(block=2, weight="v", right=runs_of(page, "lora")[0])
    for k, side in enumerate(("left", "right")):
        found = np.array(related(page.controls[side].value)["blocks.1.attn.v"].overlap)
        np.fill_diagonal(found, 0)
        wanted = {(j, i) for i, j in np.argwhere(found <= -0.005).tolist()}
        marked = np.transpose(picture_of(page).minus[k].get_data())
        assert set(map(tuple, marked.astype(int).tolist())) == wanted and wanted


def test_a_task_has_no_angle_to_itself(page, move):
    move(first=3, second=3)
    assert all((line.get_ydata() == 0).all() for lines in picture_of(page).angles for line in lines)


def test_static_is_the_figure_that_it_opens_with():
    figure = subspace_overlap(static=True)
    assert isinstance(figure, Figure) and len(figure.axes) == 6
    assert "Tasks 2 and 3 at block 1, q" in figure.axes[0].texts[0].get_text()


def test_without_a_run_that_suits_a_sentence_says_how_to_make_one(monkeypatch, tmp_path):
    monkeypatch.setattr("fmlora_lab.explorers.offer.prepared", list)
    with pytest.raises(BadInput, match="fmlora-lab run --method fm-lora"):
        subspace_overlap(tmp_path)


def test_what_lies_in_its_start_stands_beside_chance():
    share = np.array([[0, 0.998], [0.6, 0], [0.7, 0], [np.nan, np.nan]])
    chance = np.array([[0, 0.125], [0.5, 0], [0.5, 0], [0, 0]])
    unknown = np.full((4, 2), np.nan)
    found = start_words(("fm-lora", "lora"), [(share, chance), (unknown, unknown)], 0, 2)
    assert "task 1, written to</th><td" in found and ">began at zero<" in found
    assert found.count(">99.8% (chance 12.5%)<") == found.count(">70.0% (chance 50.0%)<") == 1
    assert "60.0%" not in found and found.count(">–<") == 4
    assert start_words(("lora", "lora"), [(share, chance)] * 2, 3, 3).count(">–<") == 4


def test_a_task_that_changed_nothing_has_no_angle():
    assert smallest(np.array([np.nan, np.nan])) == "–" and smallest(np.array([1.0])) == "0°"


def test_the_starts_shown_are_those_of_the_chosen_weight(page, move):
    """Of runs from before they were recorded nothing is known."""
    move(block=3, weight="fc1", first=2, second=5)
    _, shown = page.words.value.split("Of its start")
    for side in ("left", "right"):
        run = page.controls[side].value
        share, chance = at_weight(run, "blocks.2.mlp.fc1", related(run))
        for t in (1, 4):
            assert all(f">{said(share[t, n], chance[t, n])}<" in shown for n in (0, 1))


def test_a_weight_that_no_task_changed_leaves_the_page_open(page, monkeypatch):
    """All directions of a site may leave SoRA; its singular values are none."""
    left, right = (page.controls[side].value for side in ("left", "right"))
    found = dict(related(left))
    name, own = next(iter(found.items()))
    found[name] = dataclasses.replace(own, sigma=own.sigma[:, :0])
    monkeypatch.setattr(
        "fmlora_lab.explorers.overlap.related", lambda run: found if run == left else related(run)
    )
    picture, _ = built.__wrapped__(left, right)
    assert picture.strengths
