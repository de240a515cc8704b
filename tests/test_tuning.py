"""The tuning procedure: the same budget for all, validation images only, all of it logged."""

import json

import pytest

from fmlora_lab import grid, load_runs, tuning
from fmlora_lab.config import BadInput
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.profiles import configure, profiles, trials
from fmlora_lab.tuning import draw, tune

RIVALS = sorted(name for name, method in METHODS.items() if method.record.search)
SHORT = sorted(name for name, method in METHODS.items() if method.record.search_short)


def test_rivals_are_tuned_and_the_references_that_set_the_scale_are_not():
    learned = {"fm-lora", "lora", "inflora", "sd-lora", "full", "linear-probe"}
    prompted = {"l2p", "dualprompt", "coda-prompt", "hide-prompt"}
    assert learned | prompted <= set(RIVALS) & set(SHORT)
    assert not {"joint", "prototypes"} & {*RIVALS, *SHORT}


@pytest.mark.parametrize("method", RIVALS)
def test_every_method_gets_the_same_number_of_distinct_trials(method):
    trials = draw(method, 5)
    assert trials[0] == {} and len(trials) == 5
    assert len({json.dumps(t, sort_keys=True) for t in trials}) == 5
    assert trials == draw(method, 5)
    for settings in trials:
        configure(method, overrides=settings)


@pytest.mark.parametrize("method", SHORT)
def test_on_real_images_three_trials_are_all_values_of_one_rate(method):
    trials = draw(method, 3, "cifar100-tiny")
    ((setting, values),) = METHODS[method].record.search_short.items()
    configs = [
        configure(method, "folder", "cifar100-tiny", {"benchmark.data": "x", **t}, "defaults")
        for t in trials
    ]
    tried = []
    for config in configs:
        value = config.model_dump(by_alias=True)
        for part in setting.split("."):
            value = value[part]
        tried.append(value)
    assert sorted(tried) == sorted(values)


@pytest.mark.train
def test_choice_is_the_best_on_validation_images(tmp_path):
    log = tune(tmp_path / "log.json", ["linear-probe"], "smoke", 3, tmp_path / "runs")
    assert log == json.loads((tmp_path / "log.json").read_text())
    found = log["methods"]["linear-probe"]
    best = max(found["trials"], key=lambda trial: trial["acc"])
    assert len(found["trials"]) == 3 and found["chosen"] == best["settings"]
    best = max(found["trials"], key=lambda trial: trial["acc_closed_form"])
    assert found["chosen_closed_form"] == best["settings"]
    assert all(r.config["evaluate_on"] == "validation" for r in load_runs(tmp_path / "runs"))


@pytest.mark.train
def test_trials_take_what_a_run_takes_and_several_orders(tmp_path):
    given = {"benchmark.tasks": "B50-Inc25", "training.lr_head": 0.02, "benchmark.test_images": 1}
    out, runs = tmp_path / "log.json", tmp_path / "runs"
    log = tune(out, ["lora"], "smoke", 2, runs, given=given, orders=2)
    trials = log["methods"]["lora"]["trials"]
    assert not any("training.lr_head" in trial["settings"] for trial in trials)
    found = load_runs(runs)
    assert len(found) == 4 and {run.config["order_seed"] for run in found} == {1000, 1001}
    assert all(run.config["benchmark"]["tasks"] == [50, 25, 25] for run in found)
    accs = sorted(run.result["acc"] for run in found)
    assert sum(trial["acc"] for trial in trials) / 2 == pytest.approx(sum(accs) / 4)
    with pytest.raises(BadInput, match=r"log.json has trials of another orders; give a file"):
        tune(out, ["lora"], "smoke", 2, runs, given=given)
    out.write_text("[]")
    with pytest.raises(BadInput, match=r"log.json is no log of `fmlora-lab tune`"):
        tune(out, ["lora"], "smoke", 2, runs)


def test_presets_say_where_settings_come_from():
    chosen = trials("demo")["lora"]["chosen"]
    assert configure("lora", overrides=chosen, preset="defaults") == configure("lora")
    published = configure("inflora", preset="paper").method
    assert (published.layers, published.rank, published.lr) == (("attn.k", "attn.v"), 10, 5e-4)
    assert configure("inflora", preset="paper", overrides={"method.rank": 3}).method.rank == 3
    with pytest.raises(BadInput, match="preset is 'best'; allowed: fair, closed-form, paper"):
        configure("lora", preset="best")


