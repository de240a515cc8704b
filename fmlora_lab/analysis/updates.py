"""Where tasks write: overlaps, principal angles and spans of their updates, from their factors.

An update ΔW = U Vᵀ is never formed: with QR decompositions of U and V everything below is algebra
in their few columns. All in float64.

    overlap     ⟨ΔW_i, ΔW_j⟩_F / (‖ΔW_i‖ ‖ΔW_j‖)
    cosines     singular values of Q_iᵀ Q_j, Q an orthonormal basis of a column space
    share       ‖A Aᵀ ΔW B Bᵀ‖² / ‖ΔW‖², and of each side alone
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fmlora_lab.analysis.forgetting import lost
from fmlora_lab.config import METHOD_LABELS, BadInput
from fmlora_lab.runs.archive import shipped
from fmlora_lab.runs.folder import Arrays
from fmlora_lab.runs.stored import Run

if TYPE_CHECKING:
    from pandas import DataFrame

Array = NDArray[np.float64]
Update = tuple[Array, Array]
"""U (d_out, k) and V (d_in, k)."""
Item = TypeVar("Item")
OTHER_STARTS = ("loda", "block-lora", "rank1-pool")
"""Methods whose V starts in more or fewer columns than their rank says, or keeps fewer of them."""
TINY = 1e-6
"""Directions with a singular value below this share of the largest are no directions."""
LAYERS = ("attn.qkv", "attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")
"""A block's sites and weights in the order of the model; a qkv site holds the next three."""


def updates(run: Run) -> list[dict[str, Update]]:
    """What each task added to the weights, by site: ΔW_t = U Vᵀ.

    FM-LoRA: U = A own_core, V = B. LoRA, InfLoRA: the task's U and V. SD-LoRA: the task's own
    direction at the magnitude that it ended the task with; later tasks go on changing it, so that
    the sum of these is not what the run ended with. C-LoRA: all that the task changed. LiLoRA: the
    update that the task's images have, in the place of all others'. BadInput for a method without
    such updates, and for a run that came with the lab without its factors.
    """
    if run.label.updates is None:
        known = [name for name, label in METHOD_LABELS.items() if label.updates]
        raise BadInput(
            f"{run.method_name} records no low-rank updates; {', '.join(sorted(known))} do"
        )
    _check_factors(run)
    tasks = [run.task(t) for t in range(run.result["task_files"])]
    if run.label.updates == "cores":
        return [_in_bases(tasks[0], task["own_core"]) for task in tasks]
    return [_scaled(task) for task in tasks]


def inner(u: Update, w: Update) -> float:
    """⟨U_u V_uᵀ, U_w V_wᵀ⟩_F = Σ (U_uᵀ U_w) ∘ (V_uᵀ V_w)."""
    return float(((u[0].T @ w[0]) * (u[1].T @ w[1])).sum())


def norm(u: Update) -> float:
    """‖U Vᵀ‖_F."""
    return float(np.sqrt(max(inner(u, u), 0.0)))


def unit(u: Update) -> Update:
    """The update divided by its norm; one that is zero stays zero."""
    return u[0] / (norm(u) or 1.0), u[1]


def overlap(u: Update, w: Update) -> float:
    """⟨ΔW_u, ΔW_w⟩_F / (‖ΔW_u‖ ‖ΔW_w‖), 0 where one of them is zero."""
    return inner(unit(u), unit(w))


def overlaps(of: list[dict[str, Update]]) -> dict[str, Array]:
    """The overlap of every two tasks (N, N), by site."""
    return {site: pairs([unit(task[site]) for task in of], inner) for site in of[0]}


def directions(sigma: Array) -> NDArray[np.bool_]:
    """Which singular values (falling) count as directions."""
    return sigma > TINY * sigma[:1]


def spaces(u: Update) -> Update:
    """Orthonormal bases of the column space and of the row space of U Vᵀ."""
    Qu, Ru = np.linalg.qr(u[0])
    Qv, Rv = np.linalg.qr(u[1])
    left, sigma, rightT = np.linalg.svd(Ru @ Rv.T, full_matrices=False)
    return Qu @ left[:, directions(sigma)], Qv @ rightT.T[:, directions(sigma)]


def cosines(P: Array, Q: Array) -> Array:
    """Cosines of the principal angles of the spans of orthonormal P (d, p) and Q (d, q), falling;
    min(p, q) of them."""
    return np.linalg.svd(P.T @ Q, compute_uv=False).clip(0, 1)


