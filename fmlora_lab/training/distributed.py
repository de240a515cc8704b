"""One run on several devices: processes that torchrun begins, of which each has a part of a batch.

What a run learns does not depend on how many there are. Random numbers are drawn for all images of
a batch, in every process alike, and each takes its part. The losses of the parts add up to the mean
over the batch, so gradients are added up, the loss among them, by one all-reduce a step. In passes
that learn nothing each process has some of the batches; the features found are put together once,
and statistics are made of them in every process alike, or sums are added up. The first process
keeps the run and says how it goes.
"""

import datetime
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fmlora_lab import progress, signals
from fmlora_lab.backbone.device import pick_device
from fmlora_lab.config import BadInput

PATIENCE = datetime.timedelta(days=7)
"""How long a process waits for another: torchrun ends all when one dies, and the first may have to
wait until it may write the run."""
CLOSING = "10"
"""Seconds that processes have to end after an interrupt."""
OF_TORCHRUN = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What it tells a process beside $WORLD_SIZE, which some clusters set by themselves."""
LAUNCHER = "FMLORA_LAUNCHER"
"""In the environment: the number of the process that began them."""

Told = TypeVar("Told")


class Ranks:
    """This process's place, `rank`, among the `size` that compute a run; alone by default."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        self.first = rank == 0
        self.sums = 0  # how often something was added up
        self.batch: int | None = None  # images of the batch whose loss is computed

    def part(self, n: int) -> slice:
        """This process's own of n images."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    @contextmanager
    def sharing(self, n: int) -> Iterator[tuple[slice, float]]:
        """While the loss of a batch of n images is computed: which of them are this process's, and
        what share of the mean they have. Where there are more processes than images, some go along
        with one whose share is nothing, so that all take part in every sum."""
        own, self.batch = self.part(n), n
        try:
            yield (own if own.stop > own.start else slice(0, 1)), (own.stop - own.start) / n
        finally:
            self.batch = None

    def whole(self, rows: Tensor) -> Tensor:
        """See `Method.whole`. Outside of `sharing` the images at hand are the batch."""
        return rows if self.batch is None or self.size == 1 else _Whole.apply(rows, self)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """The sum over the processes in the place of each tensor, in one all-reduce a type."""
        self.sums += 1
        if self.size == 1:
            return
        for kind in dict.fromkeys((tensor.device, tensor.dtype) for tensor in tensors):
            own = [tensor for tensor in tensors if (tensor.device, tensor.dtype) == kind]
            flat = torch.cat([tensor.reshape(-1) for tensor in own])
            dist.all_reduce(flat)
            for tensor, total in zip(own, flat.split([t.numel() for t in own]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def each(
        self, parts: Sequence[Tensor], width: int, found: Callable[[Tensor], Tensor]
    ) -> Iterator[Tensor]:
        """What `found` gives, (b, width), of each of these parts of some images, in their order."""
        if self.size == 1:
            yield from map(found, parts)
            return
        device = pick_device()
        every = [torch.zeros(len(part), width, device=device) for part in parts]
        for number in range(self.rank, len(parts), self.size):
            every[number] = found(parts[number])
        self.add_up(every)
        yield from every

    def told(self, what: Told | None = None) -> Told:
        """What the first process says, in every one."""
        said: list[Any] = [what]
        if self.size > 1:
            dist.broadcast_object_list(said, device=torch.device("cpu"))
        return said[0]

    def as_the_first(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The first process's tensors by name, of which each has its own: so that what differs in a
        last bit, on GPUs of two kinds, stays there."""
        shapes = self.told({name: (t.shape, t.dtype) for name, t in state.items()})
        device = pick_device()
        found = {}
        for name, (shape, kind) in shapes.items():
            found[name] = torch.empty(shape, dtype=kind, device=device)
            if self.first:
                found[name].copy_(state[name])
            dist.broadcast(found[name], 0)
        return found


