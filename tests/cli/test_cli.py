"""The command line as a user meets it: JSON that can be read, one line for what is wrong."""

import json
import re
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from fmlora_lab import load_runs
from fmlora_lab.cli.main import join_parameters
from fmlora_lab.methods.registry import METHODS, in_order
from fmlora_lab.runs import archive

SMOKE = ("--profile", "smoke", "--method", "prototypes")


@pytest.mark.train
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


@pytest.mark.unit
def test_show_config_prints_what_would_run(call):
    _, out, _ = call("run", "--set", "method.bases.from=random", "--tasks", 20, "--show-config")
    config = json.loads(out)
    assert config["method"]["bases"]["from"] == "random" and config["benchmark"]["tasks"] == 20


@pytest.mark.unit
def test_methods_are_listed_with_what_they_are(call):
    code, out, _ = call("methods")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == in_order()
    for line in out.splitlines():
        record = METHODS[line.split()[0]].record
        assert f"{record.title}: {record.what}" in line and record.family in line
    code, out, _ = call("methods", "--json")
    found = {record["name"]: record for record in json.loads(out)}
    assert set(found) == set(METHODS)
    assert found["lora"]["family"] == METHODS["lora"].record.family


@pytest.mark.train
def test_shipping_leaves_out_what_came_with_the_lab(call, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "RESULTS", tmp_path / "results")
    runs, made = tmp_path / "runs", tmp_path / "results" / "mine.zip"
    for seed in (0, 1):
        call("run", *SMOKE, "--seed", seed, "--runs-dir", runs)
        _, out, _ = call("ship", "mine", "--runs-dir", runs)
        assert out == f"1 runs more in {made}, a row each in mine.csv\n"
    assert {r.id for r in load_runs(made)} == {r.id for r in load_runs(runs)}
    assert len(pd.read_csv(made.with_suffix(".csv"))) == 2
    _, out, _ = call("ship", "mine", "--runs-dir", runs)
    assert out.startswith("0 runs more")


@pytest.mark.train
def test_listed_runs_say_in_what_they_differ(call, tmp_path):
    given = [("--set", "benchmark.train_images=2"), ("--set", "benchmark.train_images=3")]
    for more in given:
        call("run", *SMOKE, *more, "--runs-dir", tmp_path)
    _, out, _ = call("runs", "list", "--runs-dir", tmp_path)
    *lines, last = out.splitlines()
    assert last == "2 stored runs"
    told = sorted(line.split("  ")[1].split(":")[0] for line in lines)
    assert told == [f"prototypes {more[1]}" for more in given]


@pytest.mark.train
def test_some_runs_are_shipped_into_a_folder_of_ones_own(call, tmp_path):
    runs = tmp_path / "runs"
    for seed in (0, 1):
        call("run", *SMOKE, "--seed", seed, "--runs-dir", runs)
    (one, _) = load_runs(runs)
    code, _, _ = call("ship", "one", one.id[:7], "--into", tmp_path / "own", "--runs-dir", runs)
    assert code == 0 and [r.id for r in load_runs(tmp_path / "own" / "one.zip")] == [one.id]
    code, _, err = call("ship", "one", "zzz", "--into", tmp_path / "own", "--runs-dir", runs)
    assert code == 2 and "run 'zzz'" in err


@pytest.mark.train
def test_an_archive_is_listed_and_shown_like_a_folder(call, tmp_path):
    runs, made = tmp_path / "runs", tmp_path / "few.zip"
    call("run", *SMOKE, "--runs-dir", runs)
    call("ship", "few", "--into", tmp_path, "--runs-dir", runs)
    for as_json in ((), ("--json",)):
        listed = [call("runs", "list", "--runs-dir", where, *as_json) for where in (runs, made)]
        assert listed[0] == listed[1] and listed[0][0] == 0
    (stored,) = load_runs(runs)
    code, out, _ = call("runs", "show", stored.id[:6], "--runs-dir", made)
    assert code == 0 and json.loads(out)["result"] == stored.result
    code, _, err = call("runs", "delete", stored.id, "--runs-dir", made)
    assert code == 2 and "few.zip is an archive, in which no run is written or deleted" in err
    code, _, err = call("runs", "merge", stored.id, tmp_path / "m", "--runs-dir", made)
    assert code == 2 and "shipped without its trained factors" in err
    code, _, err = call("runs", "list", "--runs-dir", tmp_path / "none.zip")
    assert code == 2 and "there is no archive" in err


