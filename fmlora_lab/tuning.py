"""The one procedure that chooses settings, the same for every method.

1. The images are the benchmark's validation images, or a quarter of each class's training images,
   kept back, where it has none (`evaluate_on = "validation"`); test images are never read. The
   orders of the classes, one by default, are not those reported.
2. Every method gets the same number of trials. The first is its defaults under the profile; the
   others are drawn without repetition from its record's space (the short one under a profile
   that says so), by a generator seeded with the method's name.
3. There are two choices, each the trial with the highest Acc at the end of the stream, a mean over
   orders if several: under the head that ranks the method, which is the trained one if it has one,
   and under the best closed-form head.
4. With halving, a trial that both choices would drop ends early: a third goes on after 3 tasks of
   the first order, and of these a third after 9 (successive halving, Jamieson and Talwalkar 2016,
   as trials arrive: one is compared with those before it).

Joint training takes no part: it is no rival, but the reference that fixed the difficulty of the
benchmark. The log of all trials and the choices are one JSON file; a profile's own files have the
choices, for `configure`.
"""

import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from fmlora_lab import progress
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.files import check_writable, write_atomically
from fmlora_lab.methods.registry import METHODS, in_order
from fmlora_lab.profiles import CLOSED, configure, dotted, profile_named
from fmlora_lab.runs.claim import Claim
from fmlora_lab.runs.own import modules_to_import
from fmlora_lab.runs.pool import Pool
from fmlora_lab.runs.run import Curves, ranking_head, run
from fmlora_lab.training.learner import TRAINED_HEAD
from fmlora_lab.training.loop import Diverged

ORDER_SEED = 1000
"""First class order of the trials."""
CHOICES = {"chosen": "acc", CLOSED: "acc_closed_form"}
"""In the log, and what of a trial decides."""
OWN = {"method", "method.name", "order_seed", "evaluate_on"}
"""Settings of a run that are not a trial's to have."""
FIRST_RUNG, SHARE = 3, 3
"""Of successive halving: the tasks after which trials are first compared, and one of how many goes
on, to be compared again after that many times as many tasks."""


def tune(
    out: Path,
    methods: Sequence[str] | None,
    profile: str,
    trials: int,
    runs_dir: Path | None,
    benchmark: str = "glyphs",
    given: Mapping[str, Any] | None = None,
    orders: int = 1,
    halve: bool = False,
    workers: int = 1,
) -> dict[str, Any]:
    """Run all trials (stored ones are loaded), write the log to `out` after each method.

    `given` are overrides that hold for every trial; what it sets is not searched. `workers`
    processes share the methods out. A trial whose loss is no number any more is noted as diverged,
    and is not chosen. BadInput where `out` has trials of other settings or more of them, is no such
    log or another process's, for what the procedure sets itself, and where every trial diverged.
    """
    rivals = sorted(name for name in METHODS if not METHODS[name].record.one_task)
    for name in methods or ():
        if name not in rivals:
            raise BadInput(f"method is {name!r}; allowed: {', '.join(rivals)}")
    given = dotted(given)
    for name in sorted(OWN & given.keys()):
        raise BadInput(f"{name} is the procedure's own here; allowed: any other setting")
    asked = {"profile": profile, "benchmark": benchmark, "orders": orders, "halve": halve}
    asked["given"] = {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}
    check_writable(out.parent)
    methods = methods or [m for m in in_order() if METHODS[m].record.search]
    configs = [configure(name, benchmark, profile, given, preset="defaults") for name in methods]
    if orders > 1 and configs[0].benchmark.order != "drawn":
        came = configs[0].benchmark.order
        raise BadInput(
            f"orders is {orders}, and benchmark.order is {came!r}, which is one; allowed: 1"
        )
    how = (profile, benchmark, given, trials, orders, halve, runs_dir)
    with _alone(out):
        log = _log(out, asked, trials)
        log["procedure"] = " ".join((__doc__ or "").split())
        order = dict.fromkeys([*log["methods"], *methods])
        for method, tried in _each(how, configs, workers):
            known = log["methods"] | {method: {**_choices(method, tried), "trials": tried}}
            log["methods"] = {name: known[name] for name in order if name in known}
            text = json.dumps(log, indent=1) + "\n"
            write_atomically(out, lambda file, text=text: file.write(text.encode()))
    return log


def _alone(out: Path) -> Claim:
    """The right to write a log: who reads it first and writes it last would lose what another
    process has written in between."""
    try:
        return Claim(out.with_name(f"{out.name}.claim")).acquire(timeout=0)
    except TimeoutError as error:
        raise BadInput(f"another process is tuning into {out}; give a file of its own") from error


