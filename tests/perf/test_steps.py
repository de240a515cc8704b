"""`bench` times what it says it times."""

import gc
import json
import weakref

import pytest
import torch

from fmlora_lab.backbone.device import pick_device
from fmlora_lab.config import Backbone, BadInput
from fmlora_lab.perf import steps
from fmlora_lab.perf.steps import ALSO_COMPILED, CLASSES, ROWS, Row, bench, to_text

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def rows():
    return {name: Row(name, Backbone(), 4) for name in ROWS}


def test_json_has_every_row_and_figure(monkeypatch):
    monkeypatch.setattr(steps, "_peak_memory", lambda *_: 1.0)
    found = json.loads(json.dumps(bench(Backbone(), 2, 1)))
    assert {"backbone", "device", "rows"} <= found.keys()
    assert [row["name"] for row in found["rows"]] == list(ROWS)
    keys = {
        "train_ratio",
        "train_images_per_second",
        "inference_images_per_second",
        "peak_memory_mb",
    }
    assert all(keys <= row.keys() for row in found["rows"])
    assert found["rows"][0]["train_ratio"] == 1.0
    assert all(name in to_text(found) for name in ROWS)


def test_some_rows_are_compiled_too(monkeypatch):
    compiled = []
    monkeypatch.setattr(steps, "_peak_memory", lambda *_: 1.0)
    monkeypatch.setattr(steps, "compile_blocks", compiled.append)
    found = bench(Backbone(), 2, 1, compile=True, names=[*ALSO_COMPILED, "lora"])
    fused = [f"{name} compiled" for name in ALSO_COMPILED]
    assert [row["name"] for row in found["rows"]] == [*ALSO_COMPILED, "lora", *fused]
    assert len(compiled) == len(fused)


def test_a_few_rows_at_a_time_are_in_memory(monkeypatch):
    alive, most = weakref.WeakSet(), []

    class Counted(Row):
        def __init__(self, *given):
            super().__init__(*given)
            gc.collect()
            alive.add(self)
            most.append(len(alive))

    monkeypatch.setattr(steps, "_peak_memory", lambda *_: 1.0)
    monkeypatch.setattr(steps, "Row", Counted)
    monkeypatch.setattr(steps, "BESIDE", 2)
    names = ["lora", "floor", "inflora-2", "full", "sd-lora-2", "slao-2"]
    found = bench(Backbone(), 2, 1, names=names)
    assert {row["name"] for row in found["rows"]} == {*names}
    assert len(found["rows"]) == len(names)
    assert max(most) == 3  # the floor and two


def test_the_floor_can_be_asked_for_alone(monkeypatch):
    monkeypatch.setattr(steps, "_peak_memory", lambda *_: 1.0)
    assert [row["name"] for row in bench(Backbone(), 2, 1, names=["floor"])["rows"]] == ["floor"]


def test_a_batch_that_the_device_does_not_hold_is_named(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(steps, "_built", full)
    with pytest.raises(BadInput, match=r"--batch-size is 512.*allowed: fewer"):
        bench(Backbone(), 512, 1)


def test_peak_memory_is_measured_in_a_process_of_its_own():
    peak = steps._peak_memory("floor", Backbone(), 2)
    assert peak is None or peak > 1


def test_every_row_trains_the_same_prompts_and_its_own_adapter(rows):
    trained = {
        name: sum(p.numel() for group in row.optimizer.param_groups for p in group["params"])
        for name, row in rows.items()
    }
    model = rows["floor"].learner.model
    shared = 8 * model.width + CLASSES * (model.width + 1)
    sites = rows["lora"].learner.model.sites
    lora = sum(8 * (site.d_in + site.d_out) for site in sites)
    assert trained["floor"] == shared
    assert trained["lora"] == trained["peft-lora"] == shared + lora
    assert trained["fm-lora-2"] == trained["fm-lora-20"] == shared + len(sites) * 2 * 16 * 8
    assert trained["full"] == shared + sum(p.numel() for p in model.network.parameters())


@pytest.mark.parametrize("name", list(ROWS))
def test_a_step_moves_what_it_trains_and_nothing_frozen(rows, name):
    row = rows[name]
    learned = {id(p) for group in row.optimizer.param_groups for p in group["params"]}
    frozen = {
        key: p.detach().clone()
        for key, p in row.learner.model.network.named_parameters()
        if id(p) not in learned
    }
    row.step()
    # XGBLoRA's groups hold the numbers of all sites, of which a booster trains its own.
    trained = [p for g in row.optimizer.param_groups for p in g["params"] if p.grad is not None]
    assert name.startswith("xgb-lora") or len(trained) == len(learned)
    before = [p.detach().clone() for p in trained]
    row.step()
    after = [p.detach() for p in trained]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    now = dict(row.learner.model.network.named_parameters())
    assert all(torch.equal(now[key], value) for key, value in frozen.items())


def test_no_row_has_another_attention(rows):
    fused = pick_device().type == "cuda"
    for row in rows.values():
        assert {block.attn.fused_attn for block in row.learner.model.network.blocks} == {fused}
