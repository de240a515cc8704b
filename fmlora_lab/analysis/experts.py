"""Which experts each domain uses, how far domains write into the same columns, and what of them is
merged: of a run of the Rank-1 Expert Pool on two towers.

    votes      share of a domain's images that vote for an expert at a site; top / r on average
    cosine     mean over the used columns u, u' of two domains of |u · u'| / (‖u‖ ‖u'‖)
    ago        Σ |u · u'| over the same pairs: what the pool's loss adds up
    norm       ‖1/r Σ u vᵀ‖_F over a domain's used experts: what stays of it in the weight

Votes come from the records of a run; the rest, which needs the factors, is computed once and stored
with it, some twenty kilobytes for the lab's own towers.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fmlora_lab.analysis.updates import Array, norm
from fmlora_lab.config import BadInput
from fmlora_lab.runs.archive import EXPERTS
from fmlora_lab.runs.folder import Arrays
from fmlora_lab.runs.stored import Run

POOL = "rank1-pool"
TOWERS = ("image", "text")
SITES = {
    "attn.qkv.q": "q",
    "attn.qkv.k": "k",
    "attn.qkv.v": "v",
    "attn.proj": "out",
    "attn.out_proj": "out",
    "mlp.fc1": "fc1",
    "mlp.c_fc": "fc1",
    "mlp.fc2": "fc2",
    "mlp.c_proj": "fc2",
}
"""A block's sites in the order of the model, and what readers call them."""


@dataclass
class Experts:
    """N domains, S sites of both towers in the order of the model, r experts a site, m merged."""

    sites: list[str]
    votes: Array
    """(N, S, r)."""
    merged: NDArray[np.int64]
    """(N, S, m): the experts that were merged, the most used first."""
    cosine: Array
    """(S, N, N); NaN of a domain with itself."""
    ago: Array
    """(S, N, N); NaN of a domain with itself."""
    chance: Array
    """(S,): the mean |cosine| of columns at random."""
    norm: Array
    """(S, N)."""

    def within(self, tower: str) -> NDArray[np.int64]:
        """The numbers of a tower's sites."""
        return np.flatnonzero([tower_of(site) == tower for site in self.sites])

    def share(self, domain: int, tower: str) -> float:
        """Of all votes of a domain at a tower's sites, the share that its merged experts had."""
        own = self.within(tower)
        votes = self.votes[domain, own]
        return float(np.take_along_axis(votes, self.merged[domain, own], 1).sum() / votes.sum())


@dataclass
class Course:
    """Accuracy in percent on N domains while they are learned, one after another."""

    names: list[str]
    before: Array
    """(N,): zero-shot, before anything is learned."""
    after: Array
    """(N, N): a[t, i] on domain i after learning domain t, domains to come among them."""

    @property
    def along(self) -> Array:
        """(N + 1, N): `before`, then `after`."""
        return np.vstack([self.before, self.after])


def suits(run: Run) -> bool:
    """Whether a run has what is shown of experts, or can have it computed."""
    known = run.method_name == POOL and of_two_towers(run)
    return known and (not run.shipped or run.folder.has(EXPERTS))


def of_two_towers(run: Run) -> bool:
    """Whether classes were told by texts."""
    return "by_texts" in run.numbers


def relate(run: Run) -> Arrays:
    """`cosine` and `ago` (N, N) and `norm` (N,) of each site, float32, named `cosine.site`.

    BadInput for a run of another method or of one tower.
    """
    _check(run)
    r, tasks = run.config["method"]["rank"], range(run.result["task_files"])
    records = [run.task(t) for t in tasks]
    found: Arrays = {}
    for site in _sites(records[0], "U"):
        U = [record[f"U.{site}"].astype(float) for record in records]
        V = [record[f"V.{site}"].astype(float) for record in records]
        columns = np.concatenate(U, axis=1)  # with 1/r in them
        sizes = np.linalg.norm(columns, axis=0)
        products = np.abs(columns.T @ columns)
        unit = products / np.where(sizes, sizes, 1)[:, None] / np.where(sizes, sizes, 1)
        pairs = (len(U), U[0].shape[1]) * 2
        found |= {
            f"cosine.{site}": unit.reshape(pairs).mean((1, 3)).astype(np.float32),
            f"ago.{site}": (r * r * products.reshape(pairs).sum((1, 3))).astype(np.float32),
            f"norm.{site}": np.array([norm(u) for u in zip(U, V, strict=True)], np.float32),
            f"rows.{site}": np.array(len(U[0]), np.int32),
        }
    return found


