"""The rank explorer is the selector: its numbers at a run's settings are those of the run."""

import math
import time

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from fmlora_lab.analysis.rank_choice import choices_of, classes_a_task, smaller_ranks, tasks_of
from fmlora_lab.config import BadInput
from fmlora_lab.explorers import rank_choice
from fmlora_lab.explorers.rank_choice import built, draw, explorer, hardness
from fmlora_lab.methods.fm_lora.rank_selector import DRSSettings, RankSelector
from fmlora_lab.runs.archive import prepared
from fmlora_lab.runs.folder import RunFolder
from fmlora_lab.runs.stored import Run

pytestmark = pytest.mark.unit

FORMS = ("calibrated", "paper")


def example(form: str) -> Run:
    """The example run of that form."""
    found = map(Run, prepared())
    return next(run for run in found if run.config["method"].get("drs", {}).get("form") == form)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return explorer(tmp_path_factory.mktemp("none"))


@pytest.mark.parametrize("form", FORMS)
def test_at_a_runs_own_settings_its_recorded_probabilities_come_out(form):
    run = example(form)
    found = choices_of(run)
    p = found.probabilities(found.form, found.tau, found.cost)
    recorded = np.stack([run.task(t)["probabilities"].mean(0) for t in range(10)])
    np.testing.assert_allclose(p, recorded, atol=1e-6)
    assert found.form == form and p.shape == (10, 4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("H", "tau", "cost"), [(0.3, 1.0, 0.8), (1.2, 0.4, 2.5)])
def test_what_is_shown_is_what_training_would_choose(form, H, tau, cost):
    """The torch selector, given the run's last w, the same λ and τ, and the loss that H stands
    for."""
    found = choices_of(example(form))
    selector = RankSelector(DRSSettings(form=form, tau=tau, cost=cost), 16, 1)
    selector.w = lambda: torch.tensor(found.w[-1])
    loss = H * math.log(10)
    rank, p = selector.choose(selector.complexity(loss, 10))
    (shown,) = found.at([H], form, tau, cost)
    np.testing.assert_allclose(shown, p[0].numpy(), atol=1e-6)
    assert found.candidates[shown.argmax()] == rank.item()


def test_each_task_has_the_temperature_that_annealing_left_it():
    found = choices_of(example("calibrated"))
    found.tau_decay = 0.5
    p = found.probabilities("calibrated", 2.0, 1.0)
    found.tau_decay = 1.0
    for t in range(10):
        wanted = found.probabilities("calibrated", 2.0 * 0.5**t, 1.0)[t]
        np.testing.assert_allclose(p[t], wanted)


@pytest.mark.parametrize("run", FORMS)
def test_with_the_papers_form_the_winner_never_changes_while_the_bars_sharpen(run):
    found = choices_of(example(run))
    p = found.at(np.linspace(0.02, 3, 100), "paper", 1.0, 1.0)
    assert len(set(p.argmax(1).tolist())) == 1
    assert (np.diff(p.max(1)) > 0).all()
    calibrated = found.at(np.linspace(0.02, 3, 100), "calibrated", 1.0, 1.7)
    assert set(calibrated.argmax(1).tolist()) == {0, 1, 2, 3}


def heights(bars) -> list[float]:
    return [bar.get_height() for bar in bars]


def test_bars_curves_and_marks_are_the_probabilities(page, move):
    settings = {"form": "calibrated", "H": 0.7, "tau": 0.8, "cost": 2.0}
    move(**settings)
    picture, found = built(page.controls["run"].value), choices_of(page.controls["run"].value)
    chosen = ("calibrated", page.controls["tau"].value, 2.0)
    p = np.concatenate([found.probabilities(*chosen), found.at([0.7], *chosen)])
    np.testing.assert_allclose(np.transpose([heights(bars) for bars in picture.bars]), p)
    bottoms = np.transpose([[bar.get_y() for bar in bars] for bars in picture.bars])
    np.testing.assert_allclose(bottoms[:, 1:], p.cumsum(1)[:, :-1])
    np.testing.assert_allclose(
        picture.winners.get_ydata(), (bottoms + p / 2)[range(11), p.argmax(1)]
    )
    curve = found.at(picture.H, *chosen)
    np.testing.assert_allclose([line.get_ydata() for line in picture.curves], curve.T)
    np.testing.assert_array_equal(picture.tasks.get_xdata(), found.H)
    assert list(picture.now.get_xdata()) == [0.7, 0.7]
    best = p[-1].argmax()
    assert (
        f"rank {found.candidates[best]} wins with {100 * p[-1, best]:.0f}%"
        in picture.said.get_text()
    )
    assert all(f">{100 * value:.1f}%<" in page.words.value for value in p[-1])


