"""Someone at a notebook's kernel, played by its client: cells, the controls they show, clicks."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

PATIENCE = 600
"""Seconds until a kernel that says nothing is an error."""


@dataclass
class Cell:
    """What came of a cell: what it printed, what it said on stderr, the text that is left of its
    displays, the lines of its error, when it was over."""

    printed: str = ""
    said: str = ""
    left: str = ""
    error: list[str] = field(default_factory=list)
    ended: float = 0.0


class Person:
    """`controls` has the state of every widget by the name of its comm, as a front end would."""

    def __init__(self, client: BlockingKernelClient):
        self.client = client
        self.controls: dict[str, dict[str, Any]] = {}

    def run(self, code: str, watch: Callable[[], object] = lambda: None) -> Cell:
        """Run a cell to its end; `watch` is called after each message of the kernel."""
        own, cell = self.client.execute(code), Cell()
        while not cell.ended:
            message = self._hear()
            content, of = message["content"], message["parent_header"].get("msg_id")
            match message["msg_type"]:
                case "comm_open":
                    self.controls[content["comm_id"]] = content["data"].get("state", {})
                case "comm_msg" if content["data"].get("method") == "update":
                    self.controls[content["comm_id"]] |= content["data"]["state"]
                case "comm_close":
                    self.controls.pop(content["comm_id"], None)
                case "stream" if content["name"] == "stdout":
                    cell.printed += content["text"]
                case "stream":
                    cell.said += content["text"]
                case "display_data" | "update_display_data":
                    cell.left = content["data"].get("text/plain", "")
                case "error":
                    cell.error = content["traceback"]
                case "status" if content["execution_state"] == "idle" and of == own:
                    cell.ended = time.time()
            watch()
        return cell

    def button(self, words: str) -> str | None:
        """A button whose description begins so, if there is one."""
        for name, state in self.controls.items():
            if str(state.get("description", "")).startswith(words):
                return name
        return None

    def page(self) -> str:
        """All HTML that the controls show."""
        return "".join(str(c["value"]) for c in self.controls.values() if c.get("value"))

    def click(self, button: str, subshell: str | None = None) -> float:
        """Press a button as a front end does, which may speak to a subshell; when that was."""
        session = self.client.session
        data = {"method": "custom", "content": {"event": "click"}}
        message = session.msg("comm_msg", {"comm_id": button, "data": data})
        message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)
        return time.time()

    def subshell(self) -> str:
        """Begin a subshell of the kernel."""
        message = self.client.session.msg("create_subshell_request")
        self.client.control_channel.send(message)
        reply = self.client.control_channel.get_msg(timeout=PATIENCE)
        return reply["content"]["subshell_id"]

    def _hear(self) -> dict[str, Any]:
        try:
            return self.client.get_iopub_msg(timeout=PATIENCE)
        except Empty:
            raise RuntimeError("the kernel says nothing any more") from None


@contextmanager
def kernel() -> Iterator[Person]:
    """A kernel of this Python's, until the block ends."""
    manager = KernelManager()
    assert manager.kernel_spec is not None  # a requirement of the lab
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager.kernel_spec.argv = command
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        yield Person(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
