"""FM-LoRA's variants: bases shared by all blocks, directions of a task's own, estimates of H."""

from copy import deepcopy

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.config import BadInput
from fmlora_lab.methods.fm_lora.bases import _common, shared
from fmlora_lab.methods.fm_lora.estimates import EARLY, means_error
from fmlora_lab.methods.fm_lora.factorized import FactorizedLoRA, thin_svd
from fmlora_lab.methods.fm_lora.fm_lora import FMLoRA
from fmlora_lab.methods.method import Stage
from fmlora_lab.profiles import configure
from fmlora_lab.training import loop

SOURCES = ("first-task", "weight-svd", "first-task-gradient", "random")
ESTIMATES = ("early_loss", "early_gradient", "means_error")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def close(found, expected, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def dense(A: torch.Tensor, C: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oa,ab,ib->oi", A, C, B)


@pytest.fixture
def ready(trainer, tiny_stream, memory_keeper):
    """`ready(**settings)`: a trainer of FM-LoRA on three tasks of two classes, and its keeper."""

    def make(keeper=None, tasks: int = 3, each: int = 8, epochs: int = 2, **method):
        settings = {"name": "fm-lora", "basis_rank": 6, "rank": 2, "lr": 0.02, **method}
        settings["bases"] = {"lr": 0.02, **method.get("bases", {})}
        settings["drs"] = {"candidates": [1, 2], **method.get("drs", {})}
        stream = tiny_stream(classes=2 * tasks, tasks=tasks, each=each)
        keeper = keeper or memory_keeper()
        return trainer(settings, stream, keeper=keeper, epochs=epochs), keeper

    return make


@pytest.fixture
def trained(ready):
    """`trained(**settings)`: the same, run to its end."""

    def make(**settings):
        run, keeper = ready(**settings)
        run.run()
        return run, keeper

    return make


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].numpy().tobytes() == b[name].numpy().tobytes(), name


# Bases shared by all blocks


def triples(count: int, R: int = 4) -> list[tuple[torch.Tensor, ...]]:
    """Bases and cores of layers of 9 × 7, with updates of different sizes."""
    return [
        thin_svd((1 + n) * draw(9, R, seed=2 * n), draw(7, R, seed=2 * n + 1)) for n in range(count)
    ]


def test_sharing_projects_each_update_onto_the_common_spans():
    own = triples(5)
    found = shared(own, [[0, 2, 4], [1, 3]], 4)
    for group in ([0, 2, 4], [1, 3]):
        A, _, B = found[group[0]]
        for basis in (A, B):
            close(basis.T @ basis, torch.eye(4, dtype=basis.dtype), 1e-10)
        for i in group:
            assert torch.equal(found[i][0], A) and torch.equal(found[i][2], B)
            before, after = dense(*own[i]), dense(*found[i])
            close(after, A @ A.T @ before @ B @ B.T, 1e-10)
            assert (after - before).norm() > 0.01 * before.norm()
    assert not torch.allclose(found[0][0], found[1][0])


@pytest.mark.parametrize("side", ["output", "input"])
def test_no_basis_of_that_size_keeps_more_of_the_updates(side):
    """Random ones do not, nor do the common one's own neighbours; what is kept is as much as the
    largest singular values of all updates side by side."""
    updates = [dense(*t) if side == "output" else dense(*t).T for t in triples(3)]
    (A, _, B), *_ = shared(triples(3), [[0, 1, 2]], 4)
    best = A if side == "output" else B

    def kept(basis: torch.Tensor) -> float:
        return float(sum((basis.T @ update).square().sum() for update in updates))

    values = torch.linalg.svdvals(torch.cat(updates, dim=1))
    close(kept(best), float(values[:4].square().sum()), 1e-10)
    assert kept(best) < float(values.square().sum()) * 0.999
    for seed in range(50):
        other = draw(len(best), 4, seed=seed)
        for basis in (other, best + 0.05 * other):
            assert kept(torch.linalg.qr(basis).Q) < kept(best)


def test_the_common_basis_is_that_of_a_single_side():
    A, C, _ = triples(1)[0]
    found = _common([A @ C], 4)
    close(found @ found.T, A @ A.T, 1e-10)


def test_with_one_block_sharing_leaves_the_first_update_as_it_is():
    own = triples(2)
    for before, after in zip(own, shared(own, [[0], [1]], 4), strict=True):
        close(dense(*after), dense(*before), 1e-10)


def layer_of(site_name: str) -> str:
    return site_name.split(".", 2)[2]


@pytest.mark.parametrize("source", SOURCES)
def test_all_blocks_share_the_bases_of_a_layer(trained, source):
    run, keeper = trained(bases={"from": source, "shared": True})
    by_layer = {}
    for site, (A, B) in zip(run.learner.model.sites, run.method.factorized.bases(), strict=True):
        for basis in (A, B):
            close(basis.T @ basis, torch.eye(6), 1e-5)
        first = keeper.records[0]
        assert torch.equal(A, first[f"A.{site.name}"]) and torch.equal(B, first[f"B.{site.name}"])
        by_layer.setdefault(layer_of(site.name), []).append((site, A, B))
    assert len(by_layer) == 4
    for (_, A, B), (_, other_A, other_B) in by_layer.values():
        assert torch.equal(A, other_A) and torch.equal(B, other_B)
    merged, plain = run.learner.merge()[0], run.learner.model.network.state_dict()
    for n, site in enumerate(run.learner.model.sites):
        _, A, B = by_layer[layer_of(site.name)][0]
        core = sum(record["own_core"][n] for record in keeper.records)
        name = f"{site.name}.weight"
        close(merged[name], plain[name] + dense(A, core, B), 1e-5)


def test_shared_bases_are_kept_once(trained):
    tokens = {"prompt": {"tokens": 2}}
    run, _ = trained(tasks=1, bases={"shared": True}, **tokens)
    sides = sum(site.d_out + site.d_in for site in run.learner.model.sites)
    cores, prompts = 8 * 6 * 6, 2 * 32
    assert run.method.kept() == cores + prompts + 6 * sides // 2
    assert trained(tasks=1, **tokens)[0].method.kept() == cores + prompts + 6 * sides


@pytest.mark.parametrize("blocks", [None, (1,)], ids=["all-blocks", "one-block"])
def test_the_first_task_keeps_its_update_in_the_shared_spans(ready, blocks):
    """All of it where only one block is adapted. With a selector they are made before its probe."""
    run, keeper = ready(tasks=1, bases={"shared": True}, blocks=blocks, drs={"enabled": False})
    end_task, before = run.method.end_task, []

    def watched_end():
        before.extend(factors.dense().detach() for factors in run.method.factors())
        return end_task()

    run.method.end_task = watched_end
    run.run()
    for n, (A, B) in enumerate(run.method.factorized.bases()):
        after = dense(A, keeper.records[0]["own_core"][n], B)
        close(after, A @ A.T @ before[n] @ B @ B.T, 1e-6)
        lost = (after - before[n]).norm() / before[n].norm()
        assert lost < 1e-5 if blocks else lost > 1e-3


# Directions of a task's own


def own_updates(run, keeper) -> list[list[torch.Tensor]]:
    """Every task's ΔW, formed in float64, by site."""
    bases = [(A.double(), B.double()) for A, B in run.method.factorized.bases()]
    return [
        [dense(A, C, B) for (A, B), C in zip(bases, record["own_core"].double(), strict=True)]
        for record in keeper.records
    ]


@pytest.mark.parametrize(
    ("rank", "drs"),
    [(4, {"candidates": [1, 2]}), (2, {"enabled": False, "candidates": [1, 4]})],
    ids=["selector", "fixed-rank"],
)
def test_updates_in_directions_of_their_own_never_touch(trained, rank, drs):
    """Three tasks of width 2 in six directions: the fixed rank, or the selector's largest."""
    settings = {"rank": rank, "drs": drs, "bases": {"from": "weight-svd"}}
    touching = own_updates(*trained(**settings))
    apart = own_updates(*trained(**settings, directions="own"))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        for a, b in zip(apart[i], apart[j], strict=True):
            size = float(a.norm() * b.norm())
            assert size > 1e-6
            for product in ((a * b).sum(), a @ b.T, a.T @ b):
                assert product.abs().max() < 1e-5 * size  # A and B are orthonormal to float32
        for a, b in zip(touching[i], touching[j], strict=True):
            assert (a @ b.T).norm() > 0.01 * a.norm() * b.norm()


def test_of_directions_of_its_own_a_task_trains_what_it_may_write_into(trained):
    """Two of six directions at rank 2, where all six take three times as many numbers."""
    settings = {
        "bases": {"from": "random"}, "drs": {"enabled": False}, "prompt": {"tokens": 0},
    }  # fmt: skip
    own, wide = (trained(**settings, directions=d)[0] for d in ("own", "all"))
    sites, head = len(own.learner.model.sites), 2 * 33  # the rows of two classes, their biases
    assert own.at.trained == [head + sites * 2 * 2 * 2] * 3
    assert wide.at.trained == [head + sites * 2 * 6 * 2] * 3


@pytest.mark.parametrize("R", [4, 5])
def test_when_all_directions_are_used_up_it_begins_again_with_the_first(trained, R):
    settings = {"bases": {"from": "random"}, "drs": {"enabled": False}, "directions": "own"}
    _, keeper = trained(basis_rank=R, **settings)
    wanted = ([0, 1], [2, 3], [0, 1] if R == 4 else [0, 4])
    for record, directions in zip(keeper.records, wanted, strict=True):
        written = record["own_core"].abs().sum(0) > 0
        for axis in (0, 1):
            assert written.any(axis).nonzero().flatten().tolist() == directions


def test_coefficients_outside_a_tasks_own_directions_get_no_gradient(tiny_vit):
    f = FactorizedLoRA(ViT(tiny_vit()).adapt(("attn.proj", "mlp.fc1")), 6)
    f.set_bases([(draw(*A.shape), torch.zeros(6, 6), draw(*B.shape)) for A, B in f.bases()])
    f.begin_coefficients(torch.full((f.sites,), 2), generator(), torch.tensor([1, 4]))
    with torch.no_grad():
        f.N.copy_(draw(*f.N.shape))
    sum(factors.dense().square().sum() for factors in f.factors()).backward()
    for p in (f.M, f.N):
        assert p.grad[:, [1, 4]].abs().min() > 0
        assert not p.grad[:, [0, 2, 3, 5]].any()
    f.begin_coefficients(torch.full((f.sites,), 2), generator())
    assert f.own.all()  # the next task may have them all again


@pytest.mark.parametrize("source", ["first-task", "random"])
def test_own_directions_as_wide_as_the_bases_are_all_directions(trained, source):
    settings = {"basis_rank": 2, "bases": {"from": source}}
    (a, kept_a), (b, kept_b) = (trained(**settings, directions=d) for d in ("all", "own"))
    for left, right in zip(kept_a.records, kept_b.records, strict=True):
        same(left, right)
    same(a.learner.state(), b.learner.state())


# An adapter of the first task alone


@pytest.mark.parametrize("source", ["first-task", "weight-svd"])
@pytest.mark.parametrize("inference", ["cumulative", "latest"])
def test_after_the_first_task_the_head_alone_learns(ready, source, inference):
    run, keeper = ready(
        adapt="first-task", inference=inference, bases={"from": source}, prompt={"tokens": 2},
        drs={"estimates": True}, epochs=4,
    )  # fmt: skip
    features, pixels = [], run.stream.tasks[0].test.pixels
    end_task = run.method.end_task

    def watched_end():
        record = end_task()
        features.append(run.learner.features(pixels).detach())
        return record

    run.method.end_task = watched_end
    run.run()
    assert all(torch.equal(features[0], later) for later in features[1:])
    first, *later = keeper.records
    assert first["own_core"].abs().max() > 1e-3 and (first["rank"] > 0).all()
    chooses = source != "first-task"  # in task 1; whose H nothing compares to otherwise
    assert first["H"].isnan() != chooses and bool(first["probabilities"].any()) == chooses
    head = 2 * 33  # the rows of two classes, with their biases
    assert run.at.trained[1:] == [head, head] and run.at.trained[0] > head
    for index, record in enumerate(later, 1):
        assert torch.equal(record["core"], first["core"])
        assert torch.equal(record["prompts"], first["prompts"])
        assert not record["own_core"].any() and not record["rank"].any()
        assert record["own_core"].shape == first["own_core"].shape
        assert record["H"].isnan() and not record["probabilities"].any()
        stages = [line["stage"] for line in keeper.lines if line["task"] == index]
        assert stages == ["train"] * 4
        losses = keeper.losses(index)
        assert losses[-1] < losses[0]
    kept = ready(bases={"from": source}, prompt={"tokens": 2})[0].method.kept()
    assert run.method.kept() == kept


@pytest.mark.parametrize("adapt", ["every-task", "first-task"])
def test_a_method_says_whether_a_task_moves_its_features(ready, adapt):
    method = ready(adapt=adapt)[0].method
    assert [method.adapts(t) for t in range(3)] == [True, *[adapt == "every-task"] * 2]


def test_what_else_may_adapt_is_refused():
    with pytest.raises(BadInput, match=r"method\.adapt is 'never'; .*'every-task' or 'first-task'"):
        configure("fm-lora", overrides={"method.adapt": "never"})


# Estimates of a task's complexity


def brute_force(features: torch.Tensor, labels: torch.Tensor) -> float:
    """One image at a time, against means made without it."""
    wrong = 0
    for i, x in enumerate(features):
        others = torch.arange(len(labels)) != i
        similar = {}
        for label in labels[others].unique():
            mean = features[others & (labels == label)].mean(0)
            similar[int(label)] = float(x @ mean / (x.norm() * mean.norm()))
        wrong += max(similar, key=similar.get) != int(labels[i])
    return wrong / len(labels)


@pytest.mark.parametrize("signal", [0.0, 0.5, 3.0])
def test_means_error_leaves_each_image_out_of_its_own_mean(signal):
    """Classes of different size, one of a single image; labels with gaps, in no order."""
    labels = torch.tensor([7] * 9 + [2] * 5 + [30] * 2 + [4])[
        torch.randperm(17, generator=generator())
    ]
    features = draw(17, 6) + signal * draw(31, 6, seed=1)[labels]
    found = float(means_error(features, labels))
    assert found == pytest.approx(brute_force(features, labels))
    assert found >= 1 / 17  # the single one


def test_an_image_in_its_own_mean_would_look_better_than_it_is():
    """In many dimensions noise is nearest to the mean that it is part of."""
    labels = torch.arange(20) % 2
    assert means_error(draw(20, 400), labels) > 0.3


def watched(run) -> tuple[list[list[float]], list[list[float]], list[float]]:
    """Train; what each preliminary epoch's batches lost, how long their gradients were (without
    the head's), and the error of class means before each task, as hooks of the test see them."""
    losses, gradients, errors = [], [], []
    method, learner = run.method, run.learner
    begin_stage, loss = method.begin_stage, method.loss

    def watched_begin(stage, noise):
        begin_stage(stage, noise)
        if stage.name == "estimate":
            images = run.stream.tasks[method.task.index].train
            with torch.no_grad():
                errors.append(brute_force(learner.features(images.pixels), images.labels))
        if stage.name == "preliminary":
            losses.append([])
            gradients.append([])

    def watched_loss(batch):
        found = loss(batch)
        if method.training and method.stage == "preliminary":
            losses[-1].append(found.item())
        return found

    def before_step(optimizer, *_):
        if method.stage == "preliminary":
            own = [p.grad for group in optimizer.param_groups[:-2] for p in group["params"]]
            gradients[-1].append(float(torch.cat([g.flatten() for g in own]).norm()))

    method.begin_stage, method.loss = watched_begin, watched_loss
    handle = register_optimizer_step_pre_hook(before_step)
    try:
        run.run()
    finally:
        handle.remove()
    return losses, gradients, errors


@pytest.mark.parametrize("source", ["first-task", "first-task-gradient"])
def test_estimates_are_what_was_seen_of_each_task(ready, source):
    """Prompts and the selector's w are there from task to task, and so are their gradients: none
    of an earlier task may count."""
    run, keeper = ready(
        each=20, bases={"from": source}, drs={"estimates": True}, prompt={"tokens": 2}
    )
    losses, gradients, errors = watched(run)
    assert len(keeper.records) == 3
    for task, record in enumerate(keeper.records):
        assert len(losses[task]) == len(gradients[task]) > EARLY
        for name, seen in (("early_loss", losses[task]), ("early_gradient", gradients[task])):
            assert float(record[name]) == pytest.approx(sum(seen[:EARLY]) / EARLY, rel=1e-5)
        assert float(record["means_error"]) == pytest.approx(errors[task])
    assert len({float(record["early_gradient"]) for record in keeper.records}) == 3


def test_measuring_changes_nothing_of_what_is_learned(ready, monkeypatch):
    """Every stage draws from generators of its own number, and measuring is a stage more, so that
    the same seed then shuffles otherwise. Beside a run with an idle stage in its place, it is the
    same bit for bit."""
    drs = {"estimates": True, "per_site": True}
    measuring, measured = ready(drs=drs, prompt={"tokens": 2})
    measuring.run()
    stages = FMLoRA.stages

    def with_idle_stage(self, epochs):
        yield Stage("idle", 1, observe=True)
        yield from stages(self, epochs)

    monkeypatch.setattr(FMLoRA, "stages", with_idle_stage)
    monkeypatch.setattr(FMLoRA, "observe", lambda *_: None)
    idle, kept = ready(drs={"per_site": True}, prompt={"tokens": 2})
    idle.run()
    for with_estimates, without in zip(measured.records, kept.records, strict=True):
        same({k: t for k, t in with_estimates.items() if k not in ESTIMATES}, without)
    state = measuring.learner.state()
    same({k: t for k, t in state.items() if ".estimates." not in k}, idle.learner.state())
    assert measuring.at.correct == idle.at.correct


def test_without_estimates_there_is_no_trace_of_them(trained):
    run, keeper = trained()
    assert not any(name in record for record in keeper.records for name in ESTIMATES)
    assert not any("estimates" in name for name in run.learner.state())
    assert {line["stage"] for line in keeper.lines} == {"preliminary", "train"}


class Stopped(Exception):
    pass


def stopping(keeper_type):
    """A keeper that stops the run once after every epoch, and knows where to go on."""

    class Stopping(keeper_type):
        saved, seen = None, frozenset()

        def load_checkpoint(self):
            return deepcopy(self.saved)

        def save_checkpoint(self, tensors, position):
            super().save_checkpoint(tensors, position)
            self.saved = deepcopy((self.state, position))

        def log(self, line):
            super().log(line)
            key = line["task"], line["stage"], line["epoch"]
            if key not in self.seen:
                self.seen = self.seen | {key}
                raise Stopped

    return Stopping()


@pytest.mark.parametrize(
    "settings",
    [
        {"drs": {"estimates": True}, "prompt": {"tokens": 2}},
        {"bases": {"from": "weight-svd"}, "directions": "own"},
        {"bases": {"shared": True}},
        {"bases": {"init": "inputs"}, "drs": {"estimates": True}},
        {"bases": {"init": "gradient", "lr_v": 0.01}},
        {"bases": {"init": "weight"}},
        {"adapt": "first-task", "prompt": {"tokens": 2}},
        {"drs": {"keep_warmup": True}},
    ],
    ids=["estimates", "own", "shared", "inputs", "gradient", "weight", "first-task", "warm"],
)
def test_stopped_after_every_epoch_and_resumed_leaves_the_same_records(
    ready, memory_keeper, monkeypatch, settings
):
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", float("inf"))
    whole, kept = ready(**settings)
    whole.run()
    keeper, stops = stopping(memory_keeper), 0
    while len(keeper.records) < 3:
        resumed, _ = ready(keeper=keeper, **settings)
        try:
            resumed.run()
        except Stopped:
            stops += 1
    assert stops == len(kept.lines)
    for a, b in zip(kept.records, keeper.records, strict=True):
        same(a, b)
    same(whole.learner.state(), resumed.learner.state())


@pytest.mark.parametrize("bases", [{"from": "first-task-gradient"}, {"init": "gradient"}])
def test_a_gradient_needs_a_first_task_of_two_classes(trainer, tiny_stream, quick, bases):
    settings = quick("fm-lora", bases=bases)
    with pytest.raises(BadInput, match="one class, whose loss has none"):
        trainer(settings, tiny_stream(tasks=4)).run()
