"""Runs on offer are told apart by what differs."""

import copy
from importlib import import_module

import pytest

from fmlora_lab.explorers import offer
from fmlora_lab.explorers.offer import offered, told_apart
from fmlora_lab.perf import stored
from fmlora_lab.perf.stored import EXPLORERS, many
from fmlora_lab.runs import index
from fmlora_lab.runs.archive import collections, prepared
from fmlora_lab.runs.folder import RunFolder
from fmlora_lab.runs.stored import Run, load_runs

pytestmark = pytest.mark.unit


def example(method: str) -> Run:
    return next(run for run in map(Run, prepared()) if run.method_name == method)


def changed(run: Run, **settings) -> Run:
    """The run with other settings, dots as two underscores."""
    other = copy.copy(run)
    other.config = copy.deepcopy(run.config)
    for name, value in settings.items():
        *path, last = name.split("__")
        part = other.config
        for key in path:
            part = part[key]
        part[last] = value
    return other


def test_methods_are_enough_where_they_differ():
    assert told_apart([example("lora"), example("inflora")]) == ["sequential LoRA", "InfLoRA"]


def test_of_stream_tasks_and_seed_what_differs_is_said():
    lora = example("lora")
    found = told_apart([lora, changed(lora, seed=1), changed(example("inflora"), seed=1)])
    assert found == ["sequential LoRA, seed 0", "sequential LoRA, seed 1", "InfLoRA, seed 1"]


def test_of_one_method_settings_that_differ_are_said():
    lora = example("lora")
    few = told_apart([lora, changed(lora, method__rank=64), example("inflora")])
    assert few == [f"sequential LoRA, rank {lora.config['method']['rank']}",
                   "sequential LoRA, rank 64", "InfLoRA"]  # fmt: skip
    many = changed(lora, method__rank=64, method__lr=7.0, training__epochs=9, order_seed=5)
    assert told_apart([lora, many])[1].endswith(", 2 more")


def test_examples_and_own_runs_stand_with_their_names(tmp_path):
    found = offered(tmp_path, lambda run: run.method_name == "lora")
    (label,) = found
    assert label == f"sequential LoRA · example {example('lora').id[:8]}"


def test_two_runs_whose_names_begin_alike_are_both_on_offer(tmp_path, monkeypatch):
    runs = [copy.copy(example("lora")) for _ in range(3)]
    for run, name in zip(runs, ("01234567" + 8 * "0", "01234567" + 8 * "1", 16 * "2"), strict=True):
        run.id, run.folder = name, RunFolder(tmp_path, name)
    monkeypatch.setattr(offer, "prepared", list)
    monkeypatch.setattr(offer, "load_runs", lambda folder: runs)
    found = offered(tmp_path, lambda run: True)
    assert [*found.values()] == runs
    assert [label.split("own ")[1] for label in found] == [runs[0].id, runs[1].id, 8 * "2"]


@pytest.fixture(scope="module")
def of_many(tmp_path_factory):
    """A folder with a run each of methods of one tower and of two, noted as if they were many."""
    folder = tmp_path_factory.mktemp("many")
    few = {name: collections()[name] for name in ("glyphs-10", "two-towers")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "collections", lambda: few)
        patch.setattr(index, "MANY", 1)
        many(folder, 69)
        load_runs(folder)
        yield folder


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_which_of_many_runs_suit_is_known_without_a_look_at_their_files(
    of_many, explorer, monkeypatch
):
    suits = import_module(f"fmlora_lab.explorers.{explorer}").suits
    alone = [suits(Run(RunFolder(of_many, run.id))) for run in load_runs(of_many)]
    runs = load_runs(of_many)
    for look in ("has", "_bytes", "_opened"):
        monkeypatch.setattr(RunFolder, look, refuse)
    assert [suits(run) for run in runs] == alone
    assert any(alone) and not all(alone)


def refuse(folder, name):
    raise AssertionError(f"{name} of {folder.run_id}")
