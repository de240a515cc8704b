"""What cannot be meant, or would be dropped without a word, is refused in one sentence."""

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from threading import Event

import pytest

from fmlora_lab import grid, tuning
from fmlora_lab.cli.options import tell_slurm, tell_untuned
from fmlora_lab.config import BadInput, MethodSettings
from fmlora_lab.files import write_atomically
from fmlora_lab.methods.low_rank.lora import LoRASettings
from fmlora_lab.methods.registry import METHODS, register
from fmlora_lab.profiles import profiles
from fmlora_lab.runs.archive import ship
from fmlora_lab.runs.claim import Claim, Lost
from fmlora_lab.runs.pool import Pool
from fmlora_lab.runs.sweep import launcher, load_frame, read_grid
from fmlora_lab.training.loop import Diverged
from fmlora_lab.tuning import tune

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--tasks", 7, "--set", "benchmark.tasks=3"), "benchmark.tasks is given twice"),
        (("run", "--seed", 1, "--set", "seed=0"), "seed is given twice"),
        (("run", "--method", "lora", "--set", "method=full"), "method is 'lora', and --set makes"),
        (("run", "--set", "training.lr_head=1e999"), "training.lr_head is inf"),
        (("render", "all_methods", "-p", "orders"), "-p 'orders' has no value"),
        (("render", "all_methods", "-p", "profile", "--quiet"), "-p 'profile' has no value"),
        (("render", "all_methods", "--slurm", "time=1"), "--slurm is 'time=1'; it is for --on"),
        (("compare", "--set", "order_seed=7"), "order_seed is what compare goes over"),
        (("compare", "--set", "method=lora"), "method is what compare goes over"),
        (("compare", "joint"), "joint sees all tasks at once"),
        (("compare", "--stored", "glyphs-10", "--orders", 1), "so --orders is not for it"),
        (("compare", "--stored", "glyphs-10", "--preset", "paper"), "so --preset is not for it"),
        (("compare", "--stored", "glyphs-10", "--tasks", 7), "so benchmark.tasks is not for it"),
        (("compare", "lora", "nosuch", "--stored", "glyphs-10"), "has no runs of 'nosuch'; it has"),
        (("tune", "log.json", "--set", "method=lora"), "method is the procedure's own here"),
        (
            ("tune", "log.json", "--orders", 2, "--set", "benchmark.order=natural"),
            "orders is 2, and benchmark.order is 'natural', which is one; allowed: 1",
        ),
        (
            ("run", "--tasks", 5, "--set", 'benchmark={"tasks": 3}'),
            "benchmark.tasks is given twice",
        ),
        (
            ("run", "--set", 'method.drs={"enabled": false}', "--set", "method.drs.enabled=true"),
            "method.drs.enabled is given twice",
        ),
        (("run", "--set", "folder=/x"), "folder is no setting of a run"),
        (("run", "--set", "trainig={}"), "trainig is no setting of a run"),
        (("run", "--set", "training.epochs={}"), "training.epochs is {}"),
        (("ship", ""), "NAME is ''"),
        (("ship", "mine.zip"), "NAME is 'mine.zip'"),
        (("ship", "../mine"), "NAME is '../mine'"),
        (("ship", "mine", "--into", "."), "there are no complete runs"),
    ],
)
def test_the_command_line_says_what_contradicts(call, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*words)
    assert code == 2 and said in err and "Traceback" not in err and out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--on", "here", "--workers", 2), "--workers is 2; it is for --on processes"),
        (("--on", "slurm", "--cores", 4), "--cores is 4; it is for --on processes"),
        (("--on", "here", "--slurm", "partition=gpu"), "--slurm is 'partition=gpu'"),
        (("--on", "here", "--retry", 2), "retry is 2; it is for on='processes'"),
    ],
)
def test_a_sweep_refuses_options_of_another_place(call, tmp_path, words, said):
    file = tmp_path / "grid.json"
    file.write_text(json.dumps([{"profile": "smoke", "method": "prototypes"}]))
    code, out, err = call("sweep", file, *words, "--runs-dir", tmp_path / "runs")
    assert code == 2 and said in err and out == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("option", "where"), [("--workers", "slurm"), ("--workers", "here"), ("--cores", "slurm")]
)
def test_what_the_environment_says_is_not_passed_over(call, tmp_path, monkeypatch, option, where):
    monkeypatch.setenv("FMLORA_ON", where)
    words = ("--slurm", "mem=2G") if where == "slurm" else ()
    file = tmp_path / "grid.json"
    file.write_text(json.dumps([{"profile": "smoke", "method": "prototypes"}]))
    code, out, err = call("sweep", file, option, 2, *words, "--runs-dir", tmp_path / "runs")
    assert code == 2 and f"{option} is 2; it is for --on processes" in err and out == ""
    with pytest.raises(BadInput, match=r"workers is 2; they are for .*, and \$FMLORA_ON says"):
        launcher(None, 2)


