"""Runs on a Slurm cluster, as job arrays. What jobs and sweep share is the runs folder, no more.

A job is known by the note in its run's folder, so that a sweep which is asked for again, here or
on another machine, finds what is queued and running; and were a run given to two jobs, its claim
lets one train it. The note also says whose job it is: another user's, or another cluster's, is not
in the queue that is seen here.
"""

import getpass
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fmlora_lab import progress
from fmlora_lab.backbone.device import pick_device, resolved
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.files import write_atomically
from fmlora_lab.runs.folder import RunFolder, runs_root
from fmlora_lab.runs.job import ERROR, NOTE
from fmlora_lab.runs.launch import Launcher, followed
from fmlora_lab.runs.own import modules_to_import
from fmlora_lab.runs.watch import State
from fmlora_lab.runs.workers import LOG, last_line

SUBMISSIONS = ".slurm"
"""In the runs folder: what is written for each submission."""
EVERY = 10.0
"""Seconds from one look at the queue to the next."""
ARRAY = 1000
"""Jobs of one array at most; a site's MaxArraySize is 1001 where it says nothing."""
FOREIGN = 24 * 3600.0
"""Seconds for which a run is left to the other user, or cluster, that it was given to."""
IN_VAIN = 3
"""How often a run is given to a job again that got no epoch further, until it counts as failed."""
OPTIONS: dict[str, Any] = {
    "job-name": "fmlora",
    "requeue": True,
    "open-mode": "append",
    "signal": "B:USR2@90",
}
"""Of sbatch, where nobody says otherwise: 90 s before its time is over a job is told so."""


def slurm(options: Mapping[str, Any] | None = None, retry: int = 0) -> Launcher:
    """Job arrays of a run a job. `options` are sbatch's own, by their long names: `partition`,
    `account`, `time`, `gpus`, `cpus-per-task`, `mem`, `constraint` and whatever else; True stands
    for one without a value, False for none, and `array` is `%N` alone, N jobs at once. "auto" is
    the type that it comes to on this machine, on which runs get their names.

    An interrupted sweep leaves its jobs be; asked for again, it finds them. Jobs that ran out of
    time, were preempted or lost their node are given to Slurm again and go on from their last
    checkpoint; a run that fails by itself, up to `retry` times. Where Slurm takes no more jobs for
    now, shorter arrays are tried, and those left are given to it later. What another user, or
    cluster, was given within the last day is theirs. BadInput where there is no sbatch, or it takes
    none, and for `clusters`.
    """
    for tool in ("sbatch", "squeue"):
        if shutil.which(tool) is None:
            raise BadInput(f"on is 'slurm', and this machine has no {tool}; it needs Slurm's tools")
    return followed(lambda new, runs_dir: Jobs(new, runs_dir, options or {}, retry))


class Silent(Exception):
    """Slurm does not answer, for a reason that it says."""


class Refused(Exception):
    """Slurm takes no more jobs, for a reason that it says."""