def measure(run: Run) -> dict[str, Any]:
    """Every two tasks' relation, averaged over sites, and each task's size; lists, ready for JSON.

    `overlap` is signed, `collision` its absolute value; `output_cosine` and `input_cosine` are
    means of the principal cosines; `norms` are over all sites; `by_site` has each site's overlap.
    """
    of = updates(run)
    by_site = overlaps(of)
    every = np.stack(list(by_site.values()))
    bases = {site: [spaces(task[site]) for task in of] for site in by_site}
    outputs, inputs = (
        np.mean([pairs([b[side] for b in of_site], _alike) for of_site in bases.values()], axis=0)
        for side in (0, 1)
    )
    return {
        "overlap": every.mean(0).tolist(),
        "collision": np.abs(every).mean(0).tolist(),
        "output_cosine": outputs.tolist(),
        "input_cosine": inputs.tolist(),
        "norms": np.sqrt([sum(norm(u) ** 2 for u in task.values()) for task in of]).tolist(),
        "by_site": {site: table.round(6).tolist() for site, table in by_site.items()},
    }


def span(free: Run, based: Run) -> dict[str, list[float]]:
    """How much of each task's update in `free` lies in the bases A, B of the FM-LoRA run `based`:
    shares of the energy ‖ΔW‖² of all sites together, N of each.

    `share` is within both, ‖A Aᵀ ΔW B Bᵀ‖²; `outputs` within A alone, `inputs` within B alone;
    `chance_…` is what bases at random would hold on average: R/d_out, R/d_in and their product,
    each site weighed by its energy. All are 0 for a task that changed nothing.
    """
    _check_factors(based)
    bases = _bases(based.task(0))
    rows = []
    for task in updates(free):
        whole = sum(norm(u) ** 2 for u in task.values()) or 1.0
        held = [_held(u, *bases[site]) for site, u in task.items()]
        rows.append({name: sum(site[name] for site in held) / whole for name in held[0]})
    return {name: [row[name] for row in rows] for name in rows[0]}


def measured(run: Run) -> dict[str, Any]:
    """`measure`, computed once and stored with the run."""
    return run.derived("subspaces", lambda: measure(run))


def measured_span(free: Run, based: Run) -> dict[str, list[float]]:
    """`span`, computed once and stored with `free`; of an older run `share` alone.

    Of two runs that came with the lab it came too, so it is read from there if `free` alone was
    computed anew: the bases of `based` are not here.
    """
    if based.shipped and not free.shipped and (folder := shipped(free.id)):
        free = Run(folder)
    return free.derived(f"span-{based.id}", lambda: span(free, based))


def between(run: Run, what: str) -> Array:
    """One table of `measured` (N, N), `collision` for instance, with NaN for a task with itself,
    which says nothing."""
    table = np.array(measured(run)[what], float)
    np.fill_diagonal(table, np.nan)
    return table


def by_chance(run: Run) -> dict[str, float]:
    """What `collision` and `input_cosine` would be on average if two tasks' updates pointed
    anywhere, means over sites; NaN for a run that does not say where its updates started.

        E|⟨ΔW_i, ΔW_j⟩| / (‖ΔW_i‖ ‖ΔW_j‖) = √(2 / (π d_out d_in))

    which is the mean size of a coordinate of a random direction among d_out d_in many. Cosines are
    of r random directions among d_in, drawn; of a method whose updates have no one rank r, both
    are NaN. A record says r / d_in of where V started, but of `OTHER_STARTS`, which are NaN too;
    d_out follows from the layer's place in a block, whose MLP is four times as wide.
    """
    record, method = run.task(0), run.config["method"]
    rank = method.get("basis_rank" if run.label.updates == "cores" else "rank")
    started = record.get("start_chance", np.zeros((1, 2)))[:, 1]
    if rank is None or not started.all() or run.method_name in OTHER_STARTS:
        return dict.fromkeys(("collision", "input_cosine"), np.nan)
    widths = rank / started.astype(float)  # d_in
    sites = sorted(measured(run)["by_site"], key=place)
    fused = [name for name in method["layers"] if name in LAYERS[1:4]]  # those of q, k and v
    times = {"attn.qkv": len(fused) or 3, "mlp.fc1": 4}
    tall = np.array([times.get(site.split(".", 2)[2], 1) for site in sites]) * widths.min()
    drawn = {(rank, d): _random_cosine(rank, int(d)) for d in np.unique(widths)}
    return {
        "collision": float(np.sqrt(2 / (np.pi * tall * widths)).mean()),
        "input_cosine": float(np.mean([drawn[rank, d] for d in widths])),
    }


