"""Runs of two towers through the only door: what is scripted against, stored, restored, merged."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fmlora_lab.backbone.vit import load_tower
from fmlora_lab.config import Backbone
from fmlora_lab.profiles import configure
from fmlora_lab.runs import run as run_module
from fmlora_lab.runs.identity import identity
from fmlora_lab.runs.run import restore, run
from fmlora_lab.runs.stored import load_runs

QUICK = {
    "backbone.name": "glyphs-clip",
    "training.iterations": 1,
    "training.precision": "float32",
    "benchmark.train_images": 1,
    "benchmark.test_images": 1,
    "heads.random_features": 20,
}
pytestmark = pytest.mark.train


def config(**more):
    own = QUICK | {name.replace("__", "."): value for name, value in more.items()}
    return configure("lora", "glyph-scripts", "smoke", own)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return run(config(), tmp_path_factory.mktemp("runs"))


def test_names_that_others_script_against(call, tmp_path):
    words = [f"--set={name}={value}" for name, value in QUICK.items() if name != "backbone.name"]
    code, out, _ = call(
        *("run", "--method", "rank1-pool", "--backbone", "glyphs-clip", "--profile", "smoke"),
        *("--benchmark", "glyph-scripts", "--set", "benchmark.order=2", "--json"),
        *("--runs-dir", tmp_path, *words),
    )
    result = json.loads(out)
    assert code == 0
    assert {"transfer", "average", "last", "zero_shot"} <= result.keys()
    assert next(iter(result["zero_shot"])) == "relations"  # the second order's first
    assert all(None not in row for row in result["accuracy_matrix"])


def test_both_measures_are_of_one_run(stored, monkeypatch):
    """Which one is looked at is no part of its name, and nothing is trained for the other."""
    monkeypatch.setattr(run_module, "parts", None)
    given = run(config(benchmark__task="given"), stored.folder.root)
    assert given.id == stored.id
    by_texts = stored.result["by_texts"]
    assert given.result["transfer"] == by_texts["given"]["transfer"]
    assert stored.result["transfer"] == by_texts["unknown"]["transfer"]
    assert list(given.result["zero_shot"].values()) == by_texts["given"]["zero_shot"]
    assert list(given.result["zero_shot"]) == stored.environment["tasks"]


def test_orders_and_iterations_are_part_of_a_runs_name():
    ids = {
        identity(one)
        for one in (config(), config(benchmark__order=2), config(training__iterations=2))
    }
    assert len(ids) == 3
    written = ["latin", "greek", "cyrillic", "arrows", "relations", "letterlike"]
    assert identity(config(benchmark__order=written)) == identity(config())


def test_the_trained_towers_come_back_and_merge_under_plain_names(stored, call, tmp_path):
    learner = restore(stored)
    state, prompts = learner.merge()
    plain = load_tower(Backbone(name="glyphs-clip"))
    assert prompts is None
    assert state.keys() == plain.network.state_dict().keys()
    plain.network.load_state_dict(state)
    tokens = plain.tokens(["the letter a", "the sign arrow"])
    learner.model.set_update(learner.method.factors(), None)
    with torch.no_grad():
        want = learner.model.text_features(tokens)
        torch.testing.assert_close(plain.text_features(tokens), want, rtol=0, atol=1e-5)
    file = tmp_path / "merged.safetensors"
    code, *_ = call("runs", "merge", stored.id, file, "--runs-dir", stored.folder.root)
    assert code == 0
    assert load_file(file).keys() >= state.keys()
    learner.read_texts()
    assert learner.head.weight.norm(dim=1).min() > 1


def test_a_stored_run_is_read_as_its_own_configuration_says(stored, tmp_path):
    """Whoever lists runs asks for no configuration."""
    given = run(config(benchmark__task="given"), tmp_path)
    (read,) = load_runs(tmp_path)
    by_texts = read.result["by_texts"]
    assert read.config["benchmark"]["task"] == "given"
    assert by_texts["given"]["last"] != by_texts["unknown"]["last"]
    for name in ("transfer", "average", "last"):
        assert read.result[name] == given.result[name] == by_texts["given"][name]
    assert read.numbers["last"] == by_texts["given"]["last"]
    assert list(read.result["zero_shot"].values()) == by_texts["given"]["zero_shot"]
    read.read_as(config().model_dump(mode="json"))
    assert read.numbers["last"] == read.result["last"] == by_texts["unknown"]["last"]


def test_a_stream_that_is_not_looked_ahead_at_has_what_zero_shot_knows(tmp_path):
    own = configure("linear-probe", "glyphs", "smoke", QUICK | {"benchmark.tasks": 2})
    result = run(own, tmp_path).result
    assert result["last"] == result["by_texts"]["unknown"]["last"] is not None
    assert len(result["zero_shot"]) == 2


def test_of_one_tower_too_the_task_is_given_where_it_is_asked_for(tmp_path):
    asked = [config(backbone__name="glyphs-vit", benchmark__task=t) for t in ("given", "unknown")]
    given, unknown = (run(own, tmp_path) for own in asked)
    assert given.id == unknown.id
    within = np.array(given.result["within_task_matrix"], float)
    assert given.result["last"] == pytest.approx(within[-1].mean())
    assert unknown.result["last"] == pytest.approx(unknown.accuracy_matrix[-1].mean())
    assert given.result["last"] > unknown.result["last"]
