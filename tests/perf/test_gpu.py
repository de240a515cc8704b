"""The measurement of a GPU, rehearsed at a small size on whatever device there is."""

import json

import pytest

from fmlora_lab.perf import gpu, steps
from fmlora_lab.runs.folder import runs_root

pytestmark = pytest.mark.unit
SIZES = {"train": 40, "test": 12, "classes": 4, "tasks": 2}
ROWS = ("floor", "fm-lora-2", "fm-lora-20", "peft-lora")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMLORA_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setattr(steps, "_peak_memory", lambda *_: 1.0)
        patch.setattr(gpu, "KINDS", ROWS)
        measured = gpu.bench(2, 1, "test_vit", SIZES)
        stored = [json.loads(file.read_text("utf-8")) for file in runs_root().glob("gpu-*.json")]
    assert stored == [measured]
    return measured


def test_what_cannot_be_measured_is_said_before_it_is_begun(call, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu.steps, "bench", None)
    for words, said in (
        ((), "there is no CUDA device"),
        (("--backbone", "glyphs-vit"), "backbone.name is 'glyphs-vit'"),
        (("--backbone", "resnet18"), "a ResNet; allowed: models of timm's VisionTransformer"),
    ):
        code, out, err = call("bench", "gpu", *words)
        assert (code, out) == (2, "") and said in err
    (file := tmp_path / "file").touch()
    monkeypatch.setenv("FMLORA_RUNS", str(file))
    code, out, err = call("bench", "gpu", "--backbone", "test_vit")
    assert (code, out) == (2, "") and str(file) in err


def test_shares_are_of_the_device_s_own_product(found):
    for row in found["rows"]:
        done = row["train_images_per_second"] * 2 * found["forward_flops"]
        assert row["share"] == pytest.approx(done / found["matmul_flops_per_second"])


def test_operations_are_those_of_the_backbone(found):
    # 6 blocks of width 64, 101 tokens of 160 px in patches of 16, an MLP three times as wide
    d, n, m = 64, 101, 192
    block = 2 * n * (d * 3 * d + d * d + 2 * d * m) + 2 * 2 * n * n * d
    patches = 2 * 100 * 3 * 16 * 16 * d
    assert found["forward_flops"] == 6 * block + patches


def test_the_stream_is_run_to_its_end(found):
    stream = found["stream"]
    assert {key: stream[key] for key in SIZES} == SIZES
    assert stream["seconds"] > stream["training_seconds"] > 0
    epoch = SIZES["train"] / stream["images_per_second"]  # the preliminary one is not gone over
    assert epoch < 0.7 * stream["training_seconds"]
    expected = (stream["seconds"] + 29 * epoch) / 60
    assert stream["minutes_of_30_epochs"] == pytest.approx(expected, rel=0.1, abs=0.06)


def test_every_aim_stands_beside_what_it_came_to(found):
    lines = gpu.to_text(found).splitlines()
    assert all(any(line.startswith(aim) for line in lines) for aim in gpu.AIMS)


def test_random_streams_have_the_asked_sizes():
    stream = gpu.random_stream(8, **SIZES)
    assert [len(task.train) for task in stream.tasks] == [20, 20]
    assert [len(task.test) for task in stream.tasks] == [6, 6]
    assert [sorted(set(task.train.labels.tolist())) for task in stream.tasks] == [[0, 1], [2, 3]]
