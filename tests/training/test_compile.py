"""A compiled run is the same run, and compiles no more once its kinds of passes have been there."""

import inspect
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch._inductor.cpp_builder as cpp
from small_clip import small_clip, towers
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch._inductor.exc import InvalidCxxCompiler

from fmlora_lab import configure, identity, load_runs
from fmlora_lab.backbone import device
from fmlora_lab.backbone.vit import PrefixAttention, ViT
from fmlora_lab.config import Backbone, BadInput
from fmlora_lab.methods.registry import in_order
from fmlora_lab.perf import steps
from fmlora_lab.perf.steps import COMPILED, Row
from fmlora_lab.training import compiled, loop

pytestmark = pytest.mark.train

EACH = [7, 7, 5, 5, 6, 6]
"""Images of each class: with batches of 8, every task's last one has another size."""


@pytest.fixture
def counted(monkeypatch):
    """Counts graphs, which are run as they are; torch remembers none of them afterwards. What
    checks shapes in tests alone is no part of them."""
    unchecked = inspect.unwrap(PrefixAttention.forward)
    monkeypatch.setattr(PrefixAttention, "forward", unchecked)
    names = (
        *("nested_graph_breaks", "specialize_float", "recompile_limit"),
        "skip_nnmodule_hook_guards",
    )
    before = {name: getattr(torch._dynamo.config, name) for name in names}
    torch._dynamo.reset()
    with torch._dynamo.config.patch(before):
        yield CompileCounterWithBackend("eager")
    torch._dynamo.reset()


@pytest.fixture
def both(trainer, tiny_stream, memory_keeper, monkeypatch):
    """`both(method, backend)`: the same run of three tasks as it is and compiled: what each found
    and kept, and how many graphs there were after each task."""

    def make(method, backend: CompileCounterWithBackend, **training):
        monkeypatch.setattr(
            loop, "compile_blocks", partial(compiled.compile_blocks, backend=backend)
        )
        found = []
        for compile in (False, True):
            keeper, graphs = memory_keeper(), []
            stream = tiny_stream(classes=6, tasks=3, each=EACH)
            settings = {"augmentation": "shift", **training}
            run = trainer(method, stream, keeper=keeper, compile=compile, **settings)
            run.after_task = lambda at, graphs=graphs: graphs.append(backend.frame_count)
            found.append(SimpleNamespace(result=run.run(), keeper=keeper, graphs=graphs))
        return found

    return make


def same(one, other) -> bool:
    """Whether two runs answered the same and hold the same numbers."""
    a, b = one.keeper.state, other.keeper.state
    assert a.keys() == b.keys()
    kept = (np.allclose(a[name], b[name], rtol=0, atol=1e-10, equal_nan=True) for name in a)
    alike = ("correct", "within", "given", "inferred", "inference_flops")
    return all(kept) and all(one.result[name] == other.result[name] for name in alike)


@pytest.mark.parametrize("name", ["fm-lora", "lora", "inflora"])
def test_no_rank_and_no_task_is_compiled_again(both, counted, quick, float64, name):
    """InfLoRA watches its sites' inputs in every task; FM-LoRA's ranks differ."""
    plain, fused = both(quick(name), counted)
    assert same(plain, fused)
    first, *later = fused.graphs
    assert first > 0 and later == [first, first]
    if name == "fm-lora":
        assert len({int(record["rank"].max()) for record in fused.keeper.records[1:]}) > 1


def test_every_method_is_the_same_compiled(both, counted, quick, float64):
    """Also those with prefixes, and those whose updates depend on the image. XGBLoRA draws which
    sites train, and so where gradients begin."""
    runs = {name: both(quick(name), counted, epochs=1) for name in in_order()}
    assert [name for name, pair in runs.items() if not same(*pair)] == []
    graphs = {name: fused.graphs for name, (_, fused) in runs.items() if name != "xgb-lora"}
    assert [(name, at) for name, at in graphs.items() if at[-1] > at[:2][-1]] == []


def test_in_a_16_bit_type_the_cast_is_made_before_a_site(
    trainer, tiny_stream, both, counted, quick
):
    """So that it is part of a kernel; the run is the same."""
    assert same(*both(quick("lora"), counted, precision="bfloat16"))
    run, entering = trainer("lora", tiny_stream(), compile=True, precision="bfloat16"), set()
    for site in run.learner.model.sites:
        site.register_forward_pre_hook(lambda site, args: entering.add(args[0].dtype))
    run.run()
    assert entering == {torch.bfloat16}


def test_a_hook_within_a_block_that_comes_later_is_heard(tiny_vit, counted):
    model, seen = ViT(tiny_vit()), []
    compiled.compile_blocks(model, counted)
    pixels = torch.zeros(2, 3, 16, 16)
    model.features(pixels)
    handle = model.network.blocks[1].attn.register_forward_hook(
        lambda attention, args, y: seen.append(y.shape)
    )
    model.features(pixels)
    handle.remove()
    model.features(pixels)
    assert len(seen) == 1


def test_a_command_s_run_has_its_name_and_says_that_it_was_compiled(
    counted, monkeypatch, call, tmp_path
):
    monkeypatch.setattr(loop, "compile_blocks", partial(compiled.compile_blocks, backend=counted))
    monkeypatch.setattr(loop, "pick_device", lambda: torch.device("cpu"))
    words = ("run", "--profile", "smoke", "--method", "lora", "--runs-dir", tmp_path)
    code, _, said = call(*words, "--compile")
    assert code == 0, said
    (stored,) = load_runs(tmp_path)
    assert stored.id == identity(configure("lora", "glyphs", "smoke"))
    assert stored.environment["compiled"] and counted.frame_count


def test_two_towers_are_refused_in_one_sentence():
    with pytest.raises(BadInput, match="compile: a TwoTowers has nothing to compile"):
        compiled.compile_blocks(towers(small_clip()))


def test_without_a_compiler_it_is_refused_in_one_sentence(tiny_vit, monkeypatch):
    def none():
        raise InvalidCxxCompiler

    monkeypatch.setattr(compiled, "get_cpp_compiler", none)
    with pytest.raises(BadInput, match=r"compile: no C\+\+ compiler is there; .* CXX"):
        compiled.compile_blocks(ViT(tiny_vit()))


def has_compiler() -> bool:
    try:
        return bool(cpp.get_cpp_compiler())
    except InvalidCxxCompiler:
        return False


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_kernels_of_the_cpu_take_the_same_steps(counted, tmp_path, monkeypatch):
    """The 20th task's with the graphs of the 2nd's."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    monkeypatch.setattr(device, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(steps, "pick_device", lambda: torch.device("cpu"))
    counters.clear()
    graphs = []
    for name in ("fm-lora-2", "fm-lora-20"):
        rows = [Row(kind, Backbone(), 4) for kind in (name, name + COMPILED)]
        for row in rows:
            row.step()
        learned = [[p for g in row.optimizer.param_groups for p in g["params"]] for row in rows]
        for a, b in zip(*learned, strict=True):
            near = 1e-4 * float(a.grad.abs().max())
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=near)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0