@pytest.mark.parametrize(
    ("control", "value"), [("form", "paper"), ("H", 1.1), ("tau", 3.0), ("cost", 0.6)]
)
def test_each_control_changes_the_picture(page, move, control, value):
    before = move(form="calibrated", H=0.4, tau=1.0, cost=1.7)
    assert move(**{control: value}) != before


def test_a_run_brings_its_own_settings(page, move):
    run, cost = page.controls["run"], page.controls["cost"]
    for form in ("paper", "calibrated"):
        move(run=next(r for _, r in run.options if r.config["method"]["drs"]["form"] == form))
        assert page.controls["form"].value == form and cost.disabled == (form == "paper")
        assert page.controls["tau"].value == choices_of(run.value).tau
    assert cost.value == pytest.approx(choices_of(run.value).cost)


def test_smaller_ranks_are_shown_as_they_were_evaluated(page, move):
    run = example("calibrated")
    picture, found = built(run), smaller_ranks(run)
    values = np.array(found["accuracy"], float)
    axis = picture.rings.axes
    shown = [line for line in axis.get_lines() if line.get_linestyle() == "None"]
    for line, column in zip(shown, values.T, strict=False):
        np.testing.assert_array_equal(line.get_ydata(), column)
    for t, rank in enumerate(found["rank"]):  # at its whole rank a task has what was measured
        whole = values[t][found["ranks"].index(rank)]
        assert abs(whole - run.result["heads"]["trained"]["accuracy_matrix"][t][t]) <= 100 * 2 / 160
        assert np.isnan(values[t][found["ranks"].index(rank) + 1 :]).all()
    picture.show(0.4, "calibrated", 1.0, choices_of(run).cost)
    winners = choices_of(run).probabilities("calibrated", 1.0, choices_of(run).cost).argmax(1)
    ringed = [
        found["accuracy"][t][found["ranks"].index((2, 4, 8, 16)[k])] for t, k in enumerate(winners)
    ]
    assert picture.rings.get_ydata().tolist() == [value for value in ringed if value is not None]


def test_where_a_task_had_less_than_the_winner_all_that_it_had_is_ringed():
    run = example("calibrated")
    picture, found = built(run), smaller_ranks(run)
    picture.show(0.4, "paper", 1.0, 0.0)
    assert set(choices_of(run).winners("paper", 1.0, 0.0)) == {16}
    rows = zip(found["accuracy"], found["rank"], strict=True)
    whole = [row[found["ranks"].index(rank)] for row, rank in rows]
    assert picture.rings.get_ydata().tolist() == whole and min(found["rank"]) < 16


def columns(words: str, heading: str) -> list[list[str]]:
    """The cells of the table under this heading, column by column."""
    body = words.split(f">{heading}</th>")[1].split("<tbody>")[1].split("</tbody>")[0]
    rows = [row.split("<td>")[1:] for row in body.split("<tr>")[1:]]
    cells = [[cell.split("<")[0] for cell in row] for row in rows]
    return [list(column) for column in zip(*cells, strict=True)]


