"""A configuration refuses what it does not know, and a run's name is what changes its result."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fmlora_lab import RunConfig, configure
from fmlora_lab.config import BadInput, MethodSettings
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.profiles import parse_assignment, profiles, set_dotted

pytestmark = pytest.mark.unit


def name(config: RunConfig) -> str:
    return config.run_id("data", "weights")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"method.rankk": 3}, "method.rankk is no setting of fm-lora; its settings: layers, "),
        ({"method.drs.fom": 3}, "method.drs.fom is no setting of method.drs; its settings: enab"),
        ({"method.bases.frm": 3}, "method.bases.frm is no setting .* settings: from, lr, init, "),
        ({"training.epoch": 3}, "training.epoch is no setting of training; its settings: epochs, "),
        ({"benchmark.data": "x"}, "benchmark.data is no setting of glyphs; its settings: tasks, "),
        ({"backbone.nam": 3}, "backbone.nam is no setting of backbone; its settings: name, weigh"),
        ({"heads.ridg": 3}, "heads.ridg is no setting of heads; its settings: random_features, "),
        ({"rank": 3}, "rank is no setting of a run; its settings: .*; it may be method.rank"),
        ({"epochs": 3}, "epochs is no setting of a run; .*; it may be .* training.epochs"),
        ({"training": 5}, "training is 5; it has settings, each given as training.NAME"),
        ({"training.epochs.x": 5}, "training.epochs.x is no setting: epochs has none of its own"),
        ({"method": 5}, "method.name is 5; allowed: block-lora, "),
        ({"method": ["lora"]}, r"method.name is \['lora'\]; allowed: block-lora, "),
        ({"method.layers": "attn.qkv"}, "method.layers is 'attn.qkv'; input should be a list"),
        ({"method.layers": []}, r"method.layers is \[\]; input should have at least one item"),
        ({"method.blocks": []}, r"method.blocks is \[\]; input should have at least one item"),
        ({"method.blocks": [1, 1]}, r"method.blocks is \[1, 1\]; allowed: each block once"),
        ({"backbone.weights": 5}, "backbone.weights is 5; input should be a path"),
        ({"heads.shrinkage": 2}, "heads.shrinkage is 2; input should be less than or equal to 1"),
        ({5: 3}, "overrides is {5: 3}; allowed: a dictionary from dotted names to values"),
        ("seed=3", "overrides is 'seed=3'; allowed: a dictionary from dotted names to values"),
        ({"method.basis_rank": 0}, "method.basis_rank is 0; input should be greater"),
        ({"method.drs.form": "best"}, "method.drs.form is 'best'; input should be 'calibrated'"),
        ({"method.drs.candidates": [4, 2]}, "method.drs.candidates is .*each larger"),
        ({"benchmark.tasks": 0}, "benchmark.tasks is 0; allowed: a number of tasks, B50-Inc10, or"),
        ({"training.epochs": "many"}, "training.epochs is 'many'"),
        ({"seed": -1}, "seed is -1"),
        ({"seeed": 1}, "seeed is no setting of a run; its settings: benchmark, backbone, "),
    ],
)
def test_wrong_values_are_named(overrides, said):
    with pytest.raises(BadInput, match=said) as refused:
        configure("fm-lora", overrides=overrides)
    assert "\n" not in str(refused.value)


def test_who_refuses_a_setting_of_another_method_says_what_it_has():
    with pytest.raises(BadInput) as refused:
        configure("full", overrides={"method.rank": 4})
    assert str(refused.value) == "method.rank is no setting of full; its settings: lr, keep"
    with pytest.raises(BadInput) as refused:
        configure("prototypes", overrides={"method.rank": 4})
    assert str(refused.value) == "method.rank is no setting of prototypes, which has none"


def test_settings_of_a_part_can_be_given_together_and_leave_the_others():
    apart = configure(overrides={"training.epochs": 3, "method.drs.tau": 2.0})
    assert configure(overrides={"training": {"epochs": 3}, "method.drs": {"tau": 2.0}}) == apart
    assert apart.training.batch_size == configure().training.batch_size


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ({"method": "ewc"}, ", ".join(sorted(METHODS))),
        (
            {"benchmark": "mnist"},
            "domains, folder, glyph-domains, glyph-scripts, glyphs, hub, mtil",
        ),
        ({"profile": "huge"}, "cifar100-tiny, demo, demo-forty, paper, smoke"),
        ({"method": ["lora"]}, "method is .*; allowed: one name"),
        ({"benchmark": ["glyphs"]}, "benchmark is .*; allowed: one name"),
        ({"profile": ["demo"]}, "profile is .*; allowed: one name"),
    ],
)
def test_unknown_names_list_what_is_allowed(arguments, allowed):
    with pytest.raises(BadInput, match=allowed) as refused:
        configure(**arguments)
    assert str(next(iter(arguments.values()))) in str(refused.value)


def test_folder_needs_data():
    with pytest.raises(BadInput, match=r"benchmark\.data must be given"):
        configure(benchmark="folder")


def test_configuration_is_frozen():
    with pytest.raises(ValidationError):
        configure().seed = 3


@pytest.mark.parametrize("method", sorted(METHODS))
def test_json_round_trip(method):
    config = configure(method, overrides={"seed": 5})
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_name_changes_with_the_result_and_with_nothing_else(tmp_path):
    base = RunConfig(method="fm-lora")
    assert name(base) == name(RunConfig(method={"name": "fm-lora", "basis_rank": 16}))
    assert name(base) != name(RunConfig(method={"name": "fm-lora", "basis_rank": 8}))
    assert name(base) != name(RunConfig(method="fm-lora", seed=1))
    assert name(base) != base.run_id("other data", "weights")
    assert name(base) != base.run_id("data", "other weights")
    here, there = (
        RunConfig(method="lora", benchmark={"name": "folder", "data": tmp_path / place})
        for place in ("here", "there")
    )
    assert name(here) == name(there)


def test_a_new_option_with_a_default_keeps_old_names():
    class Old(MethodSettings):
        name: str = "test-only"
        rank: int = 4

    old = RunConfig(method=Old(rank=8))

    class New(MethodSettings):
        name: str = "test-only"
        rank: int = 4
        extra: float = 0.5

    try:
        assert name(old) == name(RunConfig(method=New(rank=8)))
        assert name(old) != name(RunConfig(method=New(rank=8, extra=0.1)))
    finally:
        del MethodSettings.known["test-only"]


def test_profiles_are_data_and_all_valid():
    for profile in profiles():
        for method in METHODS:
            configure(method, profile=profile)
    paper = configure(profile="paper")
    assert paper.training.epochs == 30 and paper.training.batch_size == 128
    assert paper.backbone.name == "vit_base_patch16_224.augreg2_in21k_ft_in1k"


@given(st.dictionaries(st.sampled_from("abc"), st.integers(), min_size=1, max_size=3))
def test_dotted_overrides_set_what_they_name(leaves):
    config = {}
    for key, value in leaves.items():
        set_dotted(config, f"method.{key}", value)
    assert config == {"method": leaves}


def test_assignments_are_json_or_text():
    assert parse_assignment("method.lr=1e-3") == ("method.lr", 1e-3)
    assert parse_assignment('method.layers=["attn.q"]') == ("method.layers", ["attn.q"])
    assert parse_assignment("method.bases.from=weight-svd") == ("method.bases.from", "weight-svd")
    assert parse_assignment("drs=false") == ("drs", False)
    with pytest.raises(BadInput, match="KEY=VALUE"):
        parse_assignment("method.lr")


@pytest.mark.parametrize("method", ["lora", "dualprompt", "coda-prompt", "hide-prompt"])
def test_a_method_enters_some_block(method):
    with pytest.raises(BadInput, match=r"method.blocks is \[\]; input should have at least one"):
        configure(method, overrides={"method.blocks": []})
