"""One writer a run: a claim is a file that says who it is, and that goes when it is done.

Locks of the system are not kept by every network file system. What all of them keep is that of
several processes that link a file to one name exactly one has it, and that is all this needs.

A claim says host, process and a word of its own; while the process lives, it renews the file's
time every `HEARTBEAT` seconds. A claim is void when its process is gone or, since a process of
another host cannot be seen, when it was not renewed for `VOID_AFTER` seconds, by the clock of the
file server alone. Who takes over links a claim of its own to `claim.WORD`, after the word of the
void one, and again exactly one can. So the claims of a run are a chain from `claim` on, and the
last of them holds it.
"""

import errno
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple, Self

from fmlora_lab.config import BadInput
from fmlora_lab.files import TEMPORARY, make_folder

HEARTBEAT = 15.0
"""Seconds from one renewal of a claim to the next."""
VOID_AFTER = 180.0
"""Seconds without a renewal after which a claim of another host is void."""
LOOK = 0.5
"""Seconds from one look at another's claim to the next."""
SAYS = {"host": str, "process": int, "began": str, "word": str}
"""What a claim says."""


class Lost(BadInput):
    """A claim that another has taken over, since this process showed no sign of life for long."""


class Link(NamedTuple):
    """One claim of a chain."""

    path: Path
    says: dict[str, Any]


class Claim:
    """The right to write what is beside the file at `path`; for a `with` when it was acquired."""

    def __init__(self, path: Path):
        self.path = path
        self.chain: list[Link] = []  # up to this process's own, while it has it
        self.ended = threading.Event()
        self.folder_goes = False  # a user's own empty folder stays

    def acquire(self, timeout: float | None = None) -> Self:
        """Take the claim, waiting for up to `timeout` seconds, for as long as it takes by default.
        TimeoutError where another process has it."""
        make_folder(self.path.parent.parent)  # which is named then, if a file is in its place
        until = None if timeout is None else time.monotonic() + timeout
        while not self._take():
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"{self.path} is another process's")
            time.sleep(LOOK)
        self.ended = threading.Event()
        threading.Thread(target=self._live, args=(self.ended,), daemon=True).start()
        return self

    def release(self) -> None:
        """Give it back; nothing where it was not taken."""
        self.ended.set()
        if self.chain and self._held():
            for link in self.chain:  # from the first: see `_take`
                link.path.unlink(missing_ok=True)
        self.chain = []
        if self.folder_goes:
            with suppress(OSError):
                self.path.parent.rmdir()  # where nothing was written

    def check(self) -> None:
        """Lost where another process has it by now."""
        if not self._held():
            raise Lost(
                f"{self.path} was taken over by another process, which goes on with the run; this "
                f"one gave no sign of life for {VOID_AFTER:.0f} s"
            )

    def taken(self) -> bool:
        """Whether a living process has it."""
        chain = _chain(self.path)
        return bool(chain) and not void(chain[-1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _held(self) -> bool:
        return bool(self.chain) and _chain(self.path) == self.chain

    def _take(self) -> bool:
        chain = _chain(self.path)
        if chain and not void(chain[-1]):
            return False
        own = {"host": host(), "process": os.getpid(), "began": began(os.getpid())}
        own["word"] = uuid.uuid4().hex
        place = _after(chain[-1]) if chain else self.path
        self.folder_goes |= bool(chain) or not self.path.parent.is_dir()
        make_folder(self.path.parent)
        # The name, or the folder, went to another process meanwhile: then it is not ours.
        with (
            suppress(FileExistsError, FileNotFoundError),
            NamedTemporaryFile("w", prefix=TEMPORARY, dir=self.path.parent) as file,
        ):
            file.write(json.dumps(own))
            file.flush()
            os.fsync(file.fileno())  # nobody sees half of it, on another machine neither
            _link(file.name, place)
            self.chain = [*chain, Link(place, own)]
        # Who releases a claim takes `claim` away first, and no word comes twice: where the chain
        # still leads here, nobody had it between a look at it and the link.
        if self.chain and not self._held():
            place.unlink(missing_ok=True)
            self.chain = []
        return bool(self.chain)

    def _live(self, ended: threading.Event) -> None:
        path = self.chain[-1].path
        while not ended.wait(HEARTBEAT):
            with suppress(OSError):  # a server that is away for a while
                os.utime(path)


def _link(content: str, place: Path) -> None:
    """BadInput where the file system has no links, without which one could be seen half made."""
    try:
        os.link(content, place)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise BadInput(
                f"{place.parent} lies on a file system without hard links, by which processes keep "
                "out of each other's runs; allowed: --runs-dir or $FMLORA_RUNS on another one"
            ) from error
        raise


def _chain(path: Path) -> list[Link]:
    """The claims on a run, the one that holds it last."""
    found: list[Link] = []
    while True:
        try:
            found.append(Link(path, _said(path)))
        except (FileNotFoundError, NotADirectoryError):
            return found
        path = _after(found[-1])


def _said(path: Path) -> dict[str, Any]:
    """What a claim says. None is seen half written: one that says something else was damaged, or
    copied without its end, and is nobody's; the word after which it is taken over is made of what
    is there."""
    content = path.read_bytes()
    with suppress(ValueError):
        says = json.loads(content)
        if isinstance(says, dict) and {k: type(value) for k, value in says.items()} == SAYS:
            return says
    return {"word": hashlib.sha256(path.name.encode() + content).hexdigest()[:32]}


def _after(link: Link) -> Path:
    first = link.path.name.partition(".")[0]
    return link.path.with_name(f"{first}.{link.says['word']}")


def void(link: Link) -> bool:
    """Whether whoever made a claim is gone."""
    says = link.says
    if "host" not in says:
        return True
    if says["host"] == host():
        return began(says["process"]) != says["began"]
    with (
        suppress(FileNotFoundError),  # it was released just now
        NamedTemporaryFile(prefix=TEMPORARY, dir=link.path.parent) as new,
    ):
        now = os.stat(new.name).st_mtime  # as the file's server has it
        return now - link.path.stat().st_mtime > VOID_AFTER
    return False


def host() -> str:
    """Of processes that see one another: containers may have one name."""
    with suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def began(process: int) -> str | None:
    """When a process of this host began, which tells it from a later one of its number; "" where
    the system does not say, None if there is none that lives."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        if os.path.exists("/proc/self/stat"):
            return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
