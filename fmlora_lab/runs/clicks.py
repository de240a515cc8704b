"""Buttons that answer while a cell is at work.

A cell keeps its kernel's main thread, where messages of controls wait for its end; that a front
end sends them beside it (a subshell) does not help, since ipykernel 7.4 answers a control in the
shell of the cell that made it. But all of them pass the thread that reads the shell's channel.
There they are looked at, and what a click does is done; other messages go their way.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ipywidgets import Button

Clicked = dict[str, Callable[[], None]]
"""What a click on a button does, by the button's `key`."""


def key(button: Button) -> str:
    """How messages name a button."""
    return "" if button.comm is None else button.comm.comm_id


def reach() -> bool:
    """Whether clicks reach a cell that is at work here: not in kernels of ipykernel before 7, nor
    in those of others."""
    return _kernel() is not None


@contextmanager
def heard(clicked: Clicked) -> Iterator[None]:
    """While a cell is in here, a click on a button is answered by what `clicked` has for it then;
    nothing where clicks do not reach a cell."""
    if (kernel := _kernel()) is None:
        yield
        return
    goes_on, loop = kernel.shell_channel_thread_main, kernel.shell_channel_thread.io_loop

    def pass_on(frames: list[Any]) -> Any:
        act = clicked.get(_button_of(kernel.session, frames))
        return goes_on(frames) if act is None else act()

    def read_by(reader: Callable[[list[Any]], Any]) -> None:
        loop.add_callback(kernel.shell_stream.on_recv, reader, copy=False)

    read_by(pass_on)
    try:
        yield
    finally:
        read_by(goes_on)


def _kernel() -> Any:
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return kernel if getattr(kernel, "shell_channel_thread", None) else None


def _button_of(session: Any, frames: list[Any]) -> str:
    """The button that a message is a click on; an empty string for any other message."""
    try:
        _, parts = session.feed_identities(frames, copy=False)
        message = session.deserialize(parts, content=False, copy=False)
        if message["header"]["msg_type"] != "comm_msg":
            return ""
        content = json.loads(message["content"])
    except (ValueError, TypeError):  # which the kernel says of it
        return ""
    data = content.get("data", {})
    event = data.get("content", {}) if data.get("method") == "custom" else {}
    return content["comm_id"] if event.get("event") == "click" else ""
