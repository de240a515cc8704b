"""What is played again is played with the images at hand; a stand-in plays the graph here."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from fmlora_lab.benchmarks.stream import Images
from fmlora_lab.methods.method import Method, StepBatch
from fmlora_lab.methods.registry import METHODS, in_order
from fmlora_lab.training import recorded
from fmlora_lab.training.recorded import BEFORE, RecordedStep

pytestmark = pytest.mark.unit


class Summing:
    """A method whose step has seen what is in its batch: the sum of pixels, labels and query."""

    def __init__(self):
        self.recording, self.how = False, []

    def step(self, batch: StepBatch) -> torch.Tensor:
        self.how.append("recorded" if self.recording else "stepped")
        return torch.zeros(()) if self.recording else self.seen(batch)

    def seen(self, batch: StepBatch) -> torch.Tensor:
        query = 0 if batch.query is None else batch.query.sum()
        return batch.images.pixels.sum() + batch.images.labels.sum() + query


@pytest.fixture
def method(monkeypatch):
    """Torch's CUDA graphs, with a method's step in their place."""
    method = Summing()
    stream = SimpleNamespace(wait_stream=lambda other: None)

    class Graph:
        def replay(self):
            method.how.append("played")
            own.loss.copy_(method.seen(own.batch))

    @contextmanager
    def graph(made, pool, stream):
        method.recording = True
        yield
        method.recording = False

    monkeypatch.setattr(recorded, "_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    own = RecordedStep(method, 4)
    method.recorded_step = own
    return method


def batch(number: int, size: int = 4, query: bool = True) -> StepBatch:
    images = Images(
        torch.full((size, 3, 2, 2), number, dtype=torch.uint8), torch.full((size,), 7 * number)
    )
    asked = torch.full((size, 5), 0.5 * number) if query else None
    return StepBatch(images, asked, lambda images, query: torch.zeros(()), None)


@pytest.mark.parametrize("query", [True, False])
def test_every_batch_is_seen_as_it_is(method, query):
    sizes = [4] * (BEFORE + 3) + [3] + [4] * 2
    for number, size in enumerate(sizes):
        found = float(method.recorded_step(batch(number, size, query)))
        assert found == number * size * (12 + 7 + (2.5 if query else 0))


def test_one_step_is_recorded_and_others_of_its_size_are_played(method):
    for size in [4] * (BEFORE + 2) + [3, 4]:
        method.recorded_step(batch(1, size))
    first = ["stepped"] * BEFORE + ["recorded", "played"]
    assert method.how == [*first, "played", "stepped", "played"]


@pytest.mark.parametrize("name", [n for n in in_order() if METHODS[n].record.alike])
def test_a_method_of_steps_that_are_alike_draws_before_none(name):
    draws = METHODS[name].on_step is not Method.on_step
    assert not draws or name == "fm-lora"  # whose probe alone draws, and says so


def test_steps_of_the_rank_selector_are_not_alike(trainer, tiny_stream):
    method = trainer("fm-lora", tiny_stream()).method
    for index in (0, 1):
        method.task = SimpleNamespace(index=index, told_apart=2)
        alike = {stage.name: stage.alike for stage in method.stages(3)}
        assert alike == {"preliminary": False, "train": True}
