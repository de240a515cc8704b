"""A grid states what it says, in its order; a sweep has it, and computes what is not there."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from fmlora_lab import grid, sweep
from fmlora_lab.config import BadInput
from fmlora_lab.profiles import configure, profiles
from fmlora_lab.runs import run as run_module
from fmlora_lab.runs.folder import FolderKeeper, RunFolder
from fmlora_lab.runs.stored import Run
from fmlora_lab.runs.sweep import scaled, tuned

# --- what a grid states ---------------------------------------------------------------------------


@pytest.mark.unit
def test_every_combination_once_the_last_axis_changing_fastest():
    found = grid("smoke", method=["lora", "full"], tasks=[5, 10], seed=range(2))
    expected = [
        {"method": method, "tasks": tasks, "seed": seed}
        for method in ("lora", "full")
        for tasks in (5, 10)
        for seed in (0, 1)
    ]
    assert [one.labels for one in found] == expected
    assert [list(one.labels) for one in found] == [["method", "tasks", "seed"]] * 8
    for one in found:
        assert one.config.method.name == one.labels["method"]
        assert one.config.benchmark.tasks == one.labels["tasks"]
        assert one.config.seed == one.labels["seed"]


@pytest.mark.unit
def test_method_stands_first_and_seed_last_wherever_they_are_given():
    found = grid("smoke", seed=[3, 4], tasks=[5, 10], method="lora")
    assert [list(one.labels.values()) for one in found] == [
        ["lora", 5, 3],
        ["lora", 10, 3],
        ["lora", 5, 4],
        ["lora", 10, 4],
    ]
    (plain,) = grid("smoke")
    assert plain.labels == {"method": "fm-lora", "seed": 0}
    assert plain.config == configure(profile="smoke")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("axis", "value", "where"),
    [
        ("tasks", 20, "benchmark.tasks"),
        ("train_images", 6, "benchmark.train_images"),
        ("head", "cosine", "training.head"),
        ("epochs", 2, "training.epochs"),
        ("order_seed", 7, "order_seed"),
        ("data_seed", 2, "data_seed"),
        ("measure_ahead", True, "measure_ahead"),
        ("method.basis_rank", 32, "method.basis_rank"),
        ("method.drs.form", "paper", "method.drs.form"),
        ("backbone.image_size", 64, "backbone.image_size"),
    ],
)
def test_an_axis_moves_the_setting_that_it_names(axis, value, where):
    (one,) = grid("smoke", **{axis: value})
    assert one.labels == {"method": "fm-lora", axis: value, "seed": 0}
    assert one.config == configure(profile="smoke", overrides={where: value})


@pytest.mark.unit
def test_variants_are_named_and_set_whatever_they_say():
    variants = {"plain": {}, "wide": {"method.basis_rank": 32, "training.epochs": 2}}
    found = grid("smoke", variant=variants, seed=range(2))
    assert [one.labels["variant"] for one in found] == ["plain", "plain", "wide", "wide"]
    assert found[0].config == configure(profile="smoke")
    assert found[3].config == configure(profile="smoke", overrides={**variants["wide"], "seed": 1})
    (short,) = grid("smoke", tasks={"short": 2})  # a value by another name
    assert short.labels["tasks"] == "short" and short.config.benchmark.tasks == 2


@pytest.mark.unit
def test_values_may_be_of_numpy_and_lists_have_labels():
    found = grid("smoke", seed=np.arange(2), **{"training.lr_head": np.array([0.5, 0.25])})
    assert [one.labels["seed"] for one in found] == [0, 0, 1, 1]
    assert all(type(value) in (str, int, float) for one in found for value in one.labels.values())
    layers = [["attn.qkv"], ["mlp.fc1", "mlp.fc2"]]
    several = grid("smoke", **{"method.layers": layers})
    assert [list(one.config.method.layers) for one in several] == layers
    assert len({one.labels["method.layers"] for one in several}) == 2


@pytest.mark.unit
def test_overrides_hold_for_all_and_axes_go_beyond_them():
    found = grid("smoke", tasks=[5, 10], overrides={"benchmark.tasks": 20, "training.epochs": 3})
    assert [one.config.benchmark.tasks for one in found] == [5, 10]
    assert {one.config.training.epochs for one in found} == {3}


@pytest.mark.unit
@pytest.mark.parametrize("profile", ["smoke", "demo"])
def test_streams_are_the_profiles(profile):
    names = [grid(profile, stream=s)[0].config.benchmark.name for s in ("classes", "domains")]
    assert names == ["glyphs", "glyph-domains"]
    (other,) = grid(profile, benchmark="glyph-domains")
    assert other.config.benchmark.name == "glyph-domains"


@pytest.mark.unit
@pytest.mark.parametrize("stream", profiles()["paper"]["streams"])
def test_the_paper_profile_asks_for_the_papers_backbone_and_benchmarks(stream):
    (one,) = grid("paper", stream=stream)
    assert one.config.backbone.name == profiles()["paper"]["backbone"]["name"]
    assert one.config.benchmark.name == "hub"


@pytest.mark.unit
def test_a_profile_of_local_images_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.delenv("FMLORA_DATA", raising=False)
    with pytest.raises(BadInput, match=r"\$FMLORA_DATA/cifar100/\{train,test\}"):
        grid("cifar100-tiny")
    (tmp_path / "cifar100" / "train").mkdir(parents=True)
    weights = tmp_path / f"{profiles()['cifar100-tiny']['backbone']['name']}.safetensors"
    weights.write_bytes(b"")
    monkeypatch.setenv("FMLORA_DATA", str(tmp_path))
    (one,) = grid("cifar100-tiny")
    assert one.config.benchmark.data == tmp_path / "cifar100"
    assert one.config.backbone.weights == weights


@pytest.mark.unit
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"profile": "huge"},
            "profile is 'huge'; allowed: cifar100-tiny, demo, demo-forty, paper, smoke",
        ),
        ({"stream": "videos"}, "profile 'demo' has no stream 'videos'; it has classes, domains"),
        ({"profile": ["smoke", "demo"]}, "profile is ['smoke', 'demo']; a grid is of one"),
        ({"stream": ["classes"]}, "stream is ['classes']; a grid is of one, but grids can be add"),
        ({"benchmark": "mnist"}, "benchmark.name is 'mnist'; allowed: domains, folder"),
        ({"benchmark": "mnist", "tasks": 5}, "benchmark.name is 'mnist'; allowed: domains, folder"),
        ({"method": "ewc"}, "method.name is 'ewc'; allowed: block-lora"),
        ({"method": ["lora", "ewc"]}, "method.name is 'ewc'; allowed: block-lora"),
        ({"tasks": "many"}, "benchmark.tasks is 'many'"),
        (
            {"head": "deep"},
            "training.head is 'deep'; allowed: cosine, lda, lda-carried, linear, means",
        ),
        ({"seed": -1}, "seed is -1"),
        ({"seed": []}, "the axis 'seed' has no values"),
        ({"method": ()}, "the axis 'method' has no values"),
        ({"variant": {}}, "the axis 'variant' has no values"),
        ({"method.rankk": [4]}, "method.rankk is no setting of fm-lora; its settings: "),
        ({"methd.rank": [4]}, "methd is no setting of a run; its settings: benchmark, backbone, "),
        ({"variant": {"odd": {"method.rankk": 4}}}, "method.rankk is no setting of fm-lora"),
        ({"variant": {"odd": {"rank": 4}}}, "rank is no setting of a run; its settings: "),
        ({"heads": [4]}, "a grid has no axis 'heads'"),
        ({"overrides": ["seed"]}, "overrides is ['seed']; allowed: a dictionary from dotted names"),
        ({"acc": {"a": {}}}, "'acc' is a number of every run; give the axis another name"),
        ({"run": {"a": {}}}, "'run' is a number of every run"),
        ({"acc_lda": {"a": {}}}, "'acc_lda' is a number of every run"),
        ({"variant": {"odd": {"seed": 4}}}, "a run of seed 4 would be labelled 0; give seed as an"),
        (
            {"overrides": {"method": "lora"}},
            "a run of method 'lora' would be labelled 'fm-lora'; give method as an axis",
        ),
    ],
)
def test_what_is_unknown_is_refused_in_one_sentence(asked, said):
    with pytest.raises(BadInput) as refused:
        grid(**asked)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.unit
@pytest.mark.parametrize("stream", ["classes", "domains"])
@pytest.mark.parametrize(("axis", "example"), [("rank", "rank"), ("nonsense", "lr")])
def test_an_unknown_axis_says_what_an_axis_can_be(axis, example, stream):
    with pytest.raises(BadInput) as refused:
        grid("smoke", stream=stream, **{axis: [4, 8]})
    said = str(refused.value)
    assert f"a grid has no axis '{axis}'" in said and f"{{'method.{example}': [...]}}" in said
    for known in ("method", "seed", "order_seed", "epochs", "train_images", "variants by name"):
        assert known in said
    assert (" tasks," in said) == (stream == "classes")  # a stream of domains has no such setting


@pytest.mark.unit
def test_grids_are_lists_to_add_up():
    found = grid("smoke", method="lora") + grid("smoke", method="full", seed=[1, 2])
    assert [(one.labels["method"], one.labels["seed"]) for one in found] == [
        ("lora", 0),
        ("full", 1),
        ("full", 2),
    ]


@pytest.mark.unit
def test_settings_are_scaled_from_what_was_tuned():
    rates = ("method.lr", "method.bases.lr")
    assert scaled("demo", "fm-lora", rates, 2) == {"method.lr": 0.008, "method.bases.lr": 0.0006}
    assert tuned("demo", "fm-lora", "method.basis_rank") == 16
    assert tuned("demo", "fm-lora", "method.bases.from") == "first-task"


# --- what a sweep has -----------------------------------------------------------------------------


@pytest.fixture
def few(small):
    """Two configurations that train in no time."""
    return [small("prototypes", **{"training.epochs": 1}), small("linear-probe")]


@pytest.mark.train
def test_a_row_is_labels_numbers_and_the_run_and_what_is_done_is_kept(few, tmp_path, monkeypatch):
    first = sweep(few, tmp_path)
    assert list(first.columns[:2]) == ["method", "seed"]
    assert list(first.method) == ["prototypes", "linear-probe"]
    assert [found.method_name for found in first.run] == ["prototypes", "linear-probe"]
    assert list(first.acc) == [found.result["acc"] for found in first.run]
    monkeypatch.setattr(run_module, "Trainer", None)
    again = sweep(few[::-1], tmp_path)
    assert [found.id for found in again.run] == [found.id for found in first.run[::-1]]
    pd.testing.assert_frame_equal(
        again.drop(columns="run"), first[::-1].drop(columns="run").reset_index(drop=True)
    )


@pytest.mark.train
def test_a_grids_labels_stand_beside_the_numbers(tmp_path):
    asked = grid("smoke", method="prototypes", tasks=[5, 10], variant={"as it is": {}})
    found = sweep(asked, tmp_path)
    assert list(found.columns[:4]) == ["method", "tasks", "variant", "seed"]
    assert [own.config["benchmark"]["tasks"] for own in found.run] == [5, 10]
    assert [own.accuracy_matrix.shape for own in found.run] == [(5, 5), (10, 10)]
    assert set(found.variant) == {"as it is"}


@pytest.mark.train
def test_one_more_variant_and_seed_compute_only_what_is_new(tmp_path, monkeypatch):
    def asked(seeds, **variants):
        known = {"plain": {}, **variants}
        return grid("smoke", method="prototypes", variant=known, seed=range(seeds))

    sweep(asked(1), tmp_path)
    trained = []

    class Counted(run_module.Trainer):
        def run(self):
            trained.append((self.config.seed, self.config.benchmark.train_images))
            return super().run()

    monkeypatch.setattr(run_module, "Trainer", Counted)
    found = sweep(asked(2, fewer={"benchmark.train_images": 2}), tmp_path)
    assert trained == [(1, 4), (0, 2), (1, 2)]
    assert list(found.variant) == ["plain", "plain", "fewer", "fewer"]


@pytest.fixture
def one_thread():
    """As many as a worker has: sums in another order differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.train
