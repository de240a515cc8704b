"""Runs on offer are told apart by what differs."""

import copy

import pytest

from fmlora_lab.explorers.offer import offered, told_apart
from fmlora_lab.runs.archive import prepared
from fmlora_lab.runs.stored import Run

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
