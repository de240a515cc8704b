"""How many threads compute, and how long they wait awake: a machine may have other work to do.

Between two pieces of work OpenMP's threads wait in a loop, in libgomp (torch's on Linux) for some
milliseconds. Beside another process they hold the core that the other needs: of two runs at once
on two cores each takes thirty times as long. libgomp and libiomp read how long once, when they are
loaded, so that it has to be said before torch is first imported; whatever process this one starts
inherits it. Nothing here changes what the user has set.

Nothing here imports torch before it is needed.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SPIN = {"GOMP_SPINCOUNT": "1600", "KMP_BLOCKTIME": "1"}
"""Turns of libgomp's loop, some hundredths of a millisecond: with fewer, a step of a small network
alone takes twice as long; with more, two at once do. And the milliseconds of libiomp's and of
libomp's, which give way to others in their loop; 0 would send them to sleep after every piece."""

WORK = 200_000_000
"""Multiply-adds of a batch's forward pass that pay for a thread. A training step of the lab's small
ViT takes 5 ms whatever the batch, and 17 ms more for each 200 million, on one core of an EPYC."""

SPINNING_WORK = 50 * WORK
"""The same where torch was there before the lab, and its threads wait as long as ever: what they
wait is little beside such work."""

_state = {"spins": False, "ours": 0}


def bound_spin() -> None:
    """Have OpenMP's threads sleep soon; called when the package is first imported."""
    if "OMP_WAIT_POLICY" in os.environ:
        return
    _state["spins"] = "torch" in sys.modules and "GOMP_SPINCOUNT" not in os.environ
    for name, value in SPIN.items():
        os.environ.setdefault(name, value)


def of_user() -> bool:
    """Whether the user has set the number of threads, in the environment or in torch.

    What torch has by itself is known on Linux; elsewhere the environment alone tells.
    """
    import torch

    if {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys():
        return True
    unset = _unset()
    return bool(unset) and torch.get_num_threads() not in {_state["ours"], *unset}


def use(count: int) -> None:
    """Let torch have no more than `count` threads, unless the user has set how many."""
    import torch

    if not of_user():
        _state["ours"] = min(count, torch.get_num_threads())
        torch.set_num_threads(_state["ours"])


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """`use`, until the block ends."""
    import torch

    before, ours = torch.get_num_threads(), _state["ours"]
    use(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
        _state["ours"] = ours


def paying(multiply_adds: float) -> int:
    """The number of threads that pays for a batch whose forward pass has so many multiply-adds."""
    least = SPINNING_WORK if _state["spins"] else WORK
    return max(1, min(int(multiply_adds / least), int(_quota())))


def cores() -> int:
    """Those that this process may use: of a machine's, what a cluster's job or a container has."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, int(_quota())))


def _unset() -> set[int]:
    """What torch has by itself: as many as the processors that this process may use, or one for
    those that share a core. Empty where the system does not say."""
    if not hasattr(os, "sched_getaffinity"):
        return set()
    allowed, cores = os.sched_getaffinity(0), set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        with suppress(OSError):
            cores.add(siblings.read_text())
    return {len(allowed), len(cores)}


def _quota() -> float:
    """Processors' worth of time that a container has; infinite where it is not limited."""
    with suppress(OSError, ValueError):
        most, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1.0, float(most) / float(period))  # "max" is no number
    return sys.maxsize