@pytest.mark.process
def test_worker_processes_give_the_same(few, tmp_path, one_thread):
    here, there = sweep(few, tmp_path / "here"), sweep(few, tmp_path / "there", workers=2)
    assert list(here.columns) == list(there.columns)
    measured = [c for c in here if not c.startswith("seconds") and c != "run"]
    pd.testing.assert_frame_equal(here[measured], there[measured])
    for a, b in zip(here.run, there.run, strict=True):
        assert a.id == b.id and a.result["heads"] == b.result["heads"]
        left, right = (r.folder.read_arrays("checkpoint.safetensors")[0] for r in (a, b))
        assert left.keys() == right.keys()
        assert all(left[name].tobytes() == right[name].tobytes() for name in left)


@pytest.mark.train
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_sweep_that_was_ended_goes_on_in_the_same_process(few, tmp_path, monkeypatch, error):
    class Failing(FolderKeeper):
        def log(self, line):
            super().log(line)
            raise error("at the end of an epoch")

    with monkeypatch.context() as patch, pytest.raises(error) as kept:  # its frames stay alive
        patch.setattr(run_module, "FolderKeeper", Failing)
        sweep(few, tmp_path)
    (done,) = tmp_path.glob("*/result.json")  # class means log no epochs
    assert kept.tb is not None
    for path in tmp_path.glob("*/config.json"):
        with RunFolder(tmp_path, path.parent.name).lock().acquire(timeout=0):
            pass
    found = sweep(few, tmp_path)
    assert done.parent.name == found.run[0].id
    assert [own.result["task_files"] for own in found.run] == [2, 2]


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path