def interference(run: Run) -> dict[str, float]:
    """Means over every two different tasks of the tables of `measured`, and of the tasks' size
    (`norm`)."""
    tables = ("collision", "overlap", "input_cosine", "output_cosine")
    means = {name: float(np.nanmean(between(run, name))) for name in tables}
    return means | {"norm": float(np.mean(measured(run)["norms"]))}


def collisions(run: Run) -> "DataFrame":
    """A row for every two tasks i < t: the `collision` of their updates, and what task i `lost`
    while t was learned, in points."""
    from pandas import DataFrame  # here, for explorers open sooner without it

    table = between(run, "collision")
    i, t = np.triu_indices(len(table), 1)
    return DataFrame({"collision": table[i, t], "lost": lost(run.accuracy_matrix)[t, i]})


def place(name: str) -> tuple[int, int]:
    """Where a site or weight such as `blocks.3.attn.qkv` stands in the model."""
    _, block, layer = name.split(".", 2)
    return int(block), LAYERS.index(layer)


def _check_factors(run: Run) -> None:
    if run.shipped:
        raise BadInput(f"run {run.id} came with the lab without its trained factors")


def _sites(record: Arrays, factor: str) -> list[str]:
    """The sites that have this factor, in the order of the model: a stored record's names come
    back sorted, while its stacked arrays count sites as the model does."""
    return sorted((name[2:] for name in record if name.startswith(f"{factor}.")), key=place)


def _bases(first: Arrays) -> dict[str, Update]:
    """FM-LoRA's A (d_out, R) and B (d_in, R) by site, of its first task's record."""
    sites = _sites(first, "A")
    return {s: (first[f"A.{s}"].astype(float), first[f"B.{s}"].astype(float)) for s in sites}


def _in_bases(first: Arrays, cores: NDArray) -> dict[str, Update]:
    """A C Bᵀ by site, for cores C (S, R, R)."""
    bases = _bases(first).items()
    return {s: (A @ C, B) for (s, (A, B)), C in zip(bases, cores.astype(float), strict=True)}


def _scaled(task: Arrays) -> dict[str, Update]:
    """The task's U and V by site; of SD-LoRA each weight's columns times its own α, or times the
    one α of all. A site may hold several weights side by side (q, k and v), all equally wide."""
    sites = _sites(task, "U")
    alpha = task["alpha"][:, -1].astype(float) if "alpha" in task else np.ones(1)
    ends = np.cumsum([task[f"U.{s}"].shape[1] for s in sites])
    by_site = np.split(alpha.repeat(ends[-1] // len(alpha)), ends[:-1])
    return {
        s: (task[f"U.{s}"] * scale, task[f"V.{s}"].astype(float))
        for s, scale in zip(sites, by_site, strict=True)
    }


def _held(u: Update, A: Array, B: Array) -> dict[str, float]:
    """Of ‖ΔW‖²: what lies within A and B, and what would within bases at random."""
    inside, whole = (A.T @ u[0], B.T @ u[1]), norm(u) ** 2
    outputs, inputs = (basis.shape[1] / len(basis) for basis in (A, B))
    return {
        "share": norm(inside) ** 2,
        "outputs": norm((inside[0], u[1])) ** 2,
        "inputs": norm((u[0], inside[1])) ** 2,
        "chance": outputs * inputs * whole,
        "chance_outputs": outputs * whole,
        "chance_inputs": inputs * whole,
    }


def _alike(P: Array, Q: Array) -> float:
    """Mean principal cosine of two orthonormal bases; 0 where one is empty."""
    found = cosines(P, Q)
    return float(found.mean()) if found.size else 0.0


@lru_cache
def _random_cosine(rank: int, d: int) -> float:
    """Mean principal cosine of two random subspaces of d dimensions, the mean of 20 pairs."""
    draw = np.random.default_rng(0)
    bases = [np.linalg.qr(draw.normal(size=(d, rank)))[0] for _ in range(40)]
    return float(np.mean([_alike(P, Q) for P, Q in zip(bases[::2], bases[1::2], strict=True)]))


def pairs(of: list[Item], relation: Callable[[Item, Item], float]) -> Array:
    """A symmetric relation of every two (N, N)."""
    table = np.zeros((len(of), len(of)))
    for i, j in zip(*np.triu_indices(len(of)), strict=True):
        table[i, j] = table[j, i] = relation(of[i], of[j])
    return table
