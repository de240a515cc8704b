"""Successive halving: a trial that others beat ends early, and no choice changes by it."""

import pytest

from fmlora_lab import configure, load_runs, run, tuning
from fmlora_lab.tuning import tune


@pytest.mark.train
def test_halving_drops_what_others_beat_and_loses_none_that_it_would_choose(tmp_path):
    given = {"benchmark.tasks": 4}
    how = {"given": given, "orders": 2, "halve": True}
    log = tune(tmp_path / "a.json", ["full"], "smoke", 6, tmp_path / "runs", **how)
    trials = log["methods"]["full"]["trials"]
    whole = [trial for trial in trials if "acc" in trial]
    dropped = [trial["dropped"] for trial in trials if "dropped" in trial]
    assert len(whole) + len(dropped) == 6 and dropped
    assert all(trial["tasks"] == 3 for trial in dropped)
    # What a dropped trial was dropped on is what its run, when it goes on, says of three tasks.
    place = next(i for i, trial in enumerate(trials) if "dropped" in trial)
    seen = []
    overrides = {"order_seed": 1000, "evaluate_on": "validation", **given}
    overrides |= trials[place]["settings"]
    config = configure("full", "glyphs", "smoke", overrides, preset="defaults")
    begun = len(load_runs(tmp_path / "runs"))
    run(config, tmp_path / "runs", watch=lambda curves: seen.append(curves["trained"]))
    assert [len(curve) for curve in seen] == [3, 4]  # it went on where it was dropped
    assert seen[0][2] == trials[place]["dropped"]["acc"]
    assert len(load_runs(tmp_path / "runs")) == begun + 1
    # Stored runs, shared out among processes, give the same log.
    both = ["full", "linear-probe"]
    again = tune(tmp_path / "b.json", both, "smoke", 6, tmp_path / "runs", **how, workers=2)
    assert again["methods"]["full"]["trials"][:place] == trials[:place]
    assert list(again["methods"]) == both


@pytest.mark.parametrize(("trained", "closed", "dropped"), [(1, 1, True), (1, 9, False)])
def test_a_trial_stays_while_either_choice_would_keep_it(monkeypatch, trained, closed, dropped):
    """Three trials that are as good as any by both, then one that is bad by one or by both."""

    def trial(acc, acc_closed_form):
        def tried(configs, runs_dir, watch):
            for t in range(1, 5):
                watch({"trained": [acc] * t, "lda": [acc_closed_form] * t, "means": [0.0] * t})
            return {"acc": acc, "acc_closed_form": acc_closed_form}

        monkeypatch.setattr(tuning, "_trial", tried)
        return halving.trial([configure("lora")], None)

    halving = tuning.Halving()
    for _ in range(3):
        trial(5.0, 5.0)
    assert ("dropped" in trial(trained, closed)) == dropped