def test_the_choice_by_closed_form_heads_is_a_preset_of_its_own():
    chosen = trials("demo-forty")["lora"]
    assert chosen["chosen"] != chosen["chosen_closed_form"]
    for preset, name in (("fair", "chosen"), ("closed-form", "chosen_closed_form")):
        asked = configure("lora", profile="demo-forty", preset=preset)
        assert asked == configure("lora", overrides=chosen[name], preset="defaults")
        (planned,) = grid("demo-forty", method="lora", preset=preset)
        assert planned.config == asked
    assert configure("joint", preset="closed-form") == configure("joint")  # has nothing to choose


def test_a_choice_that_was_not_made_is_not_replaced_by_another():
    refused = r"profile .demo. has no choice .* for lora.*; allowed: fair"
    with pytest.raises(BadInput, match=refused):
        configure("lora", preset="closed-form")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_published_settings_are_settings(method):
    assert configure(method, preset="paper").method.name == method


def test_unknown_method_is_named(tmp_path):
    for method in ("ewc", "joint"):  # which is no rival
        with pytest.raises(BadInput, match=f"'{method}'; allowed: block-lora, c-lora, coda"):
            tune(tmp_path / "log.json", ["prototypes", method], "smoke", 2, tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("setting", ["evaluate_on", "order_seed"])
def test_what_the_procedure_sets_cannot_be_given(setting, tmp_path):
    """With it, trials would be chosen on test images, or all be of one order."""
    given = {"evaluate_on": "test", "order_seed": 3}[setting]
    with pytest.raises(BadInput, match=f"{setting} is the procedure's own"):
        tune(tmp_path / "log.json", ["lora"], "smoke", 2, tmp_path, given={setting: given})
    assert not [*tmp_path.iterdir()]


ASKED = {"profile": "smoke", "benchmark": "glyphs", "orders": 1, "halve": False, "given": {}}


@pytest.mark.parametrize(
    ("log", "refused"),
    [
        ({"asked": {**ASKED, "of": 2}, "methods": {}}, "trials of another of; give"),
        ({"asked": ASKED, "methods": {"lora": 3}}, "is no log of"),
        (
            {"asked": ASKED, "methods": {"lora": {"trials": [{}] * 5}}},
            "trials is 4, and .*log.json has 5 of a method.*allowed: 5 or more",
        ),
    ],
)
def test_no_trial_of_a_log_is_lost(log, refused, tmp_path):
    out = tmp_path / "log.json"
    out.write_text(json.dumps(log))
    with pytest.raises(BadInput, match=refused):
        tune(out, ["linear-probe"], "smoke", 4, tmp_path / "runs")
    assert json.loads(out.read_text()) == log and not (tmp_path / "runs").exists()


def test_a_log_of_dictionaries_of_settings_is_of_the_same_given(tmp_path):
    """As they were written before a dictionary was its settings."""
    out = tmp_path / "log.json"
    asked = ASKED | {"given": {"method.drs": {"enabled": False}}}
    out.write_text(json.dumps({"asked": asked, "methods": {"fm-lora": {"trials": [{}] * 5}}}))
    with pytest.raises(BadInput, match="has 5 of a method"):
        tune(out, ["fm-lora"], "smoke", 4, tmp_path, given={"method.drs": {"enabled": False}})


def test_shipped_choices_are_those_of_their_logs():
    for profile in profiles():
        methods = trials(profile)
        assert set(methods) <= set(METHODS)
        most = max((len(found["trials"]) for found in methods.values()), default=0)
        for method, found in methods.items():
            # As many for all, or a method's whole space; where no head is trained it has no rate.
            heads = any("training.lr_head" in trial["settings"] for trial in found["trials"])
            given = {} if heads else {"training.lr_head": None}
            assert len(found["trials"]) == len(draw(method, most, profile, given))
            for name in found.keys() & tuning.CHOICES.keys():
                whole = [t for t in found["trials"] if tuning.CHOICES[name] in t]
                best = max(whole, key=lambda trial: trial[tuning.CHOICES[name]])
                assert found[name] == best["settings"]
            chosen = configure(method, profile=profile)
            assert configure(method, profile=profile, overrides=found["chosen"]) == chosen
