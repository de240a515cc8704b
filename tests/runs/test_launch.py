"""Runs beside one another: who gets which GPU and cores, and what becomes of a run that dies."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from types import SimpleNamespace

import pytest
import torch

from fmlora_lab import grid, identity, sweep
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.profiles import configure
from fmlora_lab.runs import launch, workers
from fmlora_lab.runs.launch import processes
from fmlora_lab.runs.stored import load_runs
from fmlora_lab.runs.sweep import RunsFailed, read_grid

CONFIGS = [RunConfig(method="lora", seed=seed) for seed in range(3)]


@pytest.fixture
def crew(monkeypatch):
    """Workers that compute nothing and say so at once; `crew` has what each was begun with and the
    seeds it took, `crew.stored` the seeds that are stored."""
    found = SimpleNamespace(begun=[], stored=set())

    class Fake:
        def __init__(self, share, gpu):
            self.on, self.seeds, (self.pipe, self.theirs) = None, [], Pipe()
            found.begun.append((share, gpu, self.seeds))
            self.process = SimpleNamespace(join=lambda: None, kill=lambda: None)
            self.theirs.send(None)

        def take(self, name, config, runs_dir, log, modules):
            self.on = name
            self.seeds.append(config.seed)
            self.theirs.send(None)

    def find(config, *_):
        return SimpleNamespace(id=identity(config)) if config.seed in found.stored else None

    monkeypatch.setattr(workers, "Worker", Fake)
    monkeypatch.setattr(launch, "find_stored", find)
    monkeypatch.setattr(launch, "run", lambda config, *_: f"computed {config.seed}")
    monkeypatch.setattr(launch.threads, "cores", lambda: 8)
    return found


@pytest.mark.unit
@pytest.mark.parametrize(
    ("how", "shares"),
    [
        ({"workers": 2}, [4, 4]),
        ({}, [1, 1, 1]),
        ({"cores": 4}, [4, 4]),
        ({"cores": 16}, [16]),
        ({"workers": 2, "cores": 3}, [3, 3]),
    ],
)
def test_cores_are_shared_among_workers(crew, tmp_path, how, shares):
    assert list(processes(**how)(CONFIGS, tmp_path, False)) == [f"computed {k}" for k in range(3)]
    assert [(share, gpu) for share, gpu, _ in crew.begun] == [(share, None) for share in shares]
    assert sorted(seed for _, _, seeds in crew.begun for seed in seeds) == [0, 1, 2]


@pytest.mark.unit
def test_no_process_is_begun_for_stored_runs_and_none_twice(crew, tmp_path):
    crew.stored |= {0, 1, 2}
    assert [own.id for own in processes(2)(CONFIGS, tmp_path, False)] == [*map(identity, CONFIGS)]
    assert not crew.begun
    crew.stored -= {1}
    again = [*CONFIGS, CONFIGS[1]]
    assert list(processes(2)(again, tmp_path, False))[1::2] == ["computed 1"] * 2
    assert [seeds for _, _, seeds in crew.begun] == [[1]]


@pytest.mark.unit
@pytest.mark.parametrize(("visible", "gpus"), [(None, ["0", "1"]), ("5,7", ["5", "7"])])
def test_one_run_a_gpu(crew, tmp_path, monkeypatch, visible, gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    configs = [
        RunConfig(method="lora", seed=k, training={"precision": "float32"}) for k in range(3)
    ]
    list(processes()(configs, tmp_path, False))
    assert [(share, gpu) for share, gpu, _ in crew.begun] == [(4, gpu) for gpu in gpus]
    list(processes(workers=4)(configs, tmp_path, False))
    assert [gpu for _, gpu, _ in crew.begun[2:]] == [*gpus, gpus[0]]


def kill_once_in_training(folder):
    """As the system does where memory runs out: once, after an epoch of the run."""
    while not (folder / "progress.jsonl").exists():
        time.sleep(0.02)  # leaves the processor to the workers
    said = (folder / workers.LOG).read_text()
    os.kill(int(re.search(r"-- process (\d+)", said)[1]), signal.SIGKILL)


@pytest.mark.train
@pytest.mark.process
def test_a_run_that_dies_stops_no_other_and_goes_on_when_it_is_asked_for(
    small, tmp_path, monkeypatch, capfd, same_run
):
    """Of three runs on two devices, which there are not, one is killed and tried again, and one
    cannot be read."""
    monkeypatch.setattr(launch, "visible_gpus", lambda: ["0", "1"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    asked = [small("lora", seed=seed, **{"training.epochs": 6}) for seed in range(3)]
    killed, damaged, whole = names = [identity(config) for config in asked]
    checkpoint = tmp_path / damaged / "checkpoint.safetensors"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"cut")
    threading.Thread(target=kill_once_in_training, args=(tmp_path / killed,), daemon=True).start()
    with pytest.raises(RunsFailed) as ended:
        sweep(asked, tmp_path, on=processes(retry=1))
    assert [run.id for run in ended.value.done.run] == [killed, whole]
    ((one, failed),) = ended.value.failed
    log = tmp_path / damaged / "log.txt"
    assert (one.labels["seed"], failed.run_id, failed.log) == (1, damaged, log)
    assert failed.why.startswith(f"DamagedFile: {checkpoint} is damaged")
    assert f"seed 1: {failed.why} (log {log})" in str(ended.value)
    assert len(re.findall("^-- process", log.read_text(), re.M)) == 2  # it was tried twice
    assert "Traceback" in log.read_text()
    said = capfd.readouterr().err
    assert f"run {killed} failed: killed by SIGKILL; log {tmp_path / killed / 'log.txt'}" in said
    logs = [(tmp_path / name / "log.txt").read_text() for name in names]
    assert {gpu for text in logs for gpu in re.findall("GPU (.)", text)} == {"0", "1"}
    assert "lora · task 2/2" in logs[2]
    checkpoint.unlink()
    found = sweep(asked, tmp_path)
    for stored, again in zip(found.run, sweep(asked, tmp_path / "here").run, strict=True):
        same_run(stored, again)


@pytest.mark.process
def test_a_script_without_its_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from fmlora_lab import grid, sweep\nsweep(grid('smoke'), on='processes')")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "a worker process could not begin (exit code 1); in a script" in done.stderr


KILLED = """
import os, threading