@lru_cache(8)
def experts_of(run: Run) -> Experts:
    """BadInput as `relate`, and for a run that was shipped without what the explorer shows."""
    _check(run)
    stored = run.derived_arrays("experts", lambda: relate(run))
    sites, settings = _sites(stored, "norm"), run.config["method"]
    counts = np.stack([run.task(t)["counts"] for t in range(run.result["task_files"])])
    rows = np.array([int(stored[f"rows.{site}"].item()) for site in sites])
    cosine, ago = (np.stack([stored[f"{n}.{site}"] for site in sites]) for n in ("cosine", "ago"))
    for table in (cosine, ago):
        table[:, np.arange(len(counts)), np.arange(len(counts))] = np.nan
    return Experts(
        sites=sites,
        votes=_votes(counts, settings["top"]),
        merged=np.argsort(-counts, axis=2, kind="stable")[:, :, : settings["merged"]],
        cosine=cosine.astype(float),
        ago=ago.astype(float),
        chance=np.sqrt(2 / (np.pi * rows)),
        norm=np.stack([stored[f"norm.{site}"] for site in sites]).astype(float),
    )


def course_of(run: Run, given: bool) -> Course:
    """Accuracy along the stream: among the classes of an image's own domain (`given`), or of all.

    BadInput for a run of one tower.
    """
    if not of_two_towers(run):
        raise _no_towers(run)
    head = run.result["heads"]["trained"]
    after = head["within_task_matrix" if given else "accuracy_matrix"]
    by_texts = run.result["by_texts"]["given" if given else "unknown"]
    return Course(
        list(run.environment["tasks"]),
        np.array(by_texts["zero_shot"], float),
        np.array(after, float),
    )


def tower_of(site: str) -> str:
    return "image" if site.startswith("visual.") else "text"


def block_of(site: str) -> int:
    """The block that a site is in, from 0: the one number in its name."""
    return int(_parted(site)[0])


def kind_of(site: str) -> str:
    """Which of its block's sites it is, as readers call it."""
    return SITES[_parted(site)[1]]


def place(site: str) -> tuple[int, int, int]:
    """Where a site stands in the model."""
    layers = list(dict.fromkeys(SITES.values()))
    return TOWERS.index(tower_of(site)), block_of(site), layers.index(kind_of(site))


def _parted(site: str) -> tuple[str, str]:
    """`visual.blocks.3.attn.qkv.q` as "3" and "attn.qkv.q"."""
    parts = site.split(".")
    at = next(k for k, part in enumerate(parts) if part.isdigit())
    return parts[at], ".".join(parts[at + 1 :])


def _sites(arrays: Arrays, kind: str) -> list[str]:
    """The sites of which there is that, in the order of the model: names come back sorted."""
    own = (name.removeprefix(f"{kind}.") for name in arrays if name.startswith(f"{kind}."))
    return sorted(own, key=place)


def _votes(counts: NDArray[np.int64], top: int) -> Array:
    """Shares of a domain's images. Where nobody chooses, the first `top` experts are in use."""
    total = counts.sum(2, keepdims=True)
    fixed = np.arange(counts.shape[2]) < top
    return np.where(total, counts * top / np.where(total, total, 1), fixed)


def _check(run: Run) -> None:
    if run.method_name != POOL:
        raise BadInput(f"run {run.id} is of {run.method_name}, which has no experts; {POOL} has")
    if not of_two_towers(run):
        raise _no_towers(run)


def _no_towers(run: Run) -> BadInput:
    return BadInput(
        f"run {run.id} is of one tower, {run.config['backbone']['name']}, and has no zero-shot "
        "accuracy; train one with `fmlora-lab run --method rank1-pool --backbone glyphs-clip "
        "--benchmark glyph-scripts`"
    )
