"""The command line as a user meets it: JSON that can be read, one line for what is wrong."""

import json
import subprocess
import sys

import pytest

from fmlora_lab import cli
from fmlora_lab.methods import METHODS

SMOKE = ("--profile", "smoke", "--method", "prototypes")


def test_run_prints_json_and_stores_the_run(call, tmp_path):
    code, out, _ = call("run", *SMOKE, "--runs-dir", tmp_path, "--json")
    result = json.loads(out)
    assert code == 0
    assert {
        "run_id",
        "acc",
        "aaa",
        "learning_accuracy",
        "forgetting",
        "accuracy_matrix",
        "seconds",
        "images_per_second",
        "trainable_parameters",
    } <= result.keys()
    assert (tmp_path / result["run_id"] / "result.json").exists()
    code, out, _ = call("runs", "list", "--runs-dir", tmp_path)
    assert code == 0 and result["run_id"] in out and "1 stored run" in out
    code, out, _ = call("runs", "show", result["run_id"][:6], "--runs-dir", tmp_path)
    assert json.loads(out)["result"]["acc"] == result["acc"]
    assert call("runs", "delete", result["run_id"], "--runs-dir", tmp_path)[0] == 0
    assert "0 stored runs" in call("runs", "list", "--runs-dir", tmp_path)[1]


def test_show_config_prints_what_would_run(call):
    _, out, _ = call("run", "--set", "method.bases.from=random", "--tasks", 20, "--show-config")
    config = json.loads(out)
    assert config["method"]["bases"]["from"] == "random" and config["benchmark"]["tasks"] == 20


def test_compare_prints_the_table_and_draws_it_again_without_training(call, tmp_path):
    words = ("compare", "prototypes", "--seeds", 1)
    made = ("--profile", "smoke", "--runs-dir", tmp_path / "runs", "--ship", tmp_path / "ship")
    code, out, _ = call(*words, *made, "--out", tmp_path / "out")
    assert code == 0 and "nearest class mean" in out and str(tmp_path / "out" / "table.csv") in out
    code, again, _ = call(*words, "--stored", tmp_path / "ship", "--out", tmp_path / "again")
    assert code == 0 and again.splitlines()[:2] == out.splitlines()[:2]
    code, _, said = call("compare", "--stored", tmp_path / "nowhere", "--out", tmp_path / "none")
    assert code == 2 and "no complete runs there" in said and not (tmp_path / "none").exists()


def test_shipping_leaves_out_what_came_with_the_lab(call, tmp_path, monkeypatch):
    from fmlora_lab.runs import store

    monkeypatch.setattr(store, "RESULTS", tmp_path / "results")
    runs, into = tmp_path / "runs", tmp_path / "results" / "mine"
    for seed in (0, 1):
        call("run", *SMOKE, "--seed", seed, "--runs-dir", runs)
        _, out, _ = call("runs", "ship", into, "--runs-dir", runs)
        assert out == f"1 runs in {into}\n"
    assert {run.id for run in store.runs(into)} == {run.id for run in store.runs(runs)}
    assert not list(into.rglob("checkpoint*"))


def test_merge_writes_a_timm_state_dict_and_prompts_beside(call, tmp_path):
    from safetensors.torch import load_file

    words = ("--profile", "smoke", "--set", "benchmark.train_images=2", "--tasks", 2)
    _, out, _ = call("run", *words, "--runs-dir", tmp_path, "--json")
    run_id = json.loads(out)["run_id"]
    code, out, _ = call("runs", "merge", run_id, tmp_path / "m.safetensors", "--runs-dir", tmp_path)
    assert code == 0 and "m.prompts.safetensors" in out
    assert load_file(tmp_path / "m.safetensors")["head.weight"].shape[0] == 100
    assert load_file(tmp_path / "m.prompts.safetensors")["prompts"].ndim == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--method", "ewc"), "method.name is 'ewc'; allowed: coda-prompt"),
        (("run", "--set", "method.rankk=3"), "method.rankk is not a setting"),
        (("run", "--set", "seed"), "KEY=VALUE"),
        (("run", "--tasks", "7", *SMOKE), "benchmark.tasks is 7, but 100 classes"),
        (("run", "--weights", "nowhere.safetensors"), "there is no file nowhere.safetensors"),
        (("run", "--backbone", "vit_of_dreams"), "backbone.name is 'vit_of_dreams'"),
        (("run", "--backbone", "resnet18", "--weights", "x"), "VisionTransformer"),
        (("run", "--benchmark", "folder", "--data", "nowhere"), "nowhere"),
        (("run", "--benchmark", "folder"), "benchmark.data must be given"),
        (("run", "--seed", "x"), "'--seed'"),
        (("run", "--no-such-option"), "--no-such-option"),
        (("runs", "show", "zzz"), "run 'zzz'"),
        (("render", "no_such_notebook"), "no_such_notebook"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(call, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*words)
    assert code == 2 and out == ""
    assert err.startswith("fmlora-lab: ") and err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "runs").exists()


def test_parameters_as_papermill_takes_them():
    given = ["render", "all", "-p", "profile", "smoke", "--parameter", "seeds", "[0, 1]"]
    expected = ["render", "all", "-p", "profile=smoke", "--parameter", "seeds=[0, 1]"]
    assert cli.join_parameters(given) == expected
    assert cli.join_parameters(["-p", "a=b", "all"]) == ["-p", "a=b", "all"]


def test_doctor_says_what_is_there(call, tmp_path):
    code, out, _ = call("doctor", "--runs-dir", tmp_path)
    assert code == 0
    for word in ("torch", "glyphs-vit: found", ", ".join(sorted(METHODS)), "0 complete in"):
        assert word in out


def test_module_and_help_without_torch():
    code = (
        "import sys; sys.argv=['fmlora-lab', '--help']\n"
        "from fmlora_lab.cli import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "bench" in done.stdout
