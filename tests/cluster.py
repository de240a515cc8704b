"""A Slurm of one's own on this machine: two nodes by name, on loopback, gone with its folder."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
NODES = ("one", "two")

CONFIGURATION = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=2
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs={cpus}
PartitionName=lab Nodes={nodes} Default=YES
"""


def missing() -> list[str]:
    """Of what is needed, what is not installed."""
    return [tool for tool in TOOLS if shutil.which(tool, path=_path()) is None]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@contextmanager
def cluster(root: Path) -> Iterator[dict[str, str]]:
    """The cluster while the block lasts; its environment, for Slurm's commands."""
    ports = [_port() for _ in range(1 + len(NODES))]
    for folder in ("state", *NODES):
        (root / folder).mkdir(parents=True)
    text = CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0],
        user=getpass.getuser(),
        root=root,
        port=ports[0],
        ports=",".join(map(str, ports[1:])),
        nodes=",".join(NODES),
        cpus=os.cpu_count(),
    )
    (root / "slurm.conf").write_text(text)
    (root / "key").write_bytes(os.urandom(128))
    (root / "key").chmod(0o600)
    environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(root / "slurm.conf")}
    munge = {"socket": "munge.socket", "key-file": "key", "pid-file": "munged.pid"}
    munge |= {"log-file": "munged.log", "seed-file": "seed"}
    with ExitStack() as stack, open(root / "said.txt", "w") as said:

        def begin(*command: str) -> None:
            process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
            stack.callback(process.wait)
            stack.callback(process.terminate)

        begin("munged", "--foreground", "--force", *(f"--{k}={root / v}" for k, v in munge.items()))
        _until(lambda: (root / "munge.socket").exists())
        begin("slurmctld", "-D")
        for node in NODES:
            begin("slurmd", "-D", "-N", node)
        _until(lambda: _said(environment, "sinfo", "-h", "-o", "%D %t") == "2 idle\n")
        yield environment
        _said(environment, "scancel", "--full", "--signal=KILL", "--me")
        _until(lambda: not _said(environment, "squeue", "--noheader"))


def _until(true) -> None:
    while not true():
        time.sleep(0.2)  # leaves the processor to what is waited for


def _said(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
