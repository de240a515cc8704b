"""A run that is asked to stop does so where it can go on from: when an epoch's state is stored; and
a process ends with what it works for."""

import os
import signal
from collections.abc import Callable
from threading import Thread
from typing import Any

_asked: dict[str, int | None] = {"by": None}


class AskedToStop(Exception):
    """A run stopped since it was asked to; what it has learned is stored."""


def heed(*numbers: int) -> None:
    """From now on these signals ask whatever run this process computes to stop."""
    for number in numbers:
        signal.signal(number, _note)


def _note(number: int, frame: Any) -> None:
    _asked["by"] = number


def asked() -> int | None:
    """The signal that asked for it, if one did."""
    return _asked["by"]


def stop_if_asked() -> None:
    """AskedToStop if that was asked for; called where everything is stored."""
    if asked() is not None:
        raise AskedToStop


def end_after(wait: Callable[[], object]) -> None:
    """End this process when `wait` returns, as if killed, which no run minds."""

    def end() -> None:
        wait()
        os._exit(1)

    Thread(target=end, daemon=True).start()
