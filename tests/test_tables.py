"""Tables: the numbers are those of the runs, seeds are averaged, nothing unlike is mixed."""

import copy
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from fmlora_lab.analysis.answer import answer, margin
from fmlora_lab.analysis.tables import (
    SHORT,
    curves,
    matrices,
    publish,
    read_published,
    summary_table,
    to_csv,
    to_html,
    to_markdown,
    to_text,
)
from fmlora_lab.config import BadInput
from fmlora_lab.metrics import summary
from fmlora_lab.runs.store import Run, RunFolder

COUNTS = [400, 400]


def stored(root, method, first, then, new, seed=0, joint=False, **training) -> Run:
    """A run of two tasks on disk: task 1 at `first` then `then` percent, task 2 at `new`."""
    a = np.array([[first, np.nan], [then, new]])
    if joint:
        a[0] = np.nan
    listed = [[None if np.isnan(v) else v for v in row] for row in a]
    of_run = summary(a, COUNTS)
    folder = RunFolder(root, f"{len(list(root.glob('*'))):016x}")
    folder.write_json(
        "config.json",
        {
            "benchmark": {"name": "glyphs", "tasks": 2},
            "backbone": {"weights": None},
            "method": {"name": method},
            "training": {"head": "linear", **training},
            "seed": seed,
            "order_seed": 0,
            "data_seed": 0,
        },
    )
    folder.write_json(
        "result.json",
        {
            **of_run,
            "ranked_by": "head",
            "accuracy_matrix": listed,
            "heads": {"head": of_run, "prototype": {"acc": 55.5}},
            "test_images": COUNTS,
            "seconds": 12.0,
            "trainable_parameters": 1234,
            "kept_parameters": 56,
            "inference_flops": 2_500_000,
        },
    )
    return Run(folder)


@pytest.fixture
def two_seeds(tmp_path):
    return [
        stored(tmp_path, "fm-lora", 90, 60, 80, seed=0),
        stored(tmp_path, "fm-lora", 90, 70, 90, seed=1),
    ]


def test_a_row_holds_the_numbers_of_its_run(tmp_path):
    table = summary_table([stored(tmp_path, "lora", 90, 60, 80)])
    row = table.loc["lora"]
    assert (row.acc, row.aaa, row.learning_accuracy, row.forgetting) == (70, 80, 85, 30)
    assert (row["head"], row.other_acc) == ("linear", 55.5)
    assert (row.trainable_parameters, row.kept_parameters, row.seconds) == (1234, 56, 12)
    assert "acc_std" not in table


def test_seeds_are_averaged_with_their_spread(two_seeds):
    table = summary_table(two_seeds)
    row = table.loc["fm-lora"]
    assert row.acc == 75 and row.acc_std == pytest.approx(np.sqrt(50))
    assert row.acc_low == 70 and row.acc_high == 80
    assert (row.seeds, row.varied) == (2, "seed")
    assert "75.0 ± 7.1 [70.0, 80.0]" in to_text(table)


def test_a_run_asked_for_twice_counts_once(two_seeds):
    again = [copy.copy(run) for run in two_seeds]
    assert summary_table(two_seeds + again).loc["fm-lora"].seeds == 2


def test_a_row_refuses_runs_that_differ_in_more_than_seeds(tmp_path):
    runs = [
        stored(tmp_path, "lora", 90, 60, 80),
        stored(tmp_path, "lora", 90, 60, 80, epochs=9),
    ]
    with pytest.raises(BadInput, match=r"training\.epochs"):
        summary_table(runs)
    table = summary_table(runs, label=lambda run: f"epochs {run.config['training'].get('epochs')}")
    assert list(table.index) == ["epochs None", "epochs 9"]


def test_a_row_refuses_runs_of_one_seed_on_different_images(tmp_path):
    with pytest.raises(BadInput, match="share seeds"):
        summary_table([stored(tmp_path, "lora", 90, 60, 80), stored(tmp_path, "lora", 90, 60, 70)])


def test_undefined_is_a_dash_to_read_and_empty_as_data(tmp_path):
    table = summary_table([stored(tmp_path, "joint", 0, 90, 80, joint=True)])
    assert table.loc["joint"].acc == 85
    assert to_text(table, ["forgetting"]).split()[-1] == "–"
    assert "<td>–</td>" in to_html(table)
    assert ",85.0,,,," in to_csv(table)


def test_markdown_has_a_line_a_method(two_seeds):
    lines = to_markdown(summary_table(two_seeds), ("acc", "kept_parameters")).splitlines()
    assert lines[0] == "|  | Acc (%) | kept |" and lines[1] == "| --- | --- | --- |"
    assert lines[2].startswith("| FM-LoRA | 75.0 ± 7.1 [70.0, 80.0] | 56 |") and len(lines) == 3


def test_a_published_table_comes_back(tmp_path, two_seeds):
    table = summary_table([*two_seeds, stored(tmp_path, "joint", 0, 90, 80, joint=True)])
    written = publish(table, tmp_path / "out")
    assert to_text(read_published(tmp_path / "out"), SHORT) == to_text(table, SHORT)
    methods = json.loads(written["results.json"].read_text())["methods"]
    assert methods["fm-lora"]["acc"] == 75 and methods["joint"]["forgetting"] is None


def test_curves_and_matrices_keep_seeds_apart_and_together(two_seeds):
    assert curves(two_seeds)["fm-lora"].tolist() == [[90, 70], [90, 80]]
    np.testing.assert_equal(matrices(two_seeds)["fm-lora"], [[90, np.nan], [65, 85]])


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        ((90, 85, 88), "**Yes"),
        ((50, 45, 50), "**Only in part"),
        ((95, 10, 88), "**No"),
        ((90, 22, 95), "**No"),
    ],
)
def test_the_answer_is_the_numbers_own(tmp_path, own, verdict):
    runs = [stored(tmp_path, "fm-lora", *own), stored(tmp_path, "full", 90, 20, 95)]
    said = answer(summary_table(runs))
    assert verdict in said
    assert f"{(own[1] + own[2]) / 2:.1f}%" in said and "57.5%" in said


@pytest.mark.parametrize(
    ("acc", "verdict"), [(70, "clearly better"), (50, "clearly worse"), (61, "no clear difference")]
)
def test_a_difference_is_clear_only_beyond_the_margin(tmp_path, acc, verdict):
    runs = [stored(tmp_path, "fm-lora", 80, acc, acc), stored(tmp_path, "lora", 80, 60, 60)]
    line = next(x for x in answer(summary_table(runs)).splitlines() if x.startswith("- Against"))
    assert verdict in line
    assert f"Acc {acc - 60:+.1f} points" in line


def test_the_best_is_named_whichever_it_is(tmp_path):
    runs = [stored(tmp_path, name, 80, acc, acc) for name, acc in [("lora", 70), ("fm-lora", 60)]]
    assert "place 2; the best is sequential LoRA with 70.0%" in answer(summary_table(runs))


def test_margin_is_twice_the_standard_error():
    draws = np.random.default_rng(0).binomial(400, 0.6, size=(2, 20_000)) / 4
    assert margin(60, 60, 400) == pytest.approx(2 * np.std(draws[0] - draws[1]), rel=0.03)


def test_a_table_without_the_method_says_so():
    assert "no answer" in answer(pd.DataFrame(index=["lora"]))


def test_pictures_and_tables_do_not_import_torch():
    code = "import sys, fmlora_lab.plots, fmlora_lab.analysis.answer, fmlora_lab.render; "
    done = subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"])
    assert done.returncode == 0
