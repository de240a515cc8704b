"""The experts explorer shows the stored votes and accuracies; a run that ships opens it."""

import re
import time

import pytest
from matplotlib.figure import Figure
from pools import NAMES, pool_run

from fmlora_lab.analysis.experts import TOWERS, course_of, experts_of, suits
from fmlora_lab.config import BadInput
from fmlora_lab.explorers import experts, subspace_overlap
from fmlora_lab.explorers.examples import prepare
from fmlora_lab.explorers.experts import ALL, GIVEN, built, explorer
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.runs.archive import prepared, ship
from fmlora_lab.runs.stored import Run

pytestmark = pytest.mark.unit

EXAMPLES = [run for run in map(Run, prepared()) if suits(run)]


@pytest.fixture
def own(tmp_path):
    return pool_run(tmp_path / "runs")


@pytest.fixture
def page(own, monkeypatch):
    monkeypatch.setattr("fmlora_lab.explorers.offer.prepared", list)
    return explorer(own.folder.root)


def test_the_numbers_of_a_domain_are_written_out(own, page, move):
    move(domain=2, other=3, classes=GIVEN)
    found, words = experts_of(own), page.words.value
    for tower in TOWERS:
        assert f">{100 * found.share(1, tower):.0f}%<" in words
        assert f">{found.chance[found.within(tower)].mean():.3f}<" in words
    course = course_of(own, True)
    columns, accuracy = words.split("Its columns and those of")[1].split("Right answers on")

    def cells(of: str, row: str) -> list[str]:
        line = of.split(f">{row}<")[1].split("</tr>")[0]
        return re.findall(r"<td[^>]*>([^<]*)<", line)

    for i in (0, 1, 2):
        before, after = course.before[i], course.after[1, i]
        change = f"{after - before:+.1f}".replace("-", "−")
        row = f"{i + 1} {NAMES[i]}" + " *" * (i == 2)  # yet to come
        assert cells(accuracy, row) == [f"{before:.1f}%", f"{after:.1f}%", change]
    wanted = [f"{found.cosine[:, 1, 2].mean():.3f}", f"{found.ago[:, 1, 2].mean():.2g}"]
    assert cells(columns, f"3 {NAMES[2]}") == wanted
    assert NAMES[1] not in columns


@pytest.mark.parametrize(("control", "value"), [("domain", 3), ("other", 1), ("classes", ALL)])
def test_each_control_changes_the_picture(page, move, control, value):
    before = move(domain=2, other=3, classes=GIVEN)
    assert move(**{control: value}) != before


def test_it_opens_with_the_second_domain_beside_the_last(page):
    said = page.figure.axes[0].texts[-1].get_text()
    assert said.startswith("Domain 2, greek. After it cyrillic, which is yet to come")


def test_a_run_that_ships_is_an_example_and_no_one_elses(own, tmp_path, monkeypatch):
    prepare(own)
    assert own.folder.derived_files() == ["derived/experts.safetensors"]
    ships = {"rank1-pool": METHODS["rank1-pool"].record.ships}
    path = ship([own], tmp_path / "few.zip", ships)
    monkeypatch.setattr("fmlora_lab.runs.archive.collections", lambda: {"few": path})
    page = explorer(tmp_path / "none")
    ((label, _),) = page.controls["run"].options
    assert label.startswith("Rank-1 Expert Pool · ") and label.endswith(" · example abc123")
    with pytest.raises(BadInput, match="no stored run suits this explorer"):
        subspace_overlap(tmp_path / "none")


def test_without_a_run_a_sentence_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.setattr("fmlora_lab.explorers.offer.prepared", list)
    with pytest.raises(BadInput, match="--method rank1-pool --backbone glyphs-clip"):
        experts(tmp_path)


def test_static_is_the_figure_that_it_opens_with(own):
    figure = experts(own.folder.root, static=True)
    titles = [axis.get_title() for axis in figure.axes]
    assert isinstance(figure, Figure) and titles.count("merged") == 2


def test_a_picture_is_redrawn_in_a_tenth_of_a_second(page, move):
    took = []
    for domain in (1, 2, 3, 1, 2):
        began = time.process_time()
        move(domain=domain)
        took.append(time.process_time() - began)
    assert min(took) < 0.1


@pytest.mark.skipif(not EXAMPLES, reason="no run of two towers came with the lab")
def test_on_a_fresh_clone_it_opens_with_the_run_that_came_with_the_lab(tmp_path):
    page = explorer(tmp_path)
    run = page.controls["run"].value
    assert run in EXAMPLES and run.config["benchmark"]["name"] == "glyph-scripts"
    picture = built(run)
    assert len(picture.names) == 6 and len(picture.experts.sites) == 60
    # every text begins with the same token, and a causal tower reads nothing else there
    votes = [picture.experts.votes[:, picture.experts.within(tower)] for tower in TOWERS]
    spread = [((of > 0) & (of < 1)).mean() for of in votes]
    assert spread[1] < 0.3 < spread[0]
