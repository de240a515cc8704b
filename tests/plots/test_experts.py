"""The picture of experts shows the numbers that it is given, and nothing leaves the sheet."""

import numpy as np
import pytest
from pools import NAMES, pool_run

from fmlora_lab.analysis.experts import Course, course_of, experts_of
from fmlora_lab.plots.experts import ExpertsUsed


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    run = pool_run(tmp_path_factory.mktemp("runs"))
    found = experts_of(run)
    return ExpertsUsed(found, {given: course_of(run, given) for given in (True, False)}), found


def test_maps_are_votes_with_a_dot_where_an_expert_was_merged(drawn):
    picture, found = drawn
    picture.show(1, 2, True)
    for tower, shades, dots in zip(("image", "text"), picture.maps, picture.dots, strict=True):
        own = found.within(tower)
        np.testing.assert_array_equal(shades.get_array(), found.votes[1, own])
        assert shades.get_clim() == (0, 1)
        spots = {(n, e) for n, of in enumerate(found.merged[1, own]) for e in of}
        corners = dots.get_path().vertices.reshape(len(spots), 5, 2)
        assert {(y, x) for x, y in corners[:, :4].mean(1).round(9)} == spots


def test_the_chosen_domain_is_framed_where_it_stands_beside_others(drawn):
    picture, found = drawn
    picture.show(1, 2, True)
    assert [column.get_x() for column in picture.columns] == [0.5, 0.5]
    assert [cell.get_xy() for cell in picture.cells] == [(1.5, 0.5), (0.5, 1.5)]
    picture.show(2, 2, True)
    assert not any(cell.get_visible() for cell in picture.cells)
    stays = [axis.images[0] for axis in picture.figure.axes if axis.get_title() == "merged"]
    norms = np.concatenate([shades.get_array() for shades in stays])
    np.testing.assert_array_equal(norms, found.norm)
    assert {shades.get_clim() for shades in stays} == {(0, found.norm.max())}


@pytest.mark.parametrize("given", [True, False])
def test_lines_are_dotted_until_a_domain_is_learned(drawn, given):
    picture, _ = drawn
    picture.show(0, 1, given)
    along = picture.courses[given].along
    for i, (ahead, learned) in enumerate(picture.lines):
        assert ahead.get_xdata().tolist() == list(range(i + 2)) and ahead.get_linestyle() == ":"
        assert learned.get_xdata().tolist() == list(range(i + 1, len(NAMES) + 1))
        np.testing.assert_array_equal(ahead.get_ydata(), along[: i + 2, i])
        np.testing.assert_array_equal(learned.get_ydata(), along[i + 1 :, i])
    widths = [lines[0].get_linewidth() for lines in picture.lines]
    assert widths[1] > widths[0] == widths[2]
    assert list(picture.now.get_xdata()) == [1, 1]


def test_the_headline_says_what_the_other_domain_kept(drawn):
    picture, _ = drawn
    course = Course(NAMES, np.array([40.0, 30, 20]), np.full((3, 3), 25.0))
    picture.courses[True] = course
    picture.show(1, 2, True)
    said = "Domain 2, greek. After it cyrillic, which is yet to come: 25% right, zero-shot 20%"
    assert picture.said.get_text() == said
    picture.show(1, 0, True)
    assert "latin, which is learned: 25% right, zero-shot 40%" in picture.said.get_text()


def test_nothing_leaves_the_sheet_or_lies_on_another(drawn):
    picture, _ = drawn
    picture.show(1, 2, True)
    picture.said.set_visible(False)  # it stands above all axes and belongs to one
    picture.figure.draw_without_rendering()
    boxes = [axis.get_tightbbox() for axis in picture.figure.axes]
    for k, box in enumerate(boxes):
        assert picture.figure.bbox.x0 <= box.x0 and box.x1 <= picture.figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[k + 1 :])