class Jobs:
    """Runs that a cluster computes. BadInput where none answers at first."""

    def __init__(
        self,
        new: Mapping[str, RunConfig],
        runs_dir: Path | str | None,
        options: Mapping[str, Any],
        retry: int,
    ):
        self.new = {name: _as_named(config) for name, config in new.items()}
        self.root, self.retry = runs_root(runs_dir).absolute(), retry
        self.options, self.throttle = {**OPTIONS, **options}, str(options.get("array") or "")
        if not re.fullmatch(r"(%[1-9]\d*)?", self.throttle):
            raise BadInput(
                f"array is {self.throttle!r}; allowed: %N, how many jobs run at once, such as %8"
            )
        for key in ("clusters", "cluster", "M"):
            if elsewhere := self.options.get(key):
                raise BadInput(
                    f"{key} is {elsewhere!r}, and a sweep sees one cluster's queue, its machine's; "
                    "allowed: none, on a machine of the cluster that is meant"
                )
        self.user = _user()
        self.cluster, largest = _site()
        self.array = self.length = min(ARRAY, largest)  # at most, and for now
        self.modules = modules_to_import(new.values(), by_script=False)
        self.states = {name: State() for name in new}
        self.known: set[str] = set()  # jobs that this sweep has seen, whoever's
        self.own: dict[str, str] = {}  # the last of this user's, by run
        self.tried, self.in_vain = Counter[str](), Counter[str]()
        self.at: dict[str, int] = {}
        self.put_off: list[str] = []
        self.in_wait = 0  # looks, one after another, at which no job was there and none was taken
        try:
            self._look()
        except Silent as why:
            raise BadInput(f"on is 'slurm', and no cluster answers: {why}") from why

    def __enter__(self) -> "Jobs":
        return self

    def __exit__(self, *error: object) -> None:
        left = [name for name, s in self.states.items() if s.what in ("queued", "running")]
        if left := len({*left} - {*self.put_off}):
            progress.say(f"{left} runs stay with Slurm; the same sweep finds them again")
        self._clean()

    def wait(self) -> None:
        time.sleep(EVERY)
        try:
            self._look()
        except Silent as why:  # its controller is away for a moment
            progress.once(str(why))

    def skip(self, name: str) -> None:
        if self.states[name].what not in ("queued", "running"):
            return
        self.states[name] = State("skipped", self.states[name].said)
        if name in self.own:
            subprocess.run(["scancel", self.own[name]], capture_output=True)

    def _look(self) -> None:
        queue = _queue()
        going = [name for name, s in self.states.items() if s.what in ("queued", "running")]
        lost = [name for name in going if not self._noted(name, queue)]
        lost = [name for name in lost if not self._given_up(name)]
        while lost:
            array = lost[: self.length]
            try:
                self._submit(array)
            except Refused as why:
                if len(array) == 1:
                    self._wait_for_others(lost, str(why))
                    break
                self.length = len(array) // 2  # one that is over a limit is refused whole
            else:
                lost, self.length = lost[len(array) :], min(self.array, 2 * self.length)
        else:
            self.in_wait = 0
        self.put_off = lost

    def _wait_for_others(self, lost: list[str], why: str) -> None:
        """Leave runs to the next look. BadInput where there is nothing to wait for."""
        for name in lost:
            self.states[name] = State("queued", why)
            self.at.pop(name, None)  # it was not in vain
        others = [self.states[name] for name in {*self.own} - {*lost}]
        at_work = any(state.what in ("queued", "running") for state in others)
        self.in_wait = 0 if at_work else self.in_wait + 1
        if not at_work and (self.in_wait == IN_VAIN or not self.own):
            raise BadInput(why)
        progress.once(f"{why}; {len(lost)} runs are given to Slurm later")

    def _noted(self, name: str, queue: Mapping[str, tuple[str, str]]) -> bool:
        """Note where a run stands; False where nobody is to compute it."""
        folder = RunFolder(self.root, name)
        note = folder.read_json(NOTE) if folder.has(NOTE) else {}
        job, whose = note.get("job", ""), self._whose(note)
        own = self.own.get(name, "") if whose else job  # its note may be replaced
        if folder.complete:
            self.states[name] = State("done")
            return True
        if own in queue:
            what, why = queue[own]
            begun = what in ("RUNNING", "COMPLETING")
            said = last_line(folder.path / LOG) if begun else why
            self.states[name] = State("running" if begun else "queued", said)
            self.known.add(own)
            self.own[name] = own
            return True
        failed = folder.read_json(ERROR) if folder.has(ERROR) else {}
        its = failed.get("job")
        if theirs := whose and its != job:
            self.known.add(job)
            self.at.pop(name, None)  # what ended was not this sweep's
        if its in self.known and its in (job, own):
            self.known.remove(its)  # counted once
            progress.say(f"run {name} failed: {failed['error']}; log {folder.path / LOG}")
            self.tried[name] += 1
            if self.tried[name] <= self.retry:
                self.at.pop(name, None)  # it is not in vain
                return False
            self.states[name] = State("failed", failed["error"])
        elif folder.lock().taken():
            self.states[name] = State("running", last_line(folder.path / LOG))
        elif theirs and time.time() - (folder.path / NOTE).stat().st_mtime < FOREIGN:
            self.states[name] = State("queued", f"given to Slurm by {whose}")
        else:
            return False
        return True

    def _whose(self, note: Mapping[str, str]) -> str:
        """The user whose job a note is of, and the cluster; nothing where the queue would have it.
        Notes of before said neither."""
        user, cluster = note.get("user", self.user), note.get("cluster")
        elsewhere = self.cluster and cluster and cluster != self.cluster
        where = f" on {cluster}" if elsewhere else ""
        return f"{user}{where}" if where or user != self.user else ""

    def _given_up(self, name: str) -> bool:
        """Whether a run gets no further; else note how far it is now."""
        folder = RunFolder(self.root, name)
        checkpoint = folder.path / "checkpoint.safetensors"
        at = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        self.in_vain[name] = self.in_vain[name] + 1 if self.at.get(name) == at else 0
        self.at[name] = at
        if self.in_vain[name] < IN_VAIN:
            return False
        note = folder.read_json(NOTE) if folder.has(NOTE) else {}
        said = Path(note.get("output", ""))
        last = last_line(said)  # Slurm's own words, or Python's before the run began
        last = f"{last} (in {said})" if last else last_line(folder.path / LOG)
        why = f"{IN_VAIN} jobs ended without an epoch stored" + (f": {last}" if last else "")
        self.states[name] = State("failed", why)
        progress.say(f"run {name} failed: {why}; log {folder.path / LOG}")
        return True

    def _submit(self, names: list[str]) -> None:
        """Give runs to Slurm as one array, and note with each its job."""
        place = self.root / SUBMISSIONS / uuid.uuid4().hex[:12]
        runs = [{"run": name, "config": self.new[name].model_dump_json()} for name in names]
        path = [os.path.abspath(own) for own in sys.path]  # where those modules are found
        job = {"root": str(self.root), "modules": self.modules, "path": path, "runs": runs}
        listed = json.dumps(job)
        command = shlex.join(
            [sys.executable, "-P", "-m", "fmlora_lab.runs.job", str(place / "runs.json")]
        )
        files = {"runs.json": listed, "job.sh": f"#!/bin/sh\nexec {command}\n"}
        for name, text in files.items():
            write_atomically(place / name, lambda file, text=text: file.write(text.encode()))
        array = f"0-{len(names) - 1}{self.throttle}"
        options = {"output": place / "%a.txt", **self.options, "array": array}
        words = [
            f"--{key}" if value is True else f"--{key}={value}"
            for key, value in options.items()
            if value is not False and value is not None
        ]
        asked = ["sbatch", "--parsable", *words, str(place / "job.sh")]
        done = subprocess.run(asked, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(place)
            raise Refused(f"sbatch refused: {done.stderr.strip()}")
        array, _, cluster = done.stdout.strip().partition(";")  # a federation names its cluster too
        for k, name in enumerate(names):
            note = {"job": f"{array}_{k}", "user": self.user, "cluster": cluster or self.cluster}
            if "output" not in self.options:
                note["output"] = str(place / f"{k}.txt")
            RunFolder(self.root, name).write_json(NOTE, note)
            self.known.add(note["job"])
            self.own[name] = note["job"]
            self.states[name] = State("queued")
        progress.say(f"job array {array}: {len(names)} runs given to Slurm")

    def _clean(self) -> None:
        """Remove what was written for submissions, whoever's, of which every run is done: a job of
        one that is not may begin yet, and what it said when it failed is of use."""
        for listed in (self.root / SUBMISSIONS).glob("*/runs.json"):
            with suppress(FileNotFoundError):  # another sweep removes it
                runs = json.loads(listed.read_text("utf-8"))["runs"]
                if all(RunFolder(self.root, own["run"]).complete for own in runs):
                    shutil.rmtree(listed.parent, ignore_errors=True)


def _as_named(config: RunConfig) -> RunConfig:
    """Of the type after which it is named here: a node's "auto" may be another."""
    if config.training.precision != "auto":
        return config
    kind = resolved("auto", pick_device())
    if kind == "float32":
        progress.once(
            "training.precision is 'auto', which is float32 on this machine and so in every job; "
            "'bfloat16' is quicker on nodes that have it"
        )
    training = config.training.model_copy(update={"precision": kind})
    return config.model_copy(update={"training": training})


def _user() -> str:
    """The user's name, or number where a container has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _site() -> tuple[str, int]:
    """The cluster's name, and the jobs that an array may have there; none, and as many as the lab
    asks for, where Slurm does not say."""
    said = ""
    with suppress(FileNotFoundError):
        asked = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True)
        said = asked.stdout
    cluster = re.search(r"ClusterName\s*=\s*(\S+)", said)
    largest = re.search(r"MaxArraySize\s*=\s*(\d+)", said)
    return cluster[1] if cluster else "", max(1, int(largest[1]) - 1) if largest else ARRAY


def told() -> dict[str, Any]:
    """Options that $FMLORA_SLURM has. BadInput where it is no JSON object."""
    given = os.environ.get("FMLORA_SLURM", "{}")
    try:
        return {**json.loads(given)}
    except (ValueError, TypeError) as error:
        raise BadInput(f"FMLORA_SLURM is {given!r}; allowed: a JSON object of options") from error


def _queue() -> dict[str, tuple[str, str]]:
    """State and reason of every job of one's own that is not over. Silent where Slurm is."""
    asked = ["squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r"]
    done = subprocess.run(asked, capture_output=True, text=True)
    if done.returncode:
        raise Silent(f"squeue: {done.stderr.strip()}")
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {job: (what, why) for job, what, why in rows}
