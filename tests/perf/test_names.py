"""`bench names` asks for names over a folder as large as it says; how long that takes is not
tested."""

import json

import pytest

from fmlora_lab.benchmarks import decode as decoding
from fmlora_lab.benchmarks.decode import decode
from fmlora_lab.files import cache_dir
from fmlora_lab.perf import names
from fmlora_lab.perf.names import CONFIGURATIONS, configurations, make_folder, to_text


@pytest.mark.unit
def test_the_folder_has_distinct_images_in_a_hundred_classes(tmp_path):
    assert make_folder(tmp_path, 350) == 300
    files = list(tmp_path.rglob("*.ppm"))
    assert len(files) == 300 and len({file.read_bytes() for file in files}) == 300
    for part, each in (("train", 2), ("test", 1)):
        folders = list((tmp_path / part).iterdir())
        assert len(folders) == 100 and all(len(list(f.iterdir())) == each for f in folders)


@pytest.mark.unit
def test_every_configuration_is_another_run_of_one_folder(tmp_path):
    configs = configurations(tmp_path)
    assert len({config.model_dump_json() for config in configs}) == CONFIGURATIONS
    assert {config.benchmark.data for config in configs} == {tmp_path}
    assert len({config.method.name for config in configs}) > 1
    for field in ("seed", "order_seed"):
        assert len({getattr(config, field) for config in configs}) > 1


@pytest.mark.process
def test_images_are_read_the_first_time_alone(call, monkeypatch):
    read, own = [], cache_dir()
    before = sorted(own.rglob("*"))

    def counting(path, size):
        read.append(path)
        return decode(path, size)

    monkeypatch.setattr(decoding, "decode", counting)
    monkeypatch.setattr(names, "CONFIGURATIONS", 6)
    code, out, _ = call("bench", "names", "--images", 200, "--json")
    found = json.loads(out)
    assert code == 0 and len(read) == 200
    assert {key: found[key] for key in ("images", "classes", "configurations")} == {
        "images": 200,
        "classes": 100,
        "configurations": 6,
    }
    assert all(found[key] > 0 for key in ("first_seconds", "again_seconds", "fresh_seconds"))
    assert "6 names over 200 images" in to_text(found)
    assert cache_dir() == own and sorted(own.rglob("*")) == before  # a cache of its own


@pytest.mark.unit
def test_what_there_is_to_measure_is_said(call):
    code, _, err = call("bench", "everything")
    assert code == 2 and "bench is 'everything'; allowed: training, run, explorers, " in err


@pytest.mark.unit
@pytest.mark.parametrize(
    ("what", "option", "taken"),
    [
        ("busy", ("--batch-size", 3), "--repeats"),
        ("run", ("--compile",), "--backbone, --weights, --image-size, --method, "),
        ("gpu", ("--set", "method.rank=3"), "--backbone, --batch-size, --repeats"),
        ("training", ("--method", "lora"), "--backbone, --weights, --image-size, --batch-size, "),
    ],
)
def test_an_option_of_another_measurement_is_refused(call, what, option, taken):
    code, out, err = call("bench", what, *option)
    assert code == 2 and out == ""
    assert f"{option[0]} is not for bench {what}; allowed: {taken}" in err
