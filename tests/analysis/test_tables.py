"""Tables: the numbers are those of the runs, seeds are averaged, nothing unlike is mixed."""

import numpy as np
import pandas as pd
import pytest

from fmlora_lab.analysis.differences import differences
from fmlora_lab.analysis.tables import (
    beside,
    best_trials,
    compared,
    curves,
    formatted,
    matrices,
    numbers,
    pivot,
    read_table,
    readable,
    summarize,
    to_markdown,
    to_text,
)
from fmlora_lab.config import BadInput
from fmlora_lab.metrics import t_interval
from fmlora_lab.profiles import trials
from fmlora_lab.runs.frame import METRICS, frame, labelled
from fmlora_lab.runs.stored import Run
from fmlora_lab.runs.sweep import load_frame

pytestmark = pytest.mark.unit

COMPARED = (
    "acc_trained", "acc_best", "best_head", "learning_accuracy", "forgetting",
    "trainable_parameters", "kept_parameters", "seconds_a_task", "inference_mflops", "draws",
)  # fmt: skip
"""The columns of the comparison of all methods."""


@pytest.fixture
def stored(stored_run):
    """`stored(method, first, then, new)`: a frame of one run, labelled method and seed."""

    def make(method, first, then, new, seed=0, **more) -> pd.DataFrame:
        run = stored_run(method, first, then, new, seed, **more)
        return frame([({"method": method, "seed": seed}, run)])

    return make


@pytest.fixture
def two_seeds(stored):
    return pd.concat([stored("fm-lora", 90, 60, 80), stored("fm-lora", 90, 70, 90, seed=1)])


@pytest.fixture
def cells(stored_run):
    """`cells((method, tasks, acc), ...)`: a frame with a row each, labelled method and tasks."""

    def make(*rows) -> pd.DataFrame:
        runs = [stored_run(method, acc, acc, acc, i) for i, (method, _, acc) in enumerate(rows)]
        labels = [{"method": method, "tasks": tasks} for method, tasks, _ in rows]
        return frame(list(zip(labels, runs, strict=True)))

    return make


def test_a_row_holds_the_numbers_of_its_run(stored):
    table = compared(stored("lora", 90, 60, 80))
    row = table.loc["lora"]
    assert (row.acc, row.aaa, row.learning_accuracy, row.forgetting) == (70, 80, 85, 30)
    assert (row["head"], row.acc_trained, row.acc_best, row.best_head) == (
        "linear",
        70,
        55.5,
        "means",
    )
    assert row.passes_a_task == 8
    assert (row.trainable_parameters, row.kept_parameters, row.seconds) == (1234, 56, 12)
    assert (row.seconds_a_task, row.inference_mflops, row.tasks, row.test_images) == (
        6,
        2.5,
        2,
        800,
    )
    assert "acc_low" not in table


def test_the_best_closed_form_head_is_that_of_the_highest_mean(stored_run):
    accs = [(60.0, 80.0), (70.0, 64.0)]  # of two class orders
    runs = [
        stored_run("lora", 90, 60, 80, order=i, heads={"lda": {"acc": a}, "ridge": {"acc": b}})
        for i, (a, b) in enumerate(accs)
    ]
    row = compared(frame([({"method": "lora"}, run) for run in runs])).loc["lora"]
    assert (row.best_head, row.acc_best) == ("ridge", 72)
    assert (row.acc_best_low, row.acc_best_high) == pytest.approx(t_interval([80, 64]))


def test_what_the_runs_do_not_have_is_no_column(stored):
    assert "within_task" not in compared(stored("lora", 90, 60, 80))
    assert not any("within" in name for name in readable(compared(stored("lora", 90, 60, 80))))


def test_seeds_of_one_order_are_averaged_with_their_interval(two_seeds):
    table = compared(two_seeds)
    row = table.loc["fm-lora"]
    assert row.acc == 75 and (row.acc_low, row.acc_high) == pytest.approx(t_interval([70, 80]))
    assert (row.draws, row.drawn) == (2, "seed")
    assert "75.0 ± 63.5" in to_text(readable(table))


def test_class_orders_count_and_seeds_of_an_order_are_averaged_first(stored_run):
    runs = [(0, 0, 40), (0, 1, 44), (1, 0, 50), (1, 1, 50), (2, 0, 60), (2, 1, 70)]
    runs = [stored_run("lora", acc, acc, acc, seed, order=order) for order, seed, acc in runs]
    table = compared(frame([({"method": "lora"}, run) for run in runs]))
    row = table.loc["lora"]
    assert (row.acc, row.draws, row.drawn) == (pytest.approx((42 + 50 + 65) / 3), 3, "order_seed")
    assert (row.acc_low, row.acc_high) == pytest.approx(t_interval([42, 50, 65]))
    shown = readable(table, ["acc", "draws"])
    assert list(shown) == ["Acc (%) ± 95%", "class orders"] and shown.iloc[0, 1] == "3"


