"""What the notebooks published when nbmake executed them: `make test` reads this last.

The smoke profile trains for seconds, so what is asserted are relations that hold for any training:
not values.
"""

import json
import math
import shutil
from pathlib import Path

import pytest
from compiling import overfull

from fmlora_lab.render.notebooks import OWN, short_name
from fmlora_lab.render.plan import needed
from fmlora_lab.runs.stored import load_runs

EXECUTED = Path(__file__).parents[2] / "build" / "notebooks"
STUDIES = sorted(
    path.name for path in OWN.glob("*.ipynb") if int(path.name[:2]) in (*range(20, 31), 33)
)
FEW = {"fm-lora", "lora", "full", "prototypes"}
"""As `prepare.py` has them."""


def results(name: str) -> dict:
    return json.loads((EXECUTED / "figures" / name / "results.json").read_text())


def test_the_quickstart_publishes_its_numbers_and_pictures():
    methods = results("quickstart")["methods"]
    assert list(methods) == [
        "fm-lora",
        "lora",
        "ranpac",
        "full",
        "linear-probe",
        "prototypes",
        "joint",
    ]
    for row in methods.values():
        assert 0 <= row["acc"] <= 100
        assert row["test_images"] == 200 and row["tasks"] == 5
        assert (EXECUTED / "runs" / row["runs"] / "result.json").exists()
    joint = methods.pop("joint")
    assert joint["forgetting"] is None
    assert all(joint["acc"] > methods[name]["acc"] for name in ("fm-lora", "lora", "full"))
    for row in methods.values():  # forgetting counts from a task's best, which may come later
        assert row["acc"] >= row["learning_accuracy"] - row["forgetting"] * 4 / 5 - 1e-3
    assert methods["prototypes"]["acc"] > 10  # ten times chance: the backbone knows characters
    folder = EXECUTED / "figures" / "quickstart"
    for name in ("by_head", "stream", "accuracy_over_tasks", "accuracy_matrices", "trade_off"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
        assert "</svg>" in (folder / f"{name}.svg").read_text()


@pytest.mark.parametrize("notebook", STUDIES, ids=short_name)
def test_a_notebook_leaves_figures_tables_and_their_source(notebook, monkeypatch):
    name = short_name(notebook)
    folder = EXECUTED / "figures" / name
    pictures = sorted(folder.glob("*.png"))
    kinds = (".svg", ".pdf")
    assert pictures and all(p.with_suffix(kind).exists() for p in pictures for kind in kinds)
    listed = json.loads((folder / "figures.json").read_text())
    assert {p.stem for p in pictures} == set(listed)
    of_draws = "(one seed)"  # as all of these are, except what no order is drawn of
    said = [about["title"] for about in listed.values()]
    assert all(of_draws in title for title in said) or name == "cost"
    for file in (f"{name}.csv", f"{name}.tex", "runs.csv", "answer.md", "provenance.json"):
        assert (folder / file).stat().st_size > 50
    source = json.loads((folder / "provenance.json").read_text())
    monkeypatch.chdir(EXECUTED)  # where its runs are, as its parameters say
    asked = needed(notebook, {})
    assert source["notebook"] == name and source["orders"] == source["seeds"] == [0]
    assert set(source["runs"]) == {need.run_id for need in asked}
    assert all(need.stored for need in asked)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
def test_every_table_compiles_and_fits_its_column(tmp_path):
    tables = [path.read_text() for path in sorted(EXECUTED.glob("figures/*/*.tex"))]
    assert len(tables) >= len(STUDIES)
    assert overfull("\n\\clearpage\n".join(tables), tmp_path) == []


def test_accuracy_matrices_are_percentages_of_what_was_seen():
    """And of what is to come where zero-shot transfer is the question. Joint training has a row."""
    for run in load_runs(EXECUTED / "runs"):
        joint, ahead = run.method_name == "joint", run.config["measure_ahead"]
        for t, row in enumerate(run.accuracy_matrix):
            if not joint or t == len(row) - 1:
                assert all(0 <= a <= 100 for a in row[: t + 1])
            measured = ahead and not joint
            assert all(0 <= a <= 100 if measured else math.isnan(a) for a in row[t + 1 :])


def test_nearest_class_mean_does_not_depend_on_how_classes_are_cut():
    for name in ("imagenet_r", "stream_length"):
        by_tasks = results(name)["acc"]["prototypes"]
        assert by_tasks["2"] == pytest.approx(by_tasks["5"])


def test_every_method_has_an_accuracy_on_every_stream():
    by_stream = results("other_benchmarks")["acc"]
    assert len(by_stream) > 1 and "Glyphs, six styles" in by_stream
    for by_method in by_stream.values():
        assert set(by_method) == FEW
        assert all(0 <= acc <= 100 for acc in by_method.values())


def test_ranks_are_among_the_candidates():
    found = results("rank_selector")
    assert found["ranks"] and set(found["ranks"]) <= set(found["candidates"])
    assert len(found["directions"]) == 5  # of SoRA: a task, a site, of 8
    assert all(0 <= left <= 8 for task in found["directions"] for left in task)
    assert all(-1 <= rho <= 1 for rho in found["spearman_with_H"].values())


def test_no_prompt_is_compared_with_some():
    found = results("meta_prompt")
    assert {"0", "8"} == set(found["acc"]["2"]) == set(found["acc"]["5"])
    assert -1 <= found["spearman_drift_forgetting"] <= 1


def test_the_parts_are_those_of_both_streams_and_every_method_has_its_heads():
    found = results("components")
    assert set(found["parts"]) == {"classes", "domains"}
    assert all(len(parts) == 4 for parts in found["parts"].values())
    for heads in found["heads"].values():
        assert {"trained", "means", "lda", "ridge", "lda-carried"} <= set(heads)
        assert heads["means"] > heads["trained"]  # one epoch hardly trains a head


def test_wider_bases_hold_more_of_a_free_update():
    spans = results("bases")["share_in_span"]
    narrow, wide = (sum(spans[R][1:]) for R in ("4", "128"))
    assert 0 <= narrow < wide <= len(spans["4"])


def test_fm_lora_reads_from_the_same_directions_in_every_task():
    found = results("interference")
    assert found["fm-lora"]["input_cosine"] > found["lora"]["input_cosine"]
    starts = found.pop("in_its_start")
    assert all(0 <= row["collision"] <= 1 for row in found.values())
    for of in starts.values():  # of a side that has no start there is neither
        sides = [(of[f"chance_{side}"], of[f"share_{side}"]) for side in ("inputs", "outputs")]
        found_sides = [(chance, share) for chance, share in sides if share is not None]
        assert found_sides and all(0 < chance < share <= 100.01 for chance, share in found_sides)


def test_the_frontier_has_the_best_of_its_rates():
    assert all(0 <= acc <= 100 for acc in results("frontier")["best_acc"].values())


def test_full_fine_tuning_trains_most_and_a_frozen_backbone_least():
    costs = results("cost")["costs"]
    trained = {method: row["trainable_parameters"] for method, row in costs.items()}
    assert max(trained, key=trained.get) == "full" and trained["prototypes"] == 0
    assert 0 < trained["fm-lora"] < trained["lora"]


def test_all_methods_are_compared():
    assert set(results("all_methods")["acc"]) == FEW


def test_a_frozen_backbone_gains_nothing_over_itself_and_loses_nothing():
    found = results("heads")
    assert set(found["acc"]) == FEW | {"linear-probe", "joint"}
    assert {gain for gain in found["gain"]["prototypes"].values() if gain is not None} == {0}
    with_trained_head = FEW - {"prototypes"} | {"linear-probe"}
    assert set(found["forgetting"]["trained"]) == with_trained_head
    assert found["loss"]["trained"]["linear-probe"] == 0  # its forgetting is all confusion


@pytest.mark.parametrize(
    "name",
    ["subspace_overlap", "rank_choice", "prompt_drift", "experts", "forgotten", "features"],
)
def test_an_explorer_without_anyone_before_it_leaves_its_picture(name):
    folder = EXECUTED / "figures" / name
    assert (folder / f"{name}.png").stat().st_size > 50_000
    assert "</svg>" in (folder / f"{name}.svg").read_text()