def _each(
    how: tuple, configs: Sequence[RunConfig], workers: int
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each method with its trials, as they come to their end."""
    methods = [config.method.name for config in configs]
    if min(workers, len(methods)) < 2:
        yield from ((method, _tried(how, method)) for method in methods)
        return
    try:
        with Pool(min(workers, len(methods)), modules_to_import(configs, by_script=True)) as pool:
            tried = {pool.submit(_tried, how, method): method for method in methods}
            for done in as_completed(tried):
                yield tried[done], done.result()
    except BrokenProcessPool as error:
        raise BadInput(
            "a process of the tuning died, perhaps for want of memory; its runs are stored, and "
            "the same tuning, or one with fewer workers, goes on with them"
        ) from error


def _choices(method: str, tried: list[dict[str, Any]]) -> dict[str, Any]:
    whole = [trial for trial in tried if "acc" in trial]
    if not whole:
        raise BadInput(f"no trial of {method} came to its end: {tried[-1]['diverged']}")
    return {name: max(whole, key=lambda t: t[by])["settings"] for name, by in CHOICES.items()}


def _tried(how: tuple, method: str) -> list[dict[str, Any]]:
    """All trials of a method, as the log has them."""
    profile, benchmark, given, trials, orders, halve, runs_dir = how
    halving, tried = Halving() if halve else None, []
    drawn = draw(method, trials, profile, given)
    if len(drawn) < trials:
        progress.write(f"{method}: its space has {len(drawn)} settings, all of which are tried")
    for settings in progress.bar(drawn, desc=f"tuning {method}", unit="trial", leave=False):
        configs = []
        for order in range(ORDER_SEED, ORDER_SEED + orders):
            overrides = {"order_seed": order, "evaluate_on": "validation", **settings, **given}
            configs.append(configure(method, benchmark, profile, overrides, preset="defaults"))
        try:
            found = halving.trial(configs, runs_dir) if halving else _trial(configs, runs_dir)
        except Diverged as why:
            found = {"diverged": str(why)}
        tried.append({"settings": settings, **found})
        said = f"validation Acc {found['acc']:.2f}%" if "acc" in found else next(iter(found))
        progress.write(f"{method} {settings}: {said}")
    return tried


def _trial(
    configs: Sequence[RunConfig],
    runs_dir: Path | None,
    watch: Callable[[Curves], None] | None = None,
) -> dict[str, Any]:
    """The means over the runs of one trial, the first of which is watched."""
    watches = [watch, *[None] * (len(configs) - 1)]
    results = [
        run(config, runs_dir, watch=watch).result
        for config, watch in zip(configs, watches, strict=True)
    ]
    measured = ("acc", "learning_accuracy", "forgetting", "seconds")
    scores = {k: float(np.mean([r[k] for r in results])) for k in measured}
    accs = [{name: own["acc"] for name, own in r["heads"].items()} for r in results]
    closed = {
        name: float(np.mean([acc[name] for acc in accs]))
        for name in accs[0]
        if name != TRAINED_HEAD
    }
    head = max(closed, key=lambda name: closed[name])
    return {**scores, "closed_form": head, "acc_closed_form": closed[head]}


class Dropped(Exception):
    """A trial that no choice will fall on."""


class Halving:
    """Successive halving of one method's trials, by both choices at once: a trial goes on as long
    as either would keep it."""

    def __init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.studies = [
            optuna.create_study(
                direction="maximize",
                pruner=optuna.pruners.SuccessiveHalvingPruner(FIRST_RUNG, SHARE),
            )
            for _ in CHOICES
        ]

    def trial(self, configs: Sequence[RunConfig], runs_dir: Path | None) -> dict[str, Any]:
        """What `_trial` gives, or of a dropped trial the Accs on which it was dropped, and after
        how many tasks."""
        asked = [study.ask() for study in self.studies]
        at: dict[str, Any] = {}

        def watch(curves: Curves) -> None:
            ranked_by = ranking_head(configs[0], curves)
            for t in range(at.get("tasks", 0), len(curves[ranked_by])):
                closed = max(own[t] for name, own in curves.items() if name != TRAINED_HEAD)
                at.update(tasks=t + 1, acc=curves[ranked_by][t], acc_closed_form=closed)
                drops = []
                for trial, by in zip(asked, CHOICES.values(), strict=True):
                    trial.report(at[by], t + 1)
                    drops.append(trial.should_prune())  # which also notes the rung
                if all(drops):
                    raise Dropped

        try:
            found = _trial(configs, runs_dir, watch)
        except (Dropped, Diverged) as ended:
            for study, trial in zip(self.studies, asked, strict=True):
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            if isinstance(ended, Diverged):
                raise
            return {"dropped": at}
        for study, trial, by in zip(self.studies, asked, CHOICES.values(), strict=True):
            study.tell(trial, found[by])
        return found


def _log(out: Path, asked: dict[str, Any], trials: int) -> dict[str, Any]:
    """The log to go on with: of the trials at `out`, or a new one."""
    if not out.exists():
        return {"asked": asked, "methods": {}}
    try:
        log = json.loads(out.read_text("utf-8"))
        known = {"halve": False, **{"asked": asked, **log}["asked"]}
        known["given"] = dotted(known.get("given"))
        most = max((len(found["trials"]) for found in log["methods"].values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{out} is no log of `fmlora-lab tune`; give a file of its own") from error
    if known != asked:
        differ = ", ".join(key for key in known | asked if known.get(key) != asked.get(key))
        raise BadInput(f"{out} has trials of another {differ}; give a file of its own")
    if most > trials:
        raise BadInput(
            f"trials is {trials}, and {out} has {most} of a method, some of which it would lose; "
            f"allowed: {most} or more, or a file of its own"
        )
    return {**log, "asked": asked}


def draw(
    method: str, trials: int, profile: str = "demo", given: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The settings of each trial: the defaults, then distinct other points of the space, without
    what is `given`."""
    record = METHODS[method].record
    short = profile_named(profile).get("tuning") == "short"
    space = record.search_short if short else record.search
    space = {name: values for name, values in space.items() if name not in (given or {})}
    points = [
        dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())
    ]
    order = np.random.default_rng(zlib.crc32(method.encode())).permutation(len(points))
    drawn: list[dict[str, Any]] = [{}]
    default = configure(method, profile=profile, preset="defaults")
    for i in order:
        if configure(method, profile=profile, overrides=points[i], preset="defaults") != default:
            drawn.append(points[i])
    return drawn[:trials]