EXAMPLES = [run.id for run in map(Run, prepared()) if run.method_name == "fm-lora"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_at_an_examples_own_settings_what_won_is_what_the_run_has(page, move, name):
    """As a browser shows them: a slider stands at the step that is nearest to the value."""
    run = next(r for _, r in page.controls["run"].options if r.id == name)
    move(run=run)
    own = choices_of(run)
    move(form=own.form, cost=round(own.cost, 2), tau=10 ** (round(np.log10(own.tau) / 0.02) * 0.02))
    _, won, in_the_run = columns(page.words.value, "Rank")
    assert won == in_the_run and sum(map(int, won)) == 10
    *_, won, had = columns(page.words.value, "How hard")
    assert won[1:] == had[1:] and had[0] == "16"
    assert [f"{rank:g}" for rank in tasks_of(run)["rank"]] == had


@pytest.mark.parametrize("measured", [True, False])
def test_how_hard_each_task_was_stands_beside_its_rank(monkeypatch, measured):
    run, within = example("calibrated"), np.diag(np.arange(10) + 80.5).tolist()
    monkeypatch.delitem(run.result, "within_task_matrix", raising=False)
    if measured:
        monkeypatch.setitem(run.result, "within_task_matrix", within)
    won = tuple(choices_of(run).winners("paper", 1.0, 0.0))
    found = hardness.__wrapped__(run, won)
    tasks, errors = (
        tasks_of(run),
        [f"{19.5 - t:.1f}%" for t in range(10)] if measured else ["–"] * 10,
    )
    for (task, row), error in zip(tasks.iterrows(), errors, strict=True):
        cells = [f"{row.H:.2f}", error, "16", f"{row['rank']:g}"]
        line = found.split(f">task {task}</th>")[1].split("</tr>")[0]
        assert [cell.split("<")[0] for cell in line.split("<td>")[1:]] == cells


def test_a_run_that_was_not_evaluated_says_so_in_the_panels_place(tmp_path):
    folder, shipped = RunFolder(tmp_path, "abc123"), example("calibrated")
    for name in ("config.json", "environment.json", "result.json"):
        folder.write_json(name, shipped.folder.read_json(name))
    for t in range(10):
        folder.write_arrays(f"tasks/{t:02d}.safetensors", shipped.task(t), {})
    lacking = built(Run(folder))
    assert (
        "run abc123 was not evaluated at smaller ranks; `fmlora-lab examples abc123`"
        in lacking.smaller
    )
    lacking.show(0.4, "calibrated", 1.0, 1.0)
    assert lacking.smaller in [
        text.get_text() for axis in lacking.figure.axes for text in axis.texts
    ]


def test_a_run_without_choices_says_how_to_make_them(monkeypatch):
    run = example("paper")
    method = {**run.config["method"], "drs": {"enabled": False}}
    monkeypatch.setattr(run, "config", {**run.config, "method": method})
    with pytest.raises(BadInput, match=r"chose no ranks, .* --set method.drs.enabled=true"):
        choices_of(run)


@pytest.mark.parametrize(
    ("benchmark", "classes"),
    [
        ({"name": "glyphs"}, 10),
        ({"name": "glyph-domains"}, 100),
        ({"name": "hub", "scenario": "domain-incremental"}, 100),
        ({"name": "hub", "scenario": "class-incremental"}, 10),
    ],
)
def test_domains_show_all_classes_in_every_task(monkeypatch, benchmark, classes):
    run = example("paper")
    monkeypatch.setattr(run, "config", {**run.config, "benchmark": benchmark})
    assert classes_a_task(run) == classes


def test_static_is_the_figure_that_it_opens_with():
    figure = rank_choice(static=True)
    assert isinstance(figure, Figure) and len(figure.axes) == 3
    assert figure.axes[0].texts[-1].get_text().startswith("The calibrated form, τ = 1.00, λ = ")


# A run that drops directions as it trains


def left(tmp_path, ranks: list[list[int]]) -> Run:
    """A run of SoRA on disk, of which training left these ranks, by task and site."""
    folder, shipped = RunFolder(tmp_path, "def456"), example("calibrated")
    for name in ("config.json", "environment.json", "result.json"):
        folder.write_json(name, shipped.folder.read_json(name))
    config = shipped.folder.read_json("config.json")
    folder.write_json("config.json", {**config, "method": {"name": "sora", "rank": 8}})
    for t, rank in enumerate(ranks):
        folder.write_arrays(f"tasks/{t:02d}.safetensors", {"rank": np.array(rank)}, {})
    return Run(folder)


RANKS = [[0, 3, 8, 3], *[[1, 1, 2, 2]] * 9]


def test_of_sora_the_directions_that_stay_are_shown_by_task_and_site(tmp_path):
    picture, words = draw(left(tmp_path, RANKS), "calibrated", 0.4, 1.0, 1.0)
    (axis,) = picture.figure.axes
    means = [[1, 3.5], *([t, 1.5] for t in range(2, 11))]
    np.testing.assert_allclose(axis.get_lines()[0].get_xydata(), means)
    spots = axis.collections[0].get_offsets().tolist()
    assert spots[:5] == [[1, 0], [1, 3], [1, 8], [2, 1], [2, 2]] and len(spots) == 3 + 9 * 2
    assert axis.get_lines()[1].get_ydata()[0] == 8  # of so many
    said = picture.moving[-1].get_text()
    assert said == "Of 8 directions a site 1.7 stay on average, from 0 to 8"
    for task, cells in ((1, ["3.5", "0", "8"]), (2, ["1.5", "1", "2"])):
        line = words.split(f">task {task}</th>")[1].split("</tr>")[0]
        assert [cell.split("<")[0] for cell in line.split("<td>")[1:]][:3] == cells


def test_it_is_offered_and_its_controls_rest(tmp_path, seen):
    left(tmp_path, RANKS)
    page = explorer(tmp_path)
    run, rest = page.controls["run"], [page.controls[name] for name in ("form", "H", "tau", "cost")]
    (own,) = [r for _, r in run.options if r.method_name == "sora"]
    before = seen(page)
    for chosen, off in ((own, True), (run.options[0][1], False)):
        run.value = chosen
        page.wait()
        assert all(control.disabled == off for control in rest)
    assert seen(page) == before


def test_a_picture_of_what_stays_is_redrawn_in_a_tenth_of_a_second(tmp_path):
    own = left(tmp_path, RANKS)
    draw(own, "calibrated", 0.4, 1.0, 1.0)[0].svg()
    took = []
    for _ in range(5):
        began = time.perf_counter()
        draw(own, "calibrated", 0.4, 1.0, 1.0)[0].svg()
        took.append(time.perf_counter() - began)
    assert min(took) < 0.1
