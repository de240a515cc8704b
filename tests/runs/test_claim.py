"""One writer a run, on any file system: a claim has one owner, and goes on to another when that one
is gone."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from fmlora_lab.config import BadInput
from fmlora_lab.runs import claim as claims
from fmlora_lab.runs.claim import VOID_AFTER, Claim, Lost
from fmlora_lab.runs.folder import RunFolder
from fmlora_lab.runs.stored import delete


@pytest.fixture
def claim(tmp_path):
    return Claim(tmp_path / "run" / "claim")


def say(claim, **changes):
    """A claim that another process made, as `changes` say."""
    own = {"host": "elsewhere", "process": 1, "began": "1", "word": "theirs"}
    claim.path.parent.mkdir(exist_ok=True)
    claim.path.write_text(json.dumps(own | changes))
    return claim.path


def renewed(path, seconds_ago):
    at = path.stat().st_mtime - seconds_ago
    os.utime(path, (at, at))


@pytest.mark.unit
def test_a_folder_that_was_there_stays_and_one_of_the_claims_goes(claim, tmp_path):
    (own := tmp_path / "own").mkdir()
    for one in (claim, Claim(own / "log.json.claim")):
        with one.acquire():
            assert one.path.parent.is_dir()
    assert [*tmp_path.iterdir()] == [own]


@pytest.mark.unit
def test_a_file_system_without_links_is_named(claim, monkeypatch):
    def link(*paths):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(BadInput, match="run lies on a file system without hard links"):
        claim.acquire()


@pytest.mark.unit
def test_who_has_it_has_it_alone_until_it_is_given_back(claim):
    other = Claim(claim.path)
    with claim.acquire(timeout=0):
        assert claim.taken() and other.taken()
        with pytest.raises(TimeoutError, match="claim is another process's"):
            other.acquire(timeout=0)
        claim.check()
    assert not other.taken() and not claim.path.parent.exists()  # nothing was written
    with other.acquire(timeout=0):
        assert other.taken()


DAMAGED = [
    b"",
    b"[]",
    b"3",
    b'{"host": "x',
    b'{"word": "theirs"}',
    b'{"host": 1, "process": "1", "began": "1", "word": 2}',
    b"\xff\xfe",
    b"\0" * 80,
]


@pytest.mark.unit
@pytest.mark.parametrize("content", DAMAGED)
@pytest.mark.parametrize("chain", ["damaged", "gone damaged", "damaged damaged"])
def test_a_damaged_claim_is_nobodys(claim, chain, content):
    gone = {"host": claims.host(), "process": os.getpid(), "began": "before", "word": "gone"}
    claim.path.parent.mkdir()
    for link in chain.split():
        before = claims._chain(claim.path)
        place = claims._after(before[-1]) if before else claim.path
        place.write_bytes(content if link == "damaged" else json.dumps(gone).encode())
    assert not claim.taken()
    with claim.acquire(timeout=0):
        claim.check()
        with pytest.raises(TimeoutError):
            Claim(claim.path).acquire(timeout=0)
    assert not claim.path.parent.exists()  # nothing is left of it


@pytest.mark.unit
@pytest.mark.parametrize("seconds", [VOID_AFTER - 5, VOID_AFTER + 5])
def test_a_claim_of_another_host_is_void_when_it_was_not_renewed_for_long(claim, seconds):
    renewed(say(claim), seconds)
    if seconds > VOID_AFTER:
        with claim.acquire(timeout=0):
            claim.check()
        assert not claim.path.parent.exists()  # nor what was void
    else:
        with pytest.raises(TimeoutError):
            claim.acquire(timeout=0)


@pytest.mark.unit
def test_the_clock_is_the_file_servers(claim, monkeypatch):
    """Ours may be an hour ahead."""
    say(claim)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    with pytest.raises(TimeoutError):
        claim.acquire(timeout=0)


@pytest.mark.unit
def test_a_process_of_this_host_is_known_by_its_number_and_beginning(claim):
    here = {"host": claims.host(), "process": os.getpid()}
    renewed(say(claim, **here, began=claims.began(os.getpid())), 10 * VOID_AFTER)
    with pytest.raises(TimeoutError):  # it lives, though it is slow
        claim.acquire(timeout=0)
    say(claim, **here, began="another")
    with claim.acquire(timeout=0):
        claim.check()


@pytest.mark.unit
def test_a_claim_is_renewed_while_it_is_held(claim, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT", 0.01)
    with claim.acquire():
        renewed(claim.path, 1000)
        before = claim.path.stat().st_mtime
        while claim.path.stat().st_mtime == before:
            pass


@pytest.mark.unit
def test_who_lost_it_writes_no_more_and_takes_nothing_away(tmp_path):
    """A process that stood still for long, on another host than the one that took over."""
    folder = RunFolder(tmp_path, "abc")
    with folder.alone():
        folder.write_json("config.json", {"of": "first"})
        mine = folder.path / "claim"
        mine.write_text(json.dumps(json.loads(mine.read_text()) | {"host": "elsewhere"}))
        renewed(mine, VOID_AFTER + 5)
        other = RunFolder(tmp_path, "abc")
        with other.alone():
            with pytest.raises(Lost, match="was taken over"):
                folder.write_json("config.json", {"of": "first, late"})
            other.write_json("config.json", {"of": "second"})
            folder.held.release()
            assert other.lock().taken()
    assert folder.read_json("config.json") == {"of": "second"}
    assert [file.name for file in folder.path.iterdir()] == ["config.json"]


@pytest.mark.unit
def test_between_a_look_and_the_link_another_may_have_had_it(claim, monkeypatch):
    """The void claim that was seen is taken over and given back before this process links."""
    renewed(say(claim), VOID_AFTER + 5)
    link, other = os.link, Claim(claim.path)

    def slow(source, place):
        monkeypatch.setattr(os, "link", link)
        with other.acquire(timeout=0):
            pass
        link(source, place)

    monkeypatch.setattr(os, "link", slow)
    with pytest.raises(TimeoutError):
        claim.acquire(timeout=0)
    with claim.acquire(timeout=0):
        assert claim.path.exists()


@pytest.mark.unit
def test_a_run_is_deleted_with_its_claim(tmp_path):
    folder = RunFolder(tmp_path, "abc")
    folder.write_json("config.json", {})
    with folder.lock().acquire(), pytest.raises(TimeoutError):
        RunFolder(tmp_path, "abc").lock().acquire(timeout=0)
    delete(folder)
    assert not list(tmp_path.iterdir())


CLAIMING = """
import os, sys
from pathlib import Path
from fmlora_lab.runs.claim import Claim

