"""Someone at a notebook, played by headless Chromium: for measurements, screenshots and tests.

Needs Playwright (`pip install 'fmlora-lab[browser]'`) and a Chromium or Chrome on the PATH.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fmlora_lab.config import BadInput

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, ViewportSize

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SIZE: "ViewportSize" = {"width": 1280, "height": 1000}
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
"""A browser that speaks to the notebook's server alone."""
PATIENCE = 120
"""Seconds until a page that does not come is an error."""


def found() -> str | None:
    """Where a browser is, if there is one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def chromium(errors: list[str]) -> "Iterator[Page]":
    """A page; what goes wrong on it is added to `errors`. BadInput if there is no browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise BadInput("Playwright is missing: pip install 'fmlora-lab[browser]'") from None
    if (executable := found()) is None:
        raise BadInput(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    root = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable, args=[*QUIET, *root])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(1000 * PATIENCE)
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        browser.close()


@contextmanager
def serving(*command: str, ready: str) -> Iterator[Callable[[str], str]]:
    """Run a notebook server that this machine alone can reach, until the block ends.

    `{port}` and `{token}` in the command are filled in; gives a function from a page's path to
    its address. The server is there when it answers at the path `ready`. The user's settings of
    Jupyter are neither read nor changed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    token = secrets.token_hex(16)
    command = tuple(c.replace("{port}", port).replace("{token}", token) for c in command)
    with tempfile.TemporaryDirectory() as home:
        own = dict.fromkeys(("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"), home)
        log = Path(home, "server.log")
        with log.open("w") as out:
            server = subprocess.Popen(
                command,
                env={**os.environ, **own},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that what the command starts ends with it
            )

        def address(path: str) -> str:
            return f"http://127.0.0.1:{port}/{path}?token={token}"

        try:
            _wait_for(address(ready), server, log)
            yield address
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def lab(folder: Path | str) -> AbstractContextManager[Callable[[str], str]]:
    """JupyterLab over a folder, as `serving` gives it."""
    command = (sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", str(folder))
    own = ("--ServerApp.port={port}", "--IdentityProvider.token={token}")
    return serving(*command, *own, ready="api/status")


def open_notebook(page: "Page", address: str) -> None:
    """Open a notebook alone in JupyterLab and wait until its kernel has nothing to do.

    The status bar knows; a notebook's own indicator is idle before there is a kernel.
    """
    page.goto(f"{address}&reset")
    page.locator(".jp-StatusBar-TextItem", has_text="| Idle").wait_for()


def run_all(page: "Page") -> None:
    """Choose Run > Run All Cells."""
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()


def place(slider: "Locator") -> tuple[float, float, float]:
    """A slider's lowest value, its value, its highest value."""

    def value(end: str) -> float:
        text = slider.get_attribute(f"aria-value{end}")
        assert text is not None, "a slider states its values"
        return float(text)

    return value("min"), value("now"), value("max")


def nudge(slider: "Locator") -> None:
    """Move a slider's handle by a step with the keyboard, to where there is room."""
    low, now, _ = place(slider)
    slider.press("ArrowLeft" if now > low else "ArrowRight")


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    """Until the server answers; RuntimeError with its own words where it does not."""
    for _ in range(10 * PATIENCE):
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.1)
    raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
