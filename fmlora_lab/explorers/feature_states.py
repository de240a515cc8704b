"""Features and attention of a run's images after every task, computed once and kept with the run.

The network after task s is put together from what the run recorded: W0 + ΔW_1 + … + ΔW_s, and the
prompt as it was then. Features have length 1, as the heads that keep statistics see them. Each
task's are looked at in a plane of its own, fixed for all times. This needs torch and the run's
factors; `explorers.features` reads what is kept.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fmlora_lab import progress
from fmlora_lab.analysis.updates import Update, updates
from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.sites import Prompts
from fmlora_lab.backbone.vit import ViT
from fmlora_lab.benchmarks.stream import Images
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.heads.drift import fit
from fmlora_lab.runs.folder import Arrays
from fmlora_lab.runs.run import restore, stream_of_run, tower_of_run
from fmlora_lab.runs.stored import Run
from fmlora_lab.training.learner import EVALUATION_BATCH, Learner

SHOWN = 500
"""Images of a task, of its test and of its training, that are looked at."""
ATTENDED = 40
"""Test images of a task whose attention is kept."""
SHRUNK = 0.1
"""Share of its mean diagonal that is added to the scatter within classes."""
CLOSE = 1e-3
"""Of a feature of length 1: what sums in another order may change."""


class States:
    """The network of a run after each task; state 0 is the backbone as it was pre-trained."""

    def __init__(self, run: Run):
        config = RunConfig.model_validate(run.config)
        model, classes = tower_of_run(config), len(run.environment["class_names"])
        if not isinstance(model, ViT) or model.network.cls_token is None:
            raise BadInput(f"run {run.id} has a backbone without [CLS], whose attention is shown")
        Learner(config, model, classes, torch.device("cpu"))  # makes its layers sites
        self.model = model
        self.updates = updates(run)
        self.prompts = [run.task(t).get("prompts") for t in range(len(self.updates))]

    def set(self, state: int, prompted: bool = True) -> None:
        """Be the network after that many tasks; without its prompt, if asked so."""
        own = self.updates[:state]
        factors = [summed([task[site.name] for task in own]) for site in self.model.sites]
        tokens = self.prompts[state - 1] if state and prompted else None
        shown = None if tokens is None else Prompts(torch.from_numpy(tokens).float())
        self.model.set_update(factors, shown)
        self.model.fold()

    @torch.inference_mode()
    def features(self, images: Images) -> Tensor:
        """(n, d), of length 1."""
        parts = images.pixels.split(EVALUATION_BATCH)
        return F.normalize(torch.cat([self.model.features(self.model.pixels_in(p)) for p in parts]))

    @torch.inference_mode()
    def attention(self, images: Images) -> Tensor:
        """Of [CLS] in the last block, as means over its heads, (n, 2 + P): to itself, to all
        prompts together, to each patch."""
        attn: Any = self.model.network.blocks[-1].attn
        taken: list[Tensor] = []
        hook = attn.register_forward_pre_hook(lambda _module, args: taken.append(args[0]))
        try:
            self.model.features(self.model.pixels_in(images.pixels))
        finally:
            hook.remove()
        (x,) = taken
        heads = (len(x), x.shape[1], 3, attn.num_heads, -1)
        q, k, _ = attn.qkv(x).reshape(heads).permute(2, 0, 3, 1, 4)
        q, k = attn.q_norm(q[:, :, :1]), attn.k_norm(k)
        weights = (q * attn.scale @ k.transpose(2, 3)).softmax(3)[:, :, 0].mean(1)
        patches = self.model.network.patch_embed.num_patches
        own, others = weights[:, :1], weights[:, 1:-patches].sum(1, keepdim=True)
        return torch.cat([own, others, weights[:, -patches:]], 1)


def summed(parts: Sequence[Update]) -> Factors | None:
    """The sum of updates U Vᵀ as one; None of none."""
    if not parts:
        return None
    U, V = (np.concatenate([part[side] for part in parts], axis=1) for side in (0, 1))
    return Factors(torch.from_numpy(U).float(), None, torch.from_numpy(V).float())


def measured(run: Run) -> Arrays:
    """What `explorers.features` shows of a run of N tasks; of task k (from 0), with n test images,
    a of them with attention, c classes and P patches, in S = N + 1 − k states, the first of them
    just before it is learned:

    `images.k` (n,) numbers among all test images, `labels.k` (n,), `classes.k` (c,), `points.k`
    (S, n, 2) in its plane, `means.k` (3, S, c, 2): of the training images as they are, as the head
    of class means kept them, and carried along the drift, NaN while there is none. `attended.k`
    (a,) are places among the n, `attention.k` (S, 2, a, 2 + P) as `States.attention`, with the
    prompt and without. BadInput where the run's images or factors are not there, or where its
    network is not the sum of what it recorded.
    """
    run.needs_factors("features")
    states = States(run)
    stream = stream_of_run(RunConfig.model_validate(run.config), states.model.image_size)
    if stream.fingerprint != run.environment["data"]:
        raise BadInput(f"run {run.id} was trained on other images than there are today")
    _check(run, states, stream.tasks[0].test)
    N = len(stream.tasks)
    tests = [some(task.test, SHOWN) for task in stream.tasks]
    trains = [some(task.train, SHOWN)[0] for task in stream.tasks]
    attended = [evenly(len(rows), ATTENDED) for _, rows in tests]
    few = [t[torch.from_numpy(a)] for (t, _), a in zip(tests, attended, strict=True)]
    of_test: list[list[Tensor]] = [[] for _ in tests]
    of_train: list[list[Tensor]] = [[] for _ in tests]
    attention: list[list[Tensor]] = [[] for _ in tests]
    with progress.bar(desc="features", total=N * (N + 3) // 2, unit="task", leave=False) as bar:
        for s in range(N + 1):
            there = range(min(s + 1, N))  # a task is looked at from just before it is learned
            states.set(s)
            for k in there:
                of_test[k].append(states.features(tests[k][0]))
                of_train[k].append(states.features(trains[k]))
                attention[k].append(states.attention(few[k]))
                bar.update(1)
            states.set(s, prompted=False)
            for k in there:
                both = [attention[k][-1], states.attention(few[k])]
                attention[k][-1] = torch.stack(both)
    carried = means_carried(of_train, [images.labels for images in trains])
    found, first = {}, 0
    for k, (task, (test, rows)) in enumerate(zip(stream.tasks, tests, strict=True)):
        classes = test.labels.unique()
        origin, plane = best_plane(of_test[k][1], test.labels)
        means = torch.stack([means_of(f, trains[k].labels, classes) for f in of_train[k]])
        three = torch.stack([means, *_kept(means, carried[k])])
        found |= {
            f"images.{k}": first + rows,
            f"labels.{k}": test.labels.numpy(),
            f"classes.{k}": classes.numpy(),
            f"points.{k}": _small((torch.stack(of_test[k]) - origin) @ plane),
            f"means.{k}": _small((three - origin) @ plane),
            f"attended.{k}": attended[k],
            f"attention.{k}": _small(torch.stack(attention[k])),
        }
        first += len(task.test)
    return found


def means_carried(of_train: list[list[Tensor]], labels: list[Tensor]) -> list[list[Tensor]]:
    """Of each task the means of its classes as they are carried along the drift, one after each
    task from its own on. `of_train[k]` are task k's features just before it and after each task
    from its own on."""
    carried: list[list[Tensor]] = []
    for t, own in enumerate(of_train):
        drift = fit(own[0], own[1]) if t else None
        for means in carried:
            assert drift is not None
            means.append(drift.points(means[-1].double()).float())
        carried.append([means_of(own[1], labels[t], labels[t].unique())])
    return carried


def means_of(features: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """(c, d)."""
    return torch.stack([features[labels == k].mean(0) for k in classes])


def best_plane(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Where it has its origin (d,), and two orthonormal directions (d, 2): those that part the
    classes best (linear discriminants, shrunk); where there are fewer than three classes, what is
    lacking is the direction along which features vary most beside them."""
    classes, own = labels.unique(return_inverse=True)
    means = means_of(features, labels, classes).double()
    origin, within = means.mean(0), (features - means.float()[own]).double()
    scatter = within.T @ within / len(within)
    varies = float(scatter.diagonal().mean()) or 1.0  # nothing does, of one image a class
    scatter += SHRUNK * varies * torch.eye(len(scatter)).to(scatter)
    root = torch.linalg.inv(torch.linalg.cholesky(scatter))  # whitens what varies within
    _, _, Vt = torch.linalg.svd((means - origin) @ root.T, full_matrices=False)
    found = (Vt[: min(2, len(classes) - 1)] @ root).T
    if found.shape[1] < 2:
        Q = torch.linalg.qr(found)[0]
        beside = within - within @ Q @ Q.T
        found = torch.cat([found, torch.linalg.svd(beside)[2][: 2 - found.shape[1]].T], 1)
    return origin.float(), torch.linalg.qr(found)[0].float()


