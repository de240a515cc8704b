"""What a Slurm job does: one run of the list that its submission wrote.

`python -m fmlora_lab.runs.job runs.json` in task k of an array computes the list's k-th run. It
heeds signals before torch is there, which takes seconds to import.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from fmlora_lab import signals

NOTE = "job.json"
"""In a run's folder: the last job it was given to, and whose it is. The sweep alone writes it."""
ERROR = "job-error.json"
"""In a run's folder: the last job that failed by itself, and why. The job alone writes it."""


def main(listed: Path) -> int:
    """Compute the run; returns the exit code.

    Asked to stop by SIGUSR2, which comes some time before the job's limit, it is queued again; by
    SIGTERM it ends, and whoever sent that, or the sweep that waits, queues it again. A run that
    another process computes is left to that one.
    """
    signals.heed(signal.SIGUSR2, signal.SIGTERM)
    job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    all_of_it = json.loads(listed.read_text("utf-8"))
    own = all_of_it["runs"][int(os.environ["SLURM_ARRAY_TASK_ID"])]
    # Last, so that no file beside a notebook takes a package's place.
    sys.path += [place for place in all_of_it.get("path", ()) if place not in sys.path]

    from fmlora_lab import threads
    from fmlora_lab.runs.claim import HEARTBEAT, VOID_AFTER
    from fmlora_lab.runs.folder import RunFolder
    from fmlora_lab.runs.workers import LOG, compute

    threads.use(int(os.environ.get("SLURM_CPUS_ON_NODE", 1)))
    folder = RunFolder(Path(all_of_it["root"]), own["run"])
    try:  # a node that is gone has left its claim
        with folder.lock().acquire(VOID_AFTER + HEARTBEAT):
            pass
    except TimeoutError:
        print(f"another process is computing run {folder.run_id}; left to it")
        return 0
    try:
        error = compute(own["config"], folder.root, folder.path / LOG, all_of_it["modules"])
    except signals.AskedToStop:
        if signals.asked() == signal.SIGUSR2:
            return subprocess.run(["scontrol", "requeue", job]).returncode
        return 0
    if error is not None:
        folder.write_json(ERROR, {"job": job, "error": error})
    return int(error is not None)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
