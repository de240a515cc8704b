"""A training step as one recorded CUDA graph: its thousand kernels are queued by one call.

A step of a ViT is a thousand kernels and more, each queued by Python. A quick card waits for that
with a small tower, and with an adapted ViT-B too. After a few steps in the usual way the next one
is recorded, and from there on only its images are put in place and the record is played again.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from fmlora_lab.backbone.device import onto
from fmlora_lab.benchmarks.stream import Images
from fmlora_lab.methods.method import Method, StepBatch

BEFORE = 3
"""Steps in the usual way, in which the optimiser makes its state and libraries choose kernels."""
WORTH = 200
"""Steps of a stage from which on recording one pays: on an H100 it costs half a second and saves 4
ms a step of a small tower, 15 of a ViT-B."""


class RecordedStep:
    """`method.step` of batches of one size; others are stepped in the usual way.

    Records that share a `pool` of memory (`torch.cuda.graph_pool_handle`) compute in the same one,
    and one of them must live as long as any is made.
    """

    def __init__(self, method: Method, size: int, pool: Any = None):
        self.method, self.size, self.pool, self.before = method, size, pool, BEFORE
        self.stream = _stream()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batch: StepBatch
        self.loss: Tensor

    def __call__(self, batch: StepBatch) -> Tensor:
        """The step's mean loss, until the next step."""
        if len(batch.images) != self.size:
            return self.method.step(batch)
        if self.before:
            self.before -= 1
            return self._aside(batch)
        if self.graph is None:
            self.graph = self._record(batch)
        else:
            held = self.batch.images
            held.source.copy_(batch.images.pixels)
            held.labels.copy_(onto(held.labels.device, batch.images.labels))
            if self.batch.query is not None and batch.query is not None:
                self.batch.query.copy_(batch.query)
        self.graph.replay()
        return self.loss

    def _aside(self, batch: StepBatch) -> Tensor:
        """A step on the stream that will record: what backward passes remember of streams is then
        of that one."""
        usual = torch.cuda.current_stream()
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            loss = self.method.step(batch)
        usual.wait_stream(self.stream)
        return loss

    def _record(self, batch: StepBatch) -> torch.cuda.CUDAGraph:
        """A step's record, made without computing anything yet."""
        query = None if batch.query is None else batch.query.clone()
        pixels = batch.images.pixels.clone()
        images = Images(pixels, onto(pixels.device, batch.images.labels).clone())
        self.batch = StepBatch(images, query, batch.loss, batch.optimizer, batch.add_up)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            self.loss = self.method.step(self.batch)
        return graph


@cache
def _stream() -> Any:
    """On which all records of a process are made: memory that they share belongs to one."""
    return torch.cuda.Stream()