def some(images: Images, most: int) -> tuple[Images, NDArray[np.int64]]:
    """At most so many of a task's images, spread evenly, and which they are."""
    rows = evenly(len(images), most)
    return images[torch.from_numpy(rows)], rows


def evenly(n: int, most: int) -> NDArray[np.int64]:
    """At most so many of n places, spread evenly."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)


def _kept(means: Tensor, carried: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Means as they were when the task was learned, and carried from there on; NaN before."""
    kept, along = torch.full_like(means, torch.nan), torch.full_like(means, torch.nan)
    kept[1:], along[1:] = means[1], torch.stack(carried)
    return kept, along


def _check(run: Run, states: States, images: Images) -> None:
    """BadInput where the sum of what each task recorded is not the network that the run ended
    with."""
    few = images[torch.arange(min(8, len(images)))]
    states.set(len(states.updates))
    ours = states.features(few)
    ended = restore(run)
    if not ended.method.needs_query:
        ended.model.set_update(ended.method.factors(), ended.method.prompts(None))
        pixels = ended.model.pixels_in(few.pixels)
        with torch.inference_mode():
            theirs = F.normalize(ended.model.features(pixels))
        if (theirs - ours).abs().max() <= CLOSE:
            return
    raise BadInput(
        f"run {run.id} is of {run.label.title}, whose network after a task is not the sum of what "
        "it recorded, so that its features cannot be had of it; those of FM-LoRA, sequential LoRA "
        "and InfLoRA can"
    )


def _small(values: Tensor) -> NDArray[np.float16]:
    return values.to(torch.float16).numpy()
