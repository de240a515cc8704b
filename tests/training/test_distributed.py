"""One run shared by two processes is that of one, whatever the method does with a batch."""

import json
import re
import signal
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import two
from quick import QUICK

from fmlora_lab import configure, identity, load_runs
from fmlora_lab.config import BadInput
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.training import distributed, loop

pytestmark = pytest.mark.process

OPTIONS = {
    "fm-lora, bases by gradient": {
        "name": "fm-lora",
        "basis_rank": 4,
        "bases": {"from": "first-task-gradient"},
        "drs": {"estimates": True, "keep_warmup": True},
    },
    "fm-lora, inputs": {"name": "fm-lora", "basis_rank": 4, "bases": {"init": "inputs"}},
    "l2p, batchwise": {
        "name": "l2p",
        "batchwise": True,
        "pool": 30,
        "top": 15,
        "length": 1,
        "lr": 0.01,
    },
    "rank1-pool, learned": {"name": "rank1-pool", "router": "learned", "top": 3, "merged": 2},
    "hide-prompt, centroids": {**QUICK["hide-prompt"], "name": "hide-prompt", "centroids": 2},
}
"""What a method does with a batch under options of its own."""
AS_THEY_ARE = ("dualprompt", "l2p")
"""Also with images that are not augmented, of which queries are computed once."""


def case(method: dict, augmentation: str = "crop-flip", **more) -> dict:
    """A last batch of one image, which is less than there are processes."""
    training = {"epochs": 2, "batch_size": 5, "precision": "float32", "augmentation": augmentation}
    heads = {"random_features": 30, "shrinkage": 0.3}  # with less, rounding is multiplied
    return {"config": {"method": method, "training": training, "heads": heads}, **more}


def cases() -> dict[str, dict]:
    found = {name: case({"name": name, **QUICK.get(name, {})}) for name in sorted(METHODS)}
    found |= {name: case(method) for name, method in OPTIONS.items()}
    for name in AS_THEY_ARE:
        found[f"{name}, as they are"] = case({"name": name, **QUICK[name]}, "none")
    return found


ONE_TOWER = ("lilora", "hide-prompt", "dualprompt", "coda-prompt", "l2p")
"""They refuse a model of two."""
STOPPED = (1, "train", 1)
"""In the second task, after a checkpoint of its first epoch."""


def test_two_processes_find_what_one_does(tmp_path, tiny_stream, tiny_vit, float64):
    """Every method, after two tasks; and a run that was stopped and goes on with another number."""
    stream, vit = tiny_stream(), tiny_vit()
    asked = cases()
    stopped = {**asked["fm-lora"], "stop": STOPPED}
    with patch.object(loop, "pick_device", lambda: torch.device("cpu")):
        alone = {name: two.found(own, stream, vit) for name, own in asked.items()}
        half = two.found(stopped, stream, vit)
        further = {**asked["fm-lora"], "stored": half}
        together = two.ask(tmp_path, {**asked, "stopped": stopped, "gone on": further}, stream, vit)
        assert together["stopped"][1]["task"] == half[1]["task"] == 1
        gone_on = two.found({**asked["fm-lora"], "stored": together["stopped"]}, stream, vit)
    pairs = {name: (alone[name], together[name]) for name in asked}
    pairs["resumed with two"] = alone["fm-lora"], together["gone on"]
    pairs["resumed with one"] = alone["fm-lora"], gone_on
    different = {name: apart(*pair) for name, pair in pairs.items()}
    assert not {name: how for name, how in different.items() if how > 1e-10}
    assert all(one["correct"] == other["correct"] for (_, one), (_, other) in pairs.values())
    assert {name for name, (_, at) in together.items() if at["task"] < 2} == {"joint", "stopped"}


def test_two_processes_teach_two_towers_as_one_does(tmp_path, tiny_stream, tiny_vit, float64):
    """Every image of a batch is beside the texts of all, whichever process has them."""
    stream, vit = tiny_stream(), tiny_vit()
    own = {n: {"name": n, **QUICK.get(n, {})} for n in sorted(METHODS) if n not in ONE_TOWER}
    own["fm-lora"]["basis_rank"] = 4  # more have singular values of 0, whose vectors are any
    asked = {name: case(method, towers=True) for name, method in own.items()}
    with patch.object(loop, "pick_device", lambda: torch.device("cpu")):
        alone = {name: two.found(asked[name], stream, vit) for name in asked}
        together = two.ask(tmp_path, asked, stream, vit)
    different = {name: apart(alone[name], together[name]) for name in asked}
    assert not {name: how for name, how in different.items() if how > 1e-8}  # logits are 20 cosines