@pytest.mark.train
def test_a_run_is_taken_from_an_archive_and_none_is_written_into_it(call, tmp_path):
    made = tmp_path / "few.zip"
    _, first, _ = call("run", *SMOKE, "--runs-dir", tmp_path / "runs", "--json")
    call("ship", "few", "--into", tmp_path, "--runs-dir", tmp_path / "runs")
    code, again, _ = call("run", *SMOKE, "--runs-dir", made, "--json")
    assert code == 0 and json.loads(again) == json.loads(first)
    before = made.read_bytes()
    code, _, err = call("run", *SMOKE, "--seed", 1, "--runs-dir", made)
    assert code == 2 and "is an archive, in which no run is written" in err
    assert made.read_bytes() == before


COMPARED = """
import pathlib

from fmlora_lab import grid, load_runs, sweep
from fmlora_lab.analysis.tables import compared, readable
from fmlora_lab.runs.frame import frame

if stored:
    found = frame([({"method": r.method_name, "seed": r.config["seed"]}, r)
                   for r in load_runs(stored)])
else:
    found = sweep(grid(profile, method=methods, order_seed=range(orders), overrides=overrides,
                       preset=preset), runs_dir)
folder = pathlib.Path(figures_dir)
folder.mkdir(parents=True, exist_ok=True)
readable(compared(found)).to_csv(folder / f"{folder.name}.csv")
"""


@pytest.fixture
def comparison(tmp_path):
    """A folder with a small notebook in the place of the lab's comparison of all methods."""
    parameters = new_code_cell(
        "profile = 'demo'\nmethods = ['prototypes']\nbenchmark = None\norders = 5\n"
        "preset = 'fair'\noverrides = {}\nstored = None\nruns_dir = None\nfigures_dir = '.'"
    )
    parameters.metadata["tags"] = ["parameters"]
    notebook = new_notebook(cells=[parameters, new_code_cell(COMPARED)])
    folder = tmp_path / "notebooks"
    folder.mkdir()
    nbformat.write(notebook, folder / "30_all_methods.ipynb")
    return folder


@pytest.mark.train
@pytest.mark.process
def test_compare_is_a_notebooks_command_line(call, comparison, tmp_path):
    words = ("compare", "prototypes", "--profile", "smoke", "--notebooks-dir", comparison)
    own = ("--orders", 2, "--tasks", 10, "--runs-dir", tmp_path / "runs")
    code, out, err = call(*words, *own, "--figures-dir", tmp_path / "out")
    assert code == 0 and "nearest class mean" in out
    assert str(tmp_path / "out" / "all_methods" / "all_methods.csv") in out
    assert re.search(r"all_methods +0 +2 +about", err)  # what it will need is said before
    made = load_runs(tmp_path / "runs")
    assert sorted(r.config["order_seed"] for r in made) == [0, 1]
    assert {r.config["benchmark"]["tasks"] for r in made} == {10}

    stored = ("--stored", tmp_path / "runs", "--figures-dir", tmp_path / "again")
    code, again, _ = call(*words, *stored)
    assert code == 0 and again.splitlines()[:2] == out.splitlines()[:2]