from fmlora_lab import grid, sweep

root = Path(sys.argv[1])

def when_one_is_being_trained():
    while not list(root.glob("*/progress.jsonl")):
        time.sleep(0.05)  # leaves the processor to the workers
    {interrupt}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=when_one_is_being_trained, daemon=True).start()
    sweep(grid("smoke", method="lora", seed=range(6), overrides={{"training.epochs": 9}}), root,
          workers=2)
"""


@pytest.mark.process
@pytest.mark.parametrize("to", ["os.killpg(os.getpgrp(), ", "os.kill(os.getpid(), "])
def test_an_interrupt_ends_the_workers_too(to, tmp_path):
    """To the whole group, as from a terminal, or to the process alone, as from some editors: none
    of the other runs is computed, and the script ends with a sentence."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED.format(interrupt=f"{to}signal.SIGINT)"))
    done = subprocess.run(
        [sys.executable, script, tmp_path / "runs"],
        capture_output=True,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert done.stderr.endswith("\nstopped after 0 of 6 runs; run again to go on\n")
    assert not list((tmp_path / "runs").glob("*/result.json"))


@pytest.mark.unit
def test_a_sweep_of_nothing_is_refused(few, tmp_path):
    with pytest.raises(BadInput, match="its grid is empty"):
        sweep([], tmp_path)
    for workers in (0, "2"):
        with pytest.raises(BadInput, match=f"workers is {workers!r}; allowed: a whole"):
            sweep(few, tmp_path, workers=workers)
    for wrong, kind in (("demo", "str"), (few[0], "RunConfig"), (5, "int"), (["l"], "str")):
        with pytest.raises(BadInput, match=f"or a list of configurations; this is a {kind}"):
            sweep(wrong, tmp_path)
    for on in ("moon", 3):
        with pytest.raises(BadInput, match=f"on is {on!r}; allowed: here, processes"):
            sweep(few, tmp_path, on=on)
    for retry in (-1, "2"):
        with pytest.raises(BadInput, match=f"retry is {retry!r}; allowed: a whole number from 0"):
            sweep(few, tmp_path, retry=retry)
    with pytest.raises(BadInput, match="workers is 2; they are for on='processes'"):
        sweep(few, tmp_path, on="here", workers=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.train
def test_runs_that_came_with_the_lab_are_taken_unless_all_is_to_be_fresh(
    few, tmp_path, monkeypatch
):
    from fmlora_lab.runs import archive

    made = sweep(few[:1], tmp_path / "made")
    archive.ship(made.run, tmp_path / "results" / "few.zip", {})
    monkeypatch.setattr(archive, "RESULTS", tmp_path / "results")
    (found,) = sweep(few[:1], tmp_path / "runs").run
    assert found.shipped and not (tmp_path / "runs").exists()
    assert found.result == made.run[0].result
    monkeypatch.setenv("FMLORA_FRESH", "1")
    (fresh,) = sweep(few[:1], tmp_path / "runs").run
    assert not fresh.shipped and isinstance(fresh, Run) and fresh.id == found.id
    assert json.dumps(fresh.result["heads"]) == json.dumps(found.result["heads"])