def test_a_run_that_another_process_took_over_is_told_in_one_sentence(call, monkeypatch):
    def lose(*_, **__):
        raise Lost("claim was taken over by another process, which goes on with the run")

    monkeypatch.setattr("fmlora_lab.runs.run.run", lose)
    code, out, err = call("run", "--profile", "smoke")
    assert (code, out) == (2, "") and err.startswith("fmlora-lab: claim was taken over by")


def test_defaults_beside_tuned_settings_are_named(monkeypatch, capsys):
    monkeypatch.delitem(profiles()["demo"]["tuned"], "loda")
    for asked in (("demo", "closed-form"), ("demo", "defaults"), ("smoke", "fair")):
        tell_untuned(asked[0], ["loda", "lora", "prototypes"], asked[1])
    assert not capsys.readouterr().err
    tell_untuned("demo", ["lora", "loda", "prototypes", "joint"], None)
    said = capsys.readouterr().err
    assert said == "loda has its defaults: not tuned under profile 'demo'\n"


def test_options_of_slurm_go_beyond_those_of_the_environment(monkeypatch):
    monkeypatch.setenv("FMLORA_SLURM", '{"partition": "gpu", "time": 5}')
    tell_slurm(["time=9", "mem=2G"], "slurm")
    asked = {"partition": "gpu", "time": 9, "mem": "2G"}
    assert json.loads(os.environ["FMLORA_SLURM"]) == asked


@pytest.mark.parametrize("text", ["partition=gpu", "[1]"])
def test_options_of_slurm_that_are_no_object_are_named(monkeypatch, text):
    monkeypatch.setenv("FMLORA_SLURM", text)
    with pytest.raises(BadInput, match=r"FMLORA_SLURM is .*; allowed: a JSON object"):
        launcher("slurm")


def test_a_file_nested_beyond_reading_is_named(tmp_path):
    file = tmp_path / "grid.json"
    file.write_text("[" * 100_000)
    with pytest.raises(BadInput, match=r"grid\.json cannot be read"):
        read_grid(file)


def test_two_axes_of_one_setting_are_refused():
    variants = {"fifth": {"order_seed": 5}}
    with pytest.raises(BadInput, match="two axes of the grid give order_seed, 'variant' among"):
        grid("smoke", method="lora", order_seed=[0], variant=variants)


def test_a_name_that_is_taken_by_another_module_is_refused():
    before = MethodSettings.known["lora"], METHODS["lora"]
    with pytest.raises(BadInput, match=r"low_rank\.lora has a method 'lora' already; give the one"):
        type("Mine", (LoRASettings,), {"__module__": "mine", "__qualname__": "Mine"})
    assert (MethodSettings.known["lora"], METHODS["lora"]) == before


def test_a_record_that_tables_cannot_place_is_refused():
    settings = type("Mine", (LoRASettings,), {"__module__": LoRASettings.__module__})
    with pytest.raises(BadInput, match="since of 'lora' is 'June 2021'; allowed: a year and a"):
        register(settings, title="mine", family="others", what="a toy", since="June 2021")
    with pytest.raises(BadInput, match="MethodSettings has no name; allowed"):
        register(MethodSettings, title="mine", family="others", what="a toy")


def test_a_log_may_be_a_bare_name_in_the_work_in_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = dict.fromkeys(("acc", "learning_accuracy", "forgetting", "seconds"), 1.0)
    monkeypatch.setattr(
        tuning, "_trial", lambda *_: {**scores, "closed_form": "ridge", "acc_closed_form": 1.0}
    )
    tune(Path("log.json"), ["lora"], "smoke", 1, None)
    assert [path.name for path in tmp_path.iterdir()] == ["log.json"]


def test_a_log_that_another_process_writes_is_not_written(tmp_path):
    log = tmp_path / "log.json"
    with (
        Claim(tmp_path / "log.json.claim").acquire(),
        pytest.raises(BadInput, match=r"another process is tuning into .*log\.json; give a file"),
    ):
        tune(log, ["linear-probe"], "smoke", 1, tmp_path / "runs")
    assert not log.exists()


def test_a_process_of_a_tuning_that_dies_is_told_in_one_sentence(tmp_path, monkeypatch):
    class Died(Pool):
        def submit(self, *_, **__):
            raise BrokenProcessPool

    monkeypatch.setattr(tuning, "Pool", Died)
    with pytest.raises(BadInput, match=r"a process of the tuning died, .* its runs are stored"):
        tune(tmp_path / "log.json", ["lora", "full"], "smoke", 1, tmp_path / "runs", workers=2)