def test_a_run_asked_for_twice_counts_once(two_seeds):
    assert compared(pd.concat([two_seeds, two_seeds])).loc["fm-lora"].draws == 2


@pytest.mark.parametrize("first", [True, False])
def test_runs_without_a_label_have_a_row_of_their_own(stored_run, first):
    runs = {"wide": stored_run("fm-lora", 90, 60, 80), None: stored_run("lora", 50, 40, 30)}
    cost = {None: 7, "wide": 3}
    for label, run in runs.items():
        run.result["trainable_parameters"] = cost[label]
    each = [({} if label is None else {"variant": label}, run) for label, run in runs.items()]
    found = frame(each if first else each[::-1])
    table = compared(found, "variant")
    assert table.trainable_parameters.to_dict() == {"wide": 3, "–": 7}
    assert table.acc.to_dict() == {"wide": 70, "–": 35}
    assert [*curves(found, "variant")] == [*found.variant.fillna("–")]
    (row,) = differences(found, "wide", by="variant").itertuples()
    assert row.Index == "–" and row.difference == -35


def test_a_row_refuses_runs_that_differ_in_more_than_seeds(stored):
    found = pd.concat([stored("lora", 90, 60, 80, epochs=4), stored("lora", 90, 60, 80, epochs=9)])
    with pytest.raises(BadInput, match=r"'lora' differ in training\.epochs, not only in seeds"):
        compared(found)
    assert list(compared(found.assign(epochs=["some", "9"]), by="epochs").index) == ["some", "9"]


def test_an_option_that_is_younger_than_a_run_is_no_difference(stored):
    older = stored("lora", 90, 60, 80)
    younger = stored("lora", 90, 60, 80, seed=1, loss_over="task")
    assert compared(pd.concat([older, younger])).loc["lora"].draws == 2


def test_a_row_refuses_runs_of_one_seed_on_different_images(stored):
    with pytest.raises(BadInput, match="share seeds"):
        compared(pd.concat([stored("lora", 90, 60, 80), stored("lora", 90, 60, 70)]))


def test_what_is_undefined_is_a_dash_to_read(stored):
    table = compared(stored("joint", 0, 90, 80, joint=True))
    assert table.loc["joint"].acc == 85 and np.isnan(table.loc["joint"].forgetting)
    assert to_text(readable(table, ["forgetting"])).split()[-1] == "–"


def test_markdown_has_a_line_a_method(two_seeds):
    lines = to_markdown(readable(compared(two_seeds), ("acc", "kept_parameters"))).splitlines()
    assert lines[0] == "|  | Acc (%) ± 95% | kept besides the backbone |"
    assert lines[1:] == ["| --- | --- | --- |", "| FM-LoRA | 75.0 ± 63.5 | 56 |"]


def test_of_one_class_order_there_is_neither_a_number_nor_an_interval(stored, two_seeds):
    alone = readable(compared(stored("lora", 90, 60, 80)), COMPARED)
    assert not any("orders" in name or "seeds" in name or "±" in name for name in alone)
    assert readable(compared(two_seeds), COMPARED)["seeds of training"].tolist() == ["2"]


def test_a_table_comes_back_from_its_folder_as_it_was_read(tmp_path, stored, two_seeds):
    shown = readable(compared(pd.concat([two_seeds, stored("joint", 0, 90, 80, joint=True)])))
    folder = tmp_path / "name"
    assert read_table(folder) is None
    folder.mkdir()
    shown.to_csv(folder / "name.csv")
    assert to_text(read_table(folder)) == to_text(shown)


def test_curves_and_matrices_keep_seeds_apart_and_together(two_seeds):
    assert curves(two_seeds)["fm-lora"].to_numpy().tolist() == [[90, 70], [90, 80]]
    of_both = matrices(two_seeds)["fm-lora"]
    assert len(of_both) == 2
    np.testing.assert_equal(of_both.mean(axis=0), [[90, np.nan], [65, 85]])


def test_curves_and_matrices_average_the_seeds_of_an_order(stored):
    """A band over them is an interval over orders, which seeds do not make narrower."""
    runs = [
        stored("lora", 90, 60, last, seed=seed, order=order)
        for order, seed, last in ((1, 0, 80), (1, 1, 84), (0, 0, 60))
    ]
    found = pd.concat(runs)
    (curve,) = curves(found).values()
    assert curve.index.tolist() == [0, 1] and curve.to_numpy().tolist() == [[90, 60], [90, 71]]
    (of_each,) = matrices(found).values()
    assert of_each[:, 1].tolist() == [[60, 60], [60, 82]]