class _Whole(torch.autograd.Function):
    """Each process's rows of a batch put together. The gradient of a row is the sum of what all
    processes' losses ask of it."""

    @staticmethod
    def forward(ctx, rows: Tensor, ranks: Ranks) -> Tensor:
        assert ranks.batch is not None
        ctx.ranks, ctx.own, ctx.rows = ranks, ranks.part(ranks.batch), rows.shape
        every = rows.new_zeros(ranks.batch, *rows.shape[1:])
        every[ctx.own] = rows[: ctx.own.stop - ctx.own.start]
        ranks.add_up([every])
        return every

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        total = gradient.clone()
        ctx.ranks.add_up([total])
        rows = total.new_zeros(ctx.rows)
        rows[: ctx.own.stop - ctx.own.start] = total[ctx.own]
        return rows, None


_joined = [Ranks()]


def ranks() -> Ranks:
    """This process's place among those of its run."""
    return _joined[0]


def join() -> Ranks:
    """Take this process's place among those that torchrun began, if it did: each has a GPU of its
    own, or they share a CPU. Those behind the first say nothing, and leave interrupts to it."""
    told = os.environ.get("WORLD_SIZE", "1")
    if not told.isdecimal():
        raise BadInput(f"$WORLD_SIZE is {told!r}; allowed: how many processes torchrun began")
    size = int(told)
    if size == 1 or dist.is_initialized():
        return ranks()
    needed = (*OF_TORCHRUN, "LOCAL_RANK") if pick_device().type == "cuda" else OF_TORCHRUN
    if lacking := [name for name in needed if name not in os.environ]:
        raise BadInput(
            f"$WORLD_SIZE is {size}, but torchrun's {', '.join(lacking)} is not set; unset it, or "
            "begin with `fmlora-lab run --devices N`"
        )
    launcher = int(os.environ.get(LAUNCHER, os.getppid()))
    signals.end_after(lambda: _gone(launcher))
    backend = "gloo"
    if pick_device().type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    _joined[0] = Ranks(dist.get_rank(), size)
    if not ranks().first:
        progress.quieten()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return ranks()


def _gone(launcher: int) -> None:
    """Returns when the process that began this one is killed: whoever did that wants the devices
    back."""
    while os.getppid() == launcher:
        time.sleep(1)


def leave() -> None:
    """The run is done."""
    if dist.is_initialized():
        dist.destroy_process_group()
        _joined[0] = Ranks()


def check(devices: int, batch_size: int) -> None:
    """BadInput for more devices than there are GPUs, or images in a batch."""
    if pick_device().type == "cuda" and devices > torch.cuda.device_count():
        have = torch.cuda.device_count()
        raise BadInput(f"devices is {devices}; allowed: at most this machine's GPUs, {have}")
    if devices > batch_size:
        raise BadInput(f"devices is {devices}; allowed: at most training.batch_size, {batch_size}")


def launch(devices: int, arguments: Sequence[str]) -> int:
    """Have torchrun begin `fmlora-lab` with these arguments on each of the devices; returns the
    exit code of the first, which speaks for all. What another says is shown if it fails."""
    logging.disable(logging.ERROR)  # torchrun's own words; a failure is told here
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", CLOSING)
    os.environ[LAUNCHER] = str(os.getpid())
    with TemporaryDirectory() as folder:
        others = {rank: Std.ALL for rank in range(1, devices)}
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id=f"fmlora-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(folder, redirects=others),
        )
        try:
            # -P: nothing of the folder in which it was begun takes a package's place
            elastic_launch(config, sys.executable)("-P", "-m", "fmlora_lab", *arguments)
        except SignalException as stopped:
            return 128 + stopped.sigval
        except ChildFailedError as error:
            return _told_of(error, devices, Path(folder))
        finally:
            logging.disable(logging.NOTSET)
    return 0


def _told_of(error: ChildFailedError, devices: int, logs: Path) -> int:
    """The exit code of processes of which some failed; the first has said why itself."""
    codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
    if codes.get(0, 0) in (0, 1):
        for rank in sorted(codes.keys() - {0}):
            print(f"process {rank + 1} of {devices} failed:", file=sys.stderr)
            for log in logs.rglob(f"{rank}/stderr.log"):
                print(log.read_text(errors="replace"), file=sys.stderr)
    code = codes.get(0) or next(iter(codes.values()))
    return code if code > 0 else 128 - code
