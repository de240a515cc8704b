"""Many methods in one table, and the same table again from the small files that are shipped."""

import json
from pathlib import Path

import pandas as pd
import pytest

from fmlora_lab import run, runs
from fmlora_lab.analysis.tables import read_published
from fmlora_lab.compare import ORDER, best_trials, configurations, draw, in_order
from fmlora_lab.config import BadInput
from fmlora_lab.methods import METHODS
from fmlora_lab.profiles import tuned
from fmlora_lab.runs.run import parts
from fmlora_lab.runs.store import RESULTS, ship

ROOT = Path(__file__).parents[1]
TABLES = {"glyphs-10": 3, "cifar100-tiny": 3}
"""The README's comparisons: a folder of shipped runs, and its seeds."""


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Two methods, two seeds, in the smoke profile."""
    root = tmp_path_factory.mktemp("runs")
    configs = configurations(["prototypes", "linear-probe"], "glyphs", "smoke", 2, {})
    return [run(config, root) for config in configs]


def test_every_method_takes_part_with_every_seed():
    configs = configurations(None, "glyphs", "demo", 3, {"benchmark.tasks": 5})
    assert len(configs) == 3 * len(METHODS)
    assert {(c.method.name, c.seed) for c in configs} == {(m, s) for m in METHODS for s in range(3)}
    assert {c.benchmark.tasks for c in configs} == {5}
    with pytest.raises(BadInput, match="'ewc'; allowed: coda-prompt"):
        configurations(["ewc"], "glyphs", "demo", 1, {})


def test_a_newcomer_stands_after_the_known_ones():
    assert in_order(["zeta", "joint", "fm-lora", "alpha"]) == ["fm-lora", "joint", "alpha", "zeta"]


def test_shipped_files_give_the_same_table_and_figures(few, tmp_path):
    table, paths = draw(few, tmp_path / "trained")
    for stored in few:
        ship(stored, tmp_path / "shipped")
    again, others = draw(runs(tmp_path / "shipped"), tmp_path / "again")
    pd.testing.assert_frame_equal(table, again)
    assert list(table.index) == ["linear-probe", "prototypes"] and set(table.seeds) == {2}
    assert [path.name for path in paths] == [path.name for path in others]
    for one, other in zip(paths, others, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert list(read_published(tmp_path / "again").index) == list(table.index)
    sizes = [file.stat().st_size for file in (tmp_path / "shipped").rglob("*.json")]
    assert len(sizes) == 3 * len(few) and sum(sizes) < 40_000 * len(few)


def test_a_shipped_configuration_names_no_folder_of_its_machine(few, tmp_path):
    few[0].config["benchmark"]["data"] = "/home/someone/images"
    ship(few[0], tmp_path)
    (shipped,) = runs(tmp_path)
    assert shipped.config["benchmark"]["data"] == "images"
    assert "someone" not in json.dumps(shipped.config)
    del few[0].config["benchmark"]["data"]


def test_inference_cost_counts_the_query(few, tmp_path):
    """A prompt method runs the frozen backbone first: over twice the operations of a probe."""
    (config,) = configurations(["l2p"], "glyphs", "smoke", 1, {"method.length": 1})
    prompted = run(config, tmp_path).result["inference_flops"]
    plain = few[0].result["inference_flops"]
    assert 2 * plain < prompted < 3 * plain


def test_the_best_trials_are_shown_with_their_number():
    trials = best_trials("demo")
    for method, found in tuned("demo").items():
        own = trials[trials.method == method]
        accs = sorted((trial["acc"] for trial in found["trials"]), reverse=True)
        assert list(own["validation Acc (%)"]) == [round(acc, 1) for acc in accs[:3]]
        assert set(own.of) == {len(found["trials"])}


@pytest.mark.parametrize("name", TABLES)
def test_the_readmes_tables_are_those_of_the_shipped_runs(tmp_path, name):
    shipped = runs(RESULTS / name)
    assert {(r.config["method"]["name"], r.config["seed"]) for r in shipped} == {
        (method, seed) for method in in_order(ORDER) for seed in range(TABLES[name])
    }
    draw(shipped, tmp_path)
    table = (tmp_path / "table.md").read_text("utf-8")
    assert table in (ROOT / "README.md").read_text("utf-8")


def test_shipped_runs_are_those_of_todays_configuration():
    """Name for name: a change of settings, defaults, images or weights asks for them anew."""
    configs = configurations(ORDER, "glyphs", "demo", 3, {})
    model, stream = parts(configs[0])
    names = {config.run_id(stream.fingerprint, model.fingerprint) for config in configs}
    assert names == {run.id for run in runs(RESULTS / "glyphs-10")}