root = Path(sys.argv[1])
print("ready", flush=True)
for round in range(int(sys.argv[2])):
    sys.stdin.readline()
    claim = Claim(root / str(round) / "claim")
    try:
        claim.acquire(timeout=0)
    except TimeoutError:
        print("no", flush=True)
    else:
        print("yes", flush=True)
sys.stdin.readline()  # until all have tried
os.kill(os.getpid(), 9)
"""


def claiming(root, rounds):
    return subprocess.Popen(
        [sys.executable, "-c", CLAIMING, root, str(rounds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


@pytest.mark.process
def test_of_processes_that_claim_at_once_one_wins_and_when_they_are_killed_one_again(tmp_path):
    """The second four find what the first, which were killed, had left."""
    rounds = 30
    for _ in range(2):
        crew = [claiming(tmp_path, rounds) for _ in range(4)]
        assert {process.stdout.readline() for process in crew} == {"ready\n"}
        for _ in range(rounds):
            for process in crew:
                process.stdin.write("\n")
            answers = [process.stdout.readline() for process in crew]
            assert sorted(answers) == ["no\n"] * 3 + ["yes\n"]
        for process in crew:
            process.communicate("\n")
            assert process.returncode == -signal.SIGKILL
    assert all(not Claim(tmp_path / str(k) / "claim").taken() for k in range(rounds))


def test_a_full_disk_lets_a_run_go(tmp_path, monkeypatch):
    """It has no room for a claim, and a run that another process writes stays."""
    full = OSError(errno.ENOSPC, "No space left on device")
    for name in ("abc", "def"):
        RunFolder(tmp_path, name).write_json("config.json", {})
    held = RunFolder(tmp_path, "def").lock().acquire()

    def take(claim):
        raise full

    monkeypatch.setattr(Claim, "_take", take)
    delete(RunFolder(tmp_path, "abc"))
    assert [place.name for place in tmp_path.iterdir()] == ["def"]
    with pytest.raises(OSError, match="No space left"):
        delete(RunFolder(tmp_path, "def"))
    held.release()


def test_several_processes_delete_runs_of_one_folder(tmp_path, monkeypatch):
    """One clears up after the other: what is gone already is no failure."""
    for name in ("abc", "def"):
        RunFolder(tmp_path, name).write_json("config.json", {})
    remove = shutil.rmtree

    def twice(path, *more, **how):
        remove(path)
        remove(path, *more, **how)

    monkeypatch.setattr(shutil, "rmtree", twice)
    delete(RunFolder(tmp_path, "abc"))
    assert [place.name for place in tmp_path.iterdir()] == ["def"]
