"""Frames: a run's own numbers under its labels, what is stored as well as what was swept."""

from types import SimpleNamespace

import numpy as np
import pytest

from fmlora_lab import configure
from fmlora_lab.config import BadInput, MethodLabel
from fmlora_lab.methods.registry import in_order
from fmlora_lab.runs.archive import RESULTS
from fmlora_lab.runs.frame import (
    acc_and_cost,
    along,
    by_draw,
    draw_of,
    frame,
    one_task_at_a_time,
    pick,
)
from fmlora_lab.runs.stored import what_differs
from fmlora_lab.runs.sweep import grid, load_frame, scaled, sweep, tuned

pytestmark = pytest.mark.unit


def a_run(acc=50.0, forgetting: float | None = 5.0, heads=None, one_task=False, order=0, seed=0):
    """Stands for a stored run of two tasks."""
    head = {"acc": acc, "learning_accuracy": 80.0, "forgetting": forgetting}
    result = {
        **head,
        "aaa": 60.0,
        "task_mean_acc": 65.0,
        "within_task": 90.0,
        "within_task_forgetting": 1.0,
        "confusion": 20.0,
        "task_given": 95.0,
        "task_inferred": 60.0,
        "passes": 4.0,
        "heads": {"trained": head, "means": head | {"acc": 55.5}} if heads is None else heads,
        "trainable_parameters": 1234,
        "kept_parameters": 56,
        "seconds": 12.0,
        "test_images": [400, 400],
        "inference_flops": 2_500_000,
    }
    config = {"order_seed": order, "data_seed": 0, "seed": seed}
    label = MethodLabel("a", "b", one_task=one_task)
    return SimpleNamespace(numbers=result, label=label, config=config)


def test_a_row_is_its_labels_then_its_runs_own_numbers():
    run = a_run(70.0)
    row = frame([({"method": "lora", "tasks": 2, "seed": 3}, run)]).iloc[0]
    assert row.to_dict() == {
        "method": "lora",
        "tasks": 2,
        "seed": 3,
        "acc": 70,
        "aaa": 60,
        "learning_accuracy": 80,
        "forgetting": 5,
        "task_mean_acc": 65,
        "within_task": 90,
        "within_task_forgetting": 1,
        "confusion": 20,
        "task_given": 95,
        "task_inferred": 60,
        "acc_trained": 70,
        "learning_accuracy_trained": 80,
        "forgetting_trained": 5,
        "acc_means": 55.5,
        "learning_accuracy_means": 80,
        "forgetting_means": 5,
        "trainable_parameters": 1234,
        "kept_parameters": 56,
        "seconds": 12,
        "seconds_a_task": 6,
        "passes": 4,
        "inference_mflops": 2.5,
        "run": run,
    }


def test_labels_come_first_also_those_that_only_later_runs_have():
    found = [({"method": "lora"}, a_run()), ({"method": "fm-lora", "rank": 4}, a_run())]
    assert list(frame(found).columns[:3]) == ["method", "rank", "acc"]


def test_what_is_undefined_is_a_number_that_is_not_there():
    found = frame([({}, a_run(forgetting=None, heads={"means": {"acc": 50.0}}))])
    by_head = ["acc_trained", "learning_accuracy_trained", "forgetting_trained"]
    missing = ["forgetting", *by_head, "learning_accuracy_means", "forgetting_means"]
    assert found.columns[found.isna().all()].tolist() == missing
    assert set(found[missing].dtypes) == {np.dtype(float)} and found.acc_means[0] == 50


def test_a_label_may_not_hide_a_number():
    with pytest.raises(ValueError, match="acc"):
        frame([({"acc": 1}, a_run())])


def test_values_along_a_label_are_a_row_a_class_order():
    rows = [("lora", 0, 5, 40), ("lora", 1, 5, 44), ("lora", 1, 10, 30), ("full", 0, 5, 9)]
    found = frame([({"method": m, "tasks": n}, a_run(a, order=o)) for m, o, n, a in rows])
    values = along(found, "acc", "tasks", (10, 5), method="lora")
    np.testing.assert_array_equal(values, [[np.nan, 40], [30, 44]])
    assert pick(found, method="lora", tasks=5).acc.tolist() == [40, 44]


def test_what_is_drawn_is_orders_where_there_are_several_else_seeds():
    def drawn(*runs):
        series = draw_of(frame([({}, a_run(order=order, seed=seed)) for order, seed in runs]))
        return series.name, series.tolist()

    assert drawn((0, 0), (3, 0), (3, 1)) == ("order_seed", [0, 3, 3])
    assert drawn((2, 0), (2, 1)) == ("seed", [0, 1])
    assert drawn((2, 5)) == ("order_seed", [2])


def test_runs_of_one_order_are_averaged_and_one_asked_for_twice_counts_once():
    runs = [(0, 0, 40.0), (0, 1, 44.0), (1, 0, 50.0)]
    runs = [a_run(acc, order=order, seed=seed) for order, seed, acc in runs]
    found = frame([({"method": "lora"}, run) for run in [*runs, runs[0]]])
    table = by_draw(found, "acc")
    assert table.lora.to_dict() == {0: 42, 1: 50} and table.index.name == "order_seed"


