"""Many runs: one after another in this process, or shared out to worker processes."""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from fmlora_lab.config import RunConfig
from fmlora_lab.runs.run import run
from fmlora_lab.runs.store import Run


def sweep(
    configs: Iterable[RunConfig],
    runs_dir: Path | str | None = None,
    workers: int = 1,
    use_shipped: bool = False,
) -> list[Run]:
    """The runs of all configurations, in their order; stored ones are loaded, with
    `use_shipped` those too that came with the lab.

    With `workers` above 1, processes share the work; on a CPU more than one a core gets in the
    others' way. What is done stays done if the sweep is interrupted.
    """
    configs, one = list(configs), partial(run, runs_dir=runs_dir, use_shipped=use_shipped)
    with tqdm(desc="runs", total=len(configs), unit="run") as bar:
        if workers == 1:
            found = map(one, configs)
            return [_count(stored, bar) for stored in found]
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            return [_count(stored, bar) for stored in pool.map(one, configs)]


def _count(stored: Run, bar: tqdm) -> Run:
    bar.update()
    return stored
