"""What a CUDA device adds: the same numbers as the CPU, and no waiting inside an epoch."""

import pytest
import torch

from fmlora_lab.backbone.sites import Prompts
from fmlora_lab.backbone.vit import ViT
from fmlora_lab.methods.registry import in_order
from fmlora_lab.training import loop, recorded, stage
from fmlora_lab.training.stage import StageRun

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda")
DRAWS = {"xgb-lora", "loda"}
"""Methods whose steps are not alike."""
NOW_AND_THEN = {"xgb-lora"}
"""Methods that draw something anew every so many steps, and wait there alone."""


@pytest.fixture
def on_cuda(trainer, monkeypatch):
    """`trainer`, on the CUDA device."""

    def make(*args, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "pick_device", lambda: CUDA)
            return trainer(*args, **settings)

    return make


@pytest.mark.parametrize("scenario", ["class-incremental", "domain-incremental"])
@pytest.mark.parametrize("name", in_order())
def test_a_run_is_that_of_the_cpu(
    trainer, on_cuda, tiny_stream, memory_keeper, quick, float64, name, scenario
):
    settings = quick(name)
    if name == "fm-lora":  # singular vectors of the first task's update have either sign
        settings["bases"] = {"source": "random"}
    keepers, found = [], []
    for make in (trainer, on_cuda):
        keepers.append(memory_keeper())
        found.append(make(settings, tiny_stream(scenario), keeper=keepers[-1]).run())
    losses = [[line["loss"] for line in keeper.lines] for keeper in keepers]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert found[1]["correct"] == found[0]["correct"]


@pytest.mark.parametrize("augmentation", ["shift", "crop-flip"])
@pytest.mark.parametrize("name", [name for name in in_order() if name not in NOW_AND_THEN])
def test_no_step_waits_for_the_device(on_cuda, tiny_stream, quick, monkeypatch, name, augmentation):
    epoch = StageRun.epoch

    def strict(self, number, bar):
        torch.cuda.set_sync_debug_mode("error" if self.stage.step else "default")
        try:
            return epoch(self, number, bar)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def read(total):  # what an epoch ends with, and may wait for
        torch.cuda.set_sync_debug_mode("default")
        return torch.Tensor.item(total)

    monkeypatch.setattr(StageRun, "epoch", strict)
    monkeypatch.setattr("fmlora_lab.training.stage.float", read, raising=False)
    on_cuda(quick(name), tiny_stream(), augmentation=augmentation, precision="bfloat16").run()


def test_fused_attention_with_a_prefix_is_attention_with_a_prefix(tiny_vit):
    model = ViT(tiny_vit()).to(CUDA)
    prefix = (torch.randn(3, 32, device=CUDA), torch.randn(3, 32, device=CUDA))
    pixels = torch.randn(5, 3, 16, 16, device=CUDA)
    found = []
    for fused in (False, True):
        model.use_fused_attention(fused)
        model.set_prompts(Prompts(prefixes={0: prefix, 1: prefix}))
        found.append(model.features(pixels))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_images_that_do_not_fit_travel_a_batch_at_a_time(
    on_cuda, tiny_stream, memory_keeper, monkeypatch
):
    losses = []
    for free in (2**40, 0):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        keeper = memory_keeper()
        on_cuda("lora", tiny_stream(), keeper=keeper).run()
        losses.append([line["loss"] for line in keeper.lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("name", in_order())
def test_a_step_that_is_played_again_is_that_step(
    on_cuda, tiny_stream, memory_keeper, quick, float64, monkeypatch, name
):
    played = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda g: (played.append(g), replay(g)))
    losses = []
    for worth in (1, 10**9):
        monkeypatch.setattr(stage, "WORTH", worth)
        monkeypatch.setattr(recorded, "BEFORE", 1)
        keeper = memory_keeper()
        on_cuda(quick(name), tiny_stream(each=13), keeper=keeper, augmentation="shift").run()
        losses.append([line["loss"] for line in keeper.lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # a record has its rates in float32
    learns = any(loss is not None for loss in losses[0])
    assert bool(played) == (learns and name not in DRAWS)