@pytest.mark.process
def test_compare_refuses_what_is_unknown_before_anything_is_executed(call, comparison, tmp_path):
    words = ("--notebooks-dir", comparison, "--figures-dir", tmp_path / "out")
    code, _, err = call("compare", "--set", "training.epochs", *words)
    assert code == 2 and "KEY=VALUE" in err
    code, _, err = call("compare", "--stored", tmp_path / "none.zip", *words)
    assert code == 2 and "there is no archive" in err
    code, _, err = call("compare", "--preset", "best", *words)
    assert code == 2 and "preset is 'best'; allowed: fair, closed-form" in err
    code, _, err = call("compare", "lora", "--preset", "closed-form", *words)
    assert code == 2 and "profile 'demo' has no choice by the closed-form heads for lora" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.train
def test_merge_writes_a_timm_state_dict_and_prompts_beside(call, tmp_path):
    from safetensors.torch import load_file

    words = ("--profile", "smoke", "--set", "benchmark.train_images=2", "--tasks", 2)
    _, out, _ = call("run", *words, "--runs-dir", tmp_path, "--json")
    run_id = json.loads(out)["run_id"]
    code, out, _ = call("runs", "merge", run_id, tmp_path / "m.safetensors", "--runs-dir", tmp_path)
    assert code == 0 and "m.prompts.safetensors" in out
    assert load_file(tmp_path / "m.safetensors")["head.weight"].shape[0] == 100
    assert load_file(tmp_path / "m.prompts.safetensors")["prompts"].ndim == 2


@pytest.mark.unit
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--method", "ewc"), "method.name is 'ewc'; allowed: block-lora"),
        (
            ("run", "--set", "method.rankk=3"),
            "method.rankk is no setting of fm-lora; its",
        ),
        (
            ("run", "--method", "full", "--set", "method.rank=3"),
            "method.rank is no setting of full; its settings: lr, keep",
        ),
        (("run", "--set", "seed"), "KEY=VALUE"),
        (("run", "--tasks", "700", *SMOKE), "benchmark.tasks is 700; allowed for 100 classes"),
        (("run", "--tasks", "[5,1]", *SMOKE), "benchmark.tasks is [5, 1], 6 classes together"),
        (("run", "--set", "benchmark.order=no", *SMOKE), "benchmark.order is 'no'; allowed"),
        (("run", "--weights", "nowhere.safetensors"), "there is no file nowhere.safetensors"),
        (("run", "--backbone", "vit_of_dreams"), "backbone.name is 'vit_of_dreams'"),
        (("run", "--backbone", "resnet18", "--weights", "x"), "VisionTransformer"),
        (("run", "--backbone", "vit_base_patch16_xp_224"), "has no linear layer attn.qkv"),
        (("run", "--image-size", "30"), "allowed: multiples of the patch of 8, of which 24 and 32"),
        (("run", "--weights", __file__), "test_cli.py is no weight file; allowed: safetensors"),
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


@pytest.mark.unit
def test_parameters_as_papermill_takes_them():
    given = ["render", "all", "-p", "profile", "smoke", "--parameter", "seeds", "[0, 1]"]
    expected = ["render", "all", "-p", "profile=smoke", "--parameter", "seeds=[0, 1]"]
    assert join_parameters(given) == expected
    assert join_parameters(["-p", "a=b", "all"]) == ["-p", "a=b", "all"]


@pytest.mark.unit
def test_doctor_says_what_is_there(call, tmp_path):
    code, out, _ = call("doctor", "--runs-dir", tmp_path)
    assert code == 0
    for word in ("torch", "glyphs-vit: found", ", ".join(sorted(METHODS)), "0 complete in"):
        assert word in out


def test_doctor_counts_the_runs_of_an_archive(call):
    code, out, _ = call("doctor", "--runs-dir", archive.RESULTS / "glyphs-10.zip")
    assert code == 0 and "runs        36 complete in" in out


@pytest.mark.process
def test_module_and_help_without_torch():
    code = (
        "import sys; sys.argv=['fmlora-lab', '--help']\n"
        "from fmlora_lab.cli.main import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "bench" in done.stdout