def test_runs_that_a_label_does_not_tell_apart_are_not_averaged():
    found = frame([({"method": "lora", "tasks": n}, a_run(n)) for n in (5, 10)])
    with pytest.raises(BadInput, match="method does not tell the runs apart; pick some"):
        by_draw(found, "acc")


def test_a_method_that_sees_all_tasks_at_once_is_no_rival():
    runs = [("lora", a_run(40)), ("joint", a_run(90, one_task=True)), ("lora", a_run(44, order=1))]
    found = one_task_at_a_time(frame([({"method": name}, run) for name, run in runs]))
    (name, (accs, cost)), *others = acc_and_cost(found, "kept_parameters").items()
    assert (name, accs.tolist(), cost, others) == ("lora", [40, 44], 56, [])


@pytest.mark.parametrize("where", ["glyphs-10", RESULTS / "glyphs-10.zip"], ids=["name", "file"])
def test_a_collection_is_a_frame_in_the_order_of_tables(where):
    found = load_frame(where)
    assert list(found.columns[:4]) == ["method", "order_seed", "seed", "acc"] and len(found) == 36
    there = set(found.method)
    assert list(found.method.unique()) == [name for name in in_order() if name in there]
    assert found.seed.tolist() == [0, 1, 2] * 12
    assert [run.result["acc"] for run in found.run] == found.acc.tolist()


def test_some_methods_of_a_collection():
    found = load_frame("glyphs-10", ["lora", "fm-lora"])
    assert list(found.method.unique()) == ["fm-lora", "lora"]


def test_what_was_swept_is_there_to_be_loaded(tmp_path):
    runs = grid("smoke", method="prototypes", overrides={"benchmark.train_images": 2})
    swept = sweep(runs, tmp_path)
    loaded = load_frame(tmp_path).drop(columns=["order_seed", "run"])
    assert loaded.equals(swept.drop(columns="run"))


def test_where_no_run_is_complete_there_is_no_frame(tmp_path):
    with pytest.raises(BadInput, match="no complete runs there"):
        load_frame(tmp_path)
    with pytest.raises(BadInput, match="glyphs-10: no complete runs there"):
        load_frame("glyphs-10", ["my-own"])
    with pytest.raises(BadInput, match="there is no archive"):
        load_frame(tmp_path / "nowhere.zip")


def test_a_benchmark_takes_the_place_of_the_profiles_stream(monkeypatch):
    monkeypatch.delenv("FMLORA_DATA", raising=False)
    (asked,) = grid("cifar100-tiny", benchmark="glyphs", tasks=20)  # no images are looked for
    assert (asked.config.benchmark.name, asked.config.benchmark.tasks) == ("glyphs", 20)
    (domains,) = grid("smoke", benchmark="glyph-domains", method="lora")
    assert domains.config.benchmark.train_images == 2  # as the profile says
    assert domains.labels == {"method": "lora", "seed": 0}


def test_rates_are_multiples_of_the_tuned_ones():
    settings = ["method.lr", "method.bases.lr"]
    assert scaled("demo", "fm-lora", settings, 0.5) == {
        "method.lr": 2e-3,
        "method.bases.lr": 1.5e-4,
    }
    with pytest.raises(BadInput, match=r"^prototypes has no setting method\.lr$"):
        tuned("demo", "prototypes", "method.lr")
    with pytest.raises(BadInput, match=r"lora has no setting method\.lr\.more"):
        tuned("demo", "lora", "method.lr.more")


def asked(method, **overrides):
    """Stands for a stored run of this configuration."""
    config = configure(method, overrides=overrides).model_dump(mode="json")
    return SimpleNamespace(method_name=method, config=config)


def test_what_differs_among_runs_are_their_settings_dotted():
    bases = ({"seed": seed, "method.basis_rank": rank} for rank in (16, 32) for seed in (0, 1))
    assert what_differs([asked("fm-lora", **own) for own in bases]) == [
        {"method.basis_rank": rank, "seed": seed} for rank in (16, 32) for seed in (0, 1)
    ]
    assert what_differs([asked("fm-lora")]) == what_differs([asked("lora")]) == [{}]


def test_a_methods_settings_differ_from_those_of_the_same_method_alone():
    given = {"training.lr_head": 3e-3, "method.lr": 1e-3}
    one, other = asked("lora", **given), asked("full", **given | {"method.lr": 2e-3})
    assert what_differs([one, other]) == [{}, {}]
    third = asked("lora", **given | {"method.lr": 2e-3})
    assert what_differs([one, other, third]) == [{"method.lr": 1e-3}, {}, {"method.lr": 2e-3}]


def test_a_setting_that_an_older_run_did_not_know_is_no_difference():
    old, new = asked("lora"), asked("lora")
    del old.config["training"]["loss_over"]
    assert what_differs([old, new]) == [{}, {}]