def test_curves_of_a_head_are_of_its_own_matrix(stored):
    of = {"lda": {"acc": 55.0, "accuracy_matrix": [[80, None], [50, 60]]}}
    found = stored("lora", 90, 60, 80, heads=of)
    assert curves(found, head="lda")["lora"].to_numpy().tolist() == [[80, 55]]
    assert curves(found, head="ridge")["lora"].isna().all(axis=None)  # which the run does not have


@pytest.mark.parametrize(
    ("collection", "first", "last"),
    [
        (
            "glyphs-10",
            "| FM-LoRA | 54.0 ± 5.4 | 66.0 ± 1.6 | means | 72.8 ± 2.5 | 21.0 ± 6.3 | 24,893 | "
            "203,776 | 7.6 | 61.7 | 3 |",
            "| joint training | 86.4 ± 0.8 | 85.6 ± 0.4 | means | – | – | 1,229,796 | 1,216,896 | "
            "10.0 | 41.8 | 3 |",
        ),
    ],
)
def test_the_older_comparison_is_that_of_the_runs_that_came_with_the_lab(collection, first, last):
    lines = to_markdown(readable(compared(load_frame(collection)), COMPARED)).splitlines()
    assert len(lines) == 2 + 12 and (lines[2], lines[-1]) == (first, last)


def test_runs_of_two_compute_types_are_not_put_into_one_row():
    """As the older runs on CIFAR-100 are."""
    with pytest.raises(BadInput, match=r"differ in training\.precision, not only in seeds"):
        compared(load_frame("cifar100-tiny"))


def test_a_summary_and_the_comparison_agree():
    found = load_frame("glyphs-10")
    table, own = compared(found), summarize(found, ["method"], METRICS).set_index("method")
    columns = [f"{m}{end}" for m in METRICS for end in ("", "_low", "_high")]
    pd.testing.assert_frame_equal(own[columns], table[columns])
    assert own.draws.equals(table.draws) and list(own.columns) == [*columns, "draws"]
    by_method = found.groupby("method", sort=False)
    pd.testing.assert_series_equal(by_method.acc_means.mean(), table.acc_best, check_names=False)
    for cost in ("seconds", "seconds_a_task", "inference_mflops"):
        pd.testing.assert_series_equal(by_method[cost].mean(), table[cost])


def test_groups_stand_in_order_of_first_appearance(cells):
    own = cells(("lora", 10, 1), ("fm-lora", 5, 2), ("lora", 5, 3), ("lora", 10, 5))
    found = summarize(own, ["method", "tasks"], ["acc"])
    assert list(zip(found.method, found.tasks, found.acc, found.draws, strict=True)) == [
        ("lora", 10, 3, 2),
        ("fm-lora", 5, 2, 1),
        ("lora", 5, 3, 1),
    ]


def test_intervals_are_only_where_there_are_several(cells):
    own = cells(("lora", 5, 40.0), ("lora", 5, 44.0), ("lora", 5, 48.0), ("full", 5, 10.0))
    lora, full = summarize(own, ["method"], ["acc"]).to_dict("records")
    assert (lora["acc"], lora["draws"]) == (44, 3)
    assert (lora["acc_low"], lora["acc_high"]) == t_interval([40, 44, 48])
    assert full["acc"] == 10 and np.isnan([full["acc_low"], full["acc_high"]]).all()
    alone = summarize(own.iloc[2:], ["method"], ["acc"])
    assert list(alone.columns) == ["method", "acc", "draws"]


def test_a_mean_over_fewer_seeds_than_it_says_is_no_mean(cells):
    own = cells(("lora", 5, 1.0), ("lora", 5, 3.0)).assign(forgetting=[np.nan, 5.0])
    row = summarize(own, ["method"], ["acc", "forgetting"]).iloc[0]
    assert row.acc == 2 and (row.acc_low, row.acc_high) == t_interval([1, 3])
    assert np.isnan([row.forgetting, row.forgetting_low, row.forgetting_high]).all()


def test_a_run_that_two_cells_share_counts_once(stored_run):
    runs = [stored_run("lora", 40, 40, 40), stored_run("lora", 50, 50, 50, 1)]
    own = frame([({"method": "lora", "of": of}, run) for of in "xy" for run in runs])
    assert summarize(own, ["method"], ["acc"]).draws.tolist() == [2]
    assert summarize(own, ["of"], ["acc"]).draws.tolist() == [2, 2]


def test_rows_of_one_run_are_not_taken_for_seeds(cells):
    own = cells(("lora", 5, 1.0), ("lora", 5, 2.0)).assign(run="one")
    with pytest.raises(BadInput, match="group by more"):
        summarize(own, ["method"], ["acc"])