def test_what_a_tuning_ended_with_is_in_its_log_though_another_method_fails(tmp_path, monkeypatch):
    """Whichever comes first, and in the order in which they were asked for."""
    written, log = Event(), tmp_path / "log.json"

    def tried(how, method):
        if method == "lora":
            written.wait(60)
            raise BadInput("a run of it is damaged")
        return [{"settings": {}, "acc": 1.0, "acc_closed_form": 1.0}]

    def write(*given):
        write_atomically(*given)
        written.set()

    monkeypatch.setattr(tuning, "_tried", tried)
    monkeypatch.setattr(tuning, "write_atomically", write)
    monkeypatch.setattr(tuning, "Pool", lambda workers, modules: ThreadPoolExecutor(workers))
    with pytest.raises(BadInput, match="a run of it is damaged"):
        tune(log, ["lora", "full"], "smoke", 1, tmp_path / "runs", workers=2)
    assert [*json.loads(log.read_text())["methods"]] == ["full"]


def test_trials_that_diverged_are_not_chosen(tmp_path, monkeypatch):
    def diverge(configs, *_):
        if configs[0].method.rank != 8:
            raise Diverged("the loss is nan")
        scores = dict.fromkeys(("acc", "learning_accuracy", "forgetting", "seconds"), 1.0)
        return {**scores, "closed_form": "ridge", "acc_closed_form": 1.0}

    monkeypatch.setattr(tuning, "_trial", diverge)
    log = tune(tmp_path / "log.json", ["lora"], "demo", 8, None)["methods"]["lora"]
    told = {t["settings"].get("method.rank", 8): t.get("diverged") for t in log["trials"]}
    assert told.pop(8) is None and set(told.values()) == {"the loss is nan"}
    assert log["chosen"].get("method.rank", 8) == 8
    monkeypatch.setattr(tuning, "_trial", lambda *_: (_ for _ in ()).throw(Diverged("it is nan")))
    with pytest.raises(BadInput, match="no trial of full came to its end: it is nan"):
        tune(tmp_path / "log.json", ["full"], "demo", 8, None)


def test_a_collection_does_not_take_the_place_of_a_users_table(tmp_path):
    (tmp_path / "table.csv").write_text("a,b")
    runs = load_frame("glyphs-10", ["prototypes"]).run
    with pytest.raises(BadInput, match=r"table\.csv is there, and is not of a collection"):
        ship(runs, tmp_path / "table.zip", {})
    assert (tmp_path / "table.csv").read_text() == "a,b"


def test_two_axes_that_give_one_setting_are_refused_however_it_is_written():
    axes = {
        "variant": {"off": {"method.drs": {"enabled": False}}},
        "method.drs.enabled": [True, False],
    }
    with pytest.raises(BadInput, match=r"two axes of the grid give method\.drs\.enabled"):
        grid("smoke", **axes)


def test_what_a_dictionary_gives_a_tuning_is_not_searched(tmp_path, monkeypatch):
    asked = {}

    def tried(how, method):
        asked["given"] = how[2]
        return [{"settings": {}, "acc": 1.0, "acc_closed_form": 1.0}]

    monkeypatch.setattr(tuning, "_tried", tried)
    given = {"method.bases": {"lr": 0.001}}
    log = tune(tmp_path / "log.json", ["fm-lora"], "smoke", 2, None, given=given)
    assert asked["given"] == log["asked"]["given"] == {"method.bases.lr": 0.001}
    every = tuning.draw("fm-lora", 99, "demo", asked["given"])
    assert not any("method.bases.lr" in settings for settings in every)


@pytest.mark.parametrize("size", ["", "two", "-1"])
def test_a_world_of_no_size_is_told(call, monkeypatch, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    code, out, err = call("run", "--profile", "smoke")
    assert (code, out) == (2, "") and f"$WORLD_SIZE is {size!r}" in err


def test_a_world_that_torchrun_did_not_begin_is_told(call, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = call("run", "--profile", "smoke")
    assert (code, out) == (2, "") and "$WORLD_SIZE is 2, but torchrun's RANK" in err


def test_a_question_that_nobody_answers_is_told(call, monkeypatch, tmp_path):
    monkeypatch.setenv("FMLORA_CACHE", str(tmp_path))
    monkeypatch.setattr("fmlora_lab.benchmarks.hub.free_gigabytes", lambda: 1000.0)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = call("data", "get", "cifar100")
    assert code == 2 and "nobody said yes; --yes downloads without a question" in err