from fmlora_lab.runs import workers
from fmlora_lab.runs.pool import Pool

def work(*_):
    os.write(1, b"begun")
    threading.Event().wait()

workers.compute = work

if __name__ == "__main__":
    {waiting}
"""


@pytest.mark.process
@pytest.mark.parametrize(
    "waiting",
    [
        "pool = Pool(1); list(pool.map(work, [0]))",
        "from fmlora_lab import grid, sweep; sweep(grid('smoke', method='lora'), {runs!r}, "
        "'processes', 1)",
    ],
)
def test_whoever_is_killed_leaves_no_process_at_work(waiting, tmp_path):
    """Each of them holds the pipe's end until it is gone."""
    script, runs = tmp_path / "script.py", str(tmp_path / "runs")
    script.write_text(KILLED.format(waiting=waiting.format(runs=runs)), "utf-8")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"begun"
        process.kill()
        assert process.communicate(timeout=60)[0] == b""


# --- a grid in a file -----------------------------------------------------------------------------

GRID = {"profile": "smoke", "method": ["lora", "full"], "order_seed": [0, 1]}
TOML = """
[[runs]]
profile = "smoke"
method = ["lora", "full"]
order_seed = [0, 1]

[[runs]]
seed = 3
[runs.method]
name = "lora"
rank = 4
[runs.training]
epochs = 2
"""


@pytest.mark.unit
def test_a_file_states_grids_and_whole_configurations(tmp_path):
    one = configure("lora", overrides={"method.rank": 4, "training.epochs": 2, "seed": 3})
    (tmp_path / "some.json").write_text(json.dumps([GRID, json.loads(one.model_dump_json())]))
    (tmp_path / "some.toml").write_text(TOML)
    found = read_grid(tmp_path / "some.json")
    assert found[:4] == grid(**GRID) and found[4].config == one
    assert found[4].labels == {"method": "lora", "seed": 3}
    again = read_grid(tmp_path / "some.toml")
    assert again[:4] == grid(**GRID)
    assert again[4].config.seed == 3 and again[4].config.training.epochs == 2