def apart(one: tuple[dict, dict], other: tuple[dict, dict]) -> float:
    """The largest difference of two states, beside the size of what differs if that is above 1."""
    (a, _), (b, _) = one, other
    assert a.keys() == b.keys()
    return max(
        float(abs(a[name] - b[name]).max() / max(1, abs(a[name]).max()))
        for name in a
        if a[name].size and a[name].dtype != bool
    )


# The command line: torchrun under it

RUN = ("run", "--profile", "smoke", "--method", "lora", "--devices", 2, "--json")


def begun(runs_dir, *more) -> subprocess.Popen:
    words = [sys.executable, "-m", "fmlora_lab", *map(str, RUN), "--runs-dir", runs_dir, *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_run_on_two_devices_is_stopped_in_one_sentence_and_goes_on(tmp_path, call, monkeypatch):
    """Under the name that it has on one; and is then there for whoever asks."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    first = begun(tmp_path)
    for line in first.stderr:
        if "task 2/5" in line:
            break
    first.send_signal(signal.SIGINT)
    out, said = first.communicate()
    assert first.returncode == 130 and not out
    *bars, last = said.splitlines()
    assert re.fullmatch(r"stopped after task [1-4] of 5; run again to go on", last)
    assert all("img" in bar for bar in bars)

    again = begun(tmp_path)
    out, said = again.communicate()
    assert again.returncode == 0, said
    assert "task 1/5" not in said
    run_id = json.loads(out)["run_id"]
    assert run_id == identity(configure("lora", "glyphs", "smoke"))
    (stored,) = load_runs(tmp_path)
    assert stored.id == run_id and stored.environment["devices"] == 2
    monkeypatch.setattr(distributed, "launch", None)  # nothing is begun for what is stored
    assert json.loads(call(*RUN, "--runs-dir", tmp_path)[1])["run_id"] == run_id


def test_whoever_kills_a_run_on_two_devices_has_them_back(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    begins = begun(tmp_path, "--set", "training.epochs=20")
    for line in begins.stderr:
        if "task 2/5" in line:
            break
    begins.kill()
    begins.communicate()  # until the last that can write there is gone
    (folder,) = tmp_path.iterdir()
    assert (folder / "config.json").is_file() and not (folder / "result.json").exists()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("devices", "gpus", "said"),
    [
        (3, 2, "devices is 3; allowed: at most this machine's GPUs, 2"),
        (33, 0, "devices is 33; allowed: at most training.batch_size, 32"),
        (0, 0, "Invalid value for '--devices'"),
    ],
)
def test_more_devices_than_there_are_is_one_sentence(call, monkeypatch, devices, gpus, said):
    kind = torch.device("cuda" if gpus else "cpu")
    monkeypatch.setattr(distributed, "pick_device", lambda: kind)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    code, out, err = call(*RUN[:-2], devices)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1


@pytest.mark.unit
@pytest.mark.parametrize(
    ("codes", "wanted", "shown"),
    [
        ({0: 2}, 2, False),
        ({0: 1, 1: 1}, 1, True),
        ({1: -9}, 137, True),
        ({0: 130, 1: 1}, 130, False),
    ],
)
def test_what_another_process_died_of_is_shown(tmp_path, capsys, codes, wanted, shown):
    """The first has said itself why it ended."""
    log = tmp_path / "attempt_0" / "1" / "stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("OutOfMemoryError\n")
    failures = {rank: SimpleNamespace(exitcode=code) for rank, code in codes.items()}
    assert distributed._told_of(SimpleNamespace(failures=failures), 2, tmp_path) == wanted
    assert ("process 2 of 2 failed:\nOutOfMemoryError" in capsys.readouterr().err) == shown


@pytest.mark.train
def test_a_step_that_adds_up_no_gradients_is_refused(trainer, tiny_stream, monkeypatch):
    """It would train each process's model on its own part."""

    class Own(METHODS["lora"]):
        def step(self, batch):
            loss = batch.loss(batch.images, batch.query)
            batch.optimizer.zero_grad()
            loss.backward()
            batch.optimizer.step()
            return loss.detach()

    monkeypatch.setitem(METHODS, "lora", Own)
    started = trainer("lora", tiny_stream())
    monkeypatch.setattr(started.learner.ranks, "size", 2)
    silent = dict.fromkeys(("all_reduce", "broadcast_object_list"), lambda *_, **how: None)
    monkeypatch.setattr(distributed, "dist", SimpleNamespace(**silent))
    with pytest.raises(BadInput, match=r"lora has a training step of its own.*: devices 1"):
        started.run()


def test_no_file_of_the_folder_is_taken_for_a_package(monkeypatch):
    """Python would look there first for a module that is begun by `-m`."""
    begun = []
    monkeypatch.setattr(
        distributed, "elastic_launch", lambda config, program: lambda *words: begun.append(words)
    )
    assert distributed.launch(2, ["run", "--profile", "smoke"]) == 0
    assert begun == [("-P", "-m", "fmlora_lab", "run", "--profile", "smoke")]