def test_a_group_without_a_label_is_kept(cells):
    own = cells(("lora", None, 1), ("fm-lora", 8, 8), ("fm-lora", 4, 4))
    own = own.rename(columns={"tasks": "rank"})
    found = summarize(own, ["method", "rank"], ["acc"])
    assert found.method.tolist() == ["lora", "fm-lora", "fm-lora"]
    table = pivot(found, "rank", "method", "acc")
    assert table.index.tolist() == ["–", "8", "4"]
    assert table["sequential LoRA"].tolist() == ["1.0", "–", "–"]
    assert table["FM-LoRA"].tolist() == ["–", "8.0", "4.0"]


def test_a_pivot_reads_as_a_table_in_order_of_appearance(cells):
    own = cells(("lora", 20, 40.0), ("lora", 20, 44.0), ("lora", 5, 61.25), ("joint", 5, 0.0))
    own.loc[3, "acc"] = np.nan
    table = pivot(summarize(own, ["method", "tasks"], ["acc"]), "method", "tasks", "acc")
    assert table.to_dict("split") == {
        "index": ["sequential LoRA", "joint training"],
        "columns": [20, 5],
        "data": [["42.0 ± 25.4", "61.2"], ["–", "–"]],
    }
    assert (table.index.name, table.columns.name) == ("method", "tasks")


def test_only_methods_get_a_methods_title(cells):
    own = cells(("lora", "full", 50.0)).rename(columns={"tasks": "trained"})
    table = pivot(summarize(own, ["method", "trained"], ["acc"]), "trained", "method", "acc")
    assert (table.index[0], table.columns[0]) == ("full", "sequential LoRA")


def test_numbers_over_two_labels_refuse_two_for_a_cell(cells):
    own = cells(("lora", 5, 40.0), ("full", 5, 50.0), ("full", 10, 60.0))
    found = summarize(own, ["method", "tasks"], ["acc"])
    table = numbers(found, "method", "tasks", "acc")
    np.testing.assert_array_equal(table, [[40, np.nan], [50, 60]])
    assert list(table.index) == ["lora", "full"] and list(table.columns) == [5, 10]
    with pytest.raises(BadInput, match="do not tell the rows apart"):
        numbers(found.assign(form="x"), "method", "form", "acc")


def test_several_values_stand_beside_each_other_under_their_headings(two_seeds):
    table = beside(two_seeds, "method", {"acc": "Acc (%)", "forgetting": "lost"})
    assert table.to_dict("index") == {"FM-LoRA": {"Acc (%)": "75.0 ± 63.5", "lost": "25.0 ± 63.5"}}


def test_numbers_are_shown_as_asked():
    table = pd.DataFrame({"rho": [0.5, np.nan], "n": [1, 2]}, index=["lora", "a row"])
    shown = formatted(table, {"rho": ("Spearman", "{:+.2f}")})
    assert shown.to_dict("index") == {
        "sequential LoRA": {"Spearman": "+0.50"},
        "a row": {"Spearman": "–"},
    }


def test_the_best_trials_are_shown_with_their_number():
    log = trials("demo")
    shown = best_trials("demo", ["lora", "joint", "fm-lora"])
    assert list(shown.index.unique()) == ["sequential LoRA", "FM-LoRA"]  # joint is not tuned
    for method, title in (("lora", "sequential LoRA"), ("fm-lora", "FM-LoRA")):
        own, tried = shown.loc[title], log[method]["trials"]
        accs = sorted((trial["acc"] for trial in tried), reverse=True)
        assert list(own["validation Acc (%)"]) == [f"{acc:.1f}" for acc in accs[:3]]
        assert list(own.place) == [1, 2, 3] and set(own.of) == {len(tried)}
    assert len(best_trials("smoke", list(log))) == 0


def test_runs_on_other_images_are_no_further_draws(stored_run):
    """Where files lie says nothing, what was read does."""

    def on(data, fingerprint, order) -> Run:
        folder = stored_run("lora", 90, 60, 80, order=order).folder
        config = folder.read_json("config.json")
        config["benchmark"]["data"] = data
        folder.write_json("config.json", config)
        folder.write_json("environment.json", {"data": fingerprint, "weights": "w"})
        return Run(folder)

    birds, moved, cars = on("birds", "a", 0), on("moved/birds", "a", 1), on("cars", "b", 1)
    assert compared(labelled([birds, moved])).loc["lora"].draws == 2
    with pytest.raises(BadInput, match=r"'lora' are of other images or weights, by benchmark.data"):
        compared(frame([({"method": "lora"}, run) for run in (birds, cars)]))
    names = labelled([birds, cars]).method.tolist()
    assert "data birds" in names[0] and "data cars" in names[1]