@pytest.mark.unit
@pytest.mark.parametrize("name", ["some.json", "some.toml"])
def test_a_file_of_an_editor_is_read_with_its_mark_and_refused_in_another_coding(tmp_path, name):
    text = {"some.json": '[{"profile": "smoke"}]', "some.toml": '[[runs]]\nprofile = "smoke"'}
    path = tmp_path / name
    path.write_text(text[name], "utf-8-sig")
    assert len(read_grid(path)) == 1
    path.write_text(text[name], "utf-16")
    with pytest.raises(BadInput, match=f"{name} cannot be read: 'utf-8' codec"):
        read_grid(path)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "cannot be read: "),
        ("{}", "has no list of runs"),
        ("[]", "has no list of runs"),
        ("[3]", "entry 1: it is no table of settings"),
        ('[{"method": "lora"}, {"method": "ewc"}]', "entry 2: method.name is 'ewc'; allowed"),
        ('[{"method": {"name": "ewc"}}]', "entry 1: method.name is 'ewc'; allowed"),
        ('[{"profil": "smoke"}]', "entry 1: a grid has no axis 'profil'"),
    ],
)
def test_a_file_that_states_no_grid_is_named_with_its_entry(tmp_path, call, text, said):
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        read_grid(path)
    assert f"{path}" in str(refused.value) and said in str(refused.value)
    code, _, err = call("sweep", path)
    assert code == 2 and said in err and err.count("\n") == 1


@pytest.mark.unit
def test_a_file_takes_no_parameters_and_must_be_there(tmp_path, call):
    path = tmp_path / "some.json"
    assert call("sweep", path)[0] == 2
    path.write_text(json.dumps([GRID]))
    code, _, err = call("sweep", path, "-p", "orders", "2")
    assert code == 2 and "is no notebook, so it takes no parameter 'orders'" in err


@pytest.mark.train
def test_the_command_gives_one_object_of_runs_and_states(tmp_path, call, monkeypatch):
    """Which runs died decides about the exit code, and about them alone."""
    path = tmp_path / "some.json"
    path.write_text(json.dumps([{"profile": "smoke", "method": "prototypes", "seed": [0, 1]}]))
    names = [identity(one.config) for one in read_grid(path)]
    code, out, _ = call("sweep", path, "--json", "--runs-dir", tmp_path / "runs")
    assert code == 0
    assert json.loads(out) == {"runs": [{"run": name, "state": "done"} for name in names]}
    assert [run.id for run in load_runs(tmp_path / "runs")] == sorted(names)
    first, second, last = call("sweep", path, "--runs-dir", tmp_path / "runs")[1].splitlines()
    assert first.startswith(f"{names[0]}  prototypes seed=0: Acc ")
    assert second.startswith(f"{names[1]}  prototypes seed=1: Acc ") and last[0] == "2"

    def dying(configs, runs_dir, use_shipped):
        first, second = launch.here(configs, runs_dir, use_shipped)
        yield first
        yield launch.Failed(second.id, "KeyError: 'x'", tmp_path / "log.txt")

    monkeypatch.setattr("fmlora_lab.runs.launch.processes", lambda *how: dying)
    asked = ("sweep", path, "--on", "processes", "--runs-dir", tmp_path / "runs")
    code, out, err = call(*asked, "--json")
    lost = {"run": names[1], "state": "failed", "error": "KeyError: 'x'"}
    told = json.loads(out)["runs"][1]
    assert told.pop("labels")["seed"] == 1
    assert told == {**lost, "log": str(tmp_path / "log.txt")}
    assert code == 1 and "1 of 2 runs failed" in err and "seed 1: KeyError: 'x'" in err
    code, out, _ = call(*asked)
    assert code == 1 and out.splitlines()[-1] == "1 runs done, 1 failed"
