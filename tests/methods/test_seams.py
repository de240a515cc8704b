"""What a method may do that none of the lab's does: toys that show each seam to be wide enough.

A toy is registered as a newcomer's method would be: settings, one decorated class.
"""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fmlora_lab import restore, run
from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.config import BadInput
from fmlora_lab.methods.low_rank.lora import LoRA, LoRASettings
from fmlora_lab.methods.method import Batch, Group, Method, Stage, StepBatch, TaskInfo, register
from fmlora_lab.runs.run import parts
from fmlora_lab.training import learner as learner_module

pytestmark = pytest.mark.train


def known_as(called: str, method: type[Method]) -> None:
    """Register a LoRA that has ways of its own."""

    class Settings(LoRASettings):
        name: str = called
        rank: int = 4
        lr: float = 0.01

    register(Settings, title=f"toy {called}", family="toys", what="a toy")(method)


# A step in the method's own way


class Projected(LoRA):
    """Between backward and step: U's gradient loses what it has in some directions of the outputs,
    as if earlier tasks needed these."""

    def step(self, batch: StepBatch) -> Tensor:
        loss = batch.loss(batch.images, batch.query)
        batch.optimizer.zero_grad()
        loss.backward()
        for U in self.U:
            M = forbidden(U)
            U.grad -= M @ (M.T @ U.grad)
        batch.optimizer.step()
        return loss.detach()


def forbidden(U: Tensor) -> Tensor:
    """An orthonormal basis (d_out, 3) of these directions."""
    draw = torch.randn(len(U), 3, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(draw.to(U)).Q


class Halves(LoRA):
    """A batch in two halves, one backward pass each: half the memory, the same step."""

    def step(self, batch: StepBatch) -> Tensor:
        batch.optimizer.zero_grad()
        total = torch.zeros(())
        for half in torch.arange(len(batch.images)).tensor_split(2):
            query = None if batch.query is None else batch.query[half]
            part = batch.loss(batch.images[half], query) * len(half) / len(batch.images)
            part.backward()
            total = total + part.detach()
        batch.optimizer.step()
        return total


class Sparse(LoRA):
    """After the step: entries of U below a threshold are set to zero."""

    def step(self, batch: StepBatch) -> Tensor:
        loss = super().step(batch)
        with torch.no_grad():
            for U in self.U:
                U[U.abs() < THRESHOLD] = 0
        return loss


THRESHOLD = 0.006


def first_gradients(trainer, stream, name: str) -> list[Tensor]:
    """What the optimiser sees at the very first step, parameter by parameter."""
    seen = []

    def note(optimizer, *_):
        if not seen:
            seen.extend(p.grad.clone() for group in optimizer.param_groups for p in group["params"])

    handle = register_optimizer_step_pre_hook(note)
    try:
        trainer({"name": name, "rank": 4, "lr": 0.01}, stream, epochs=1).run()
    finally:
        handle.remove()
    return seen


def test_gradients_are_projected_between_backward_and_step(trainer, tiny_stream, float64):
    """The optimiser sees plain LoRA's gradients, those of U without the forbidden directions."""
    known_as("projected", Projected)
    plain = first_gradients(trainer, tiny_stream(), "lora")
    found = first_gradients(trainer, tiny_stream(), "projected")
    sites = (len(plain) - 2) // 2  # U of each site, V of each, the head's rows and biases
    for n, (g, p) in enumerate(zip(plain, found, strict=True)):
        wanted = g
        if n < sites:
            M = forbidden(g)
            wanted = g - M @ (M.T @ g)
            assert (wanted - g).norm() > 0.01 * g.norm() > 0
        torch.testing.assert_close(p, wanted, rtol=1e-6, atol=1e-12)


def test_a_batch_in_two_halves_learns_what_the_whole_one_does(
    trainer, tiny_stream, memory_keeper, float64
):
    known_as("halves", Halves)
    losses, sizes = [], []
    for name in ("lora", "halves"):
        keeper = memory_keeper()
        started = trainer({"name": name, "rank": 4, "lr": 0.01}, tiny_stream(), keeper=keeper)
        forward = started.learner._forward

        def counted(pixels, *rest, forward=forward, own=(own := []), **more):
            own.append(len(pixels))
            return forward(pixels, *rest, **more)

        started.learner._forward = counted
        started.run()
        losses.append([line["loss"] for line in keeper.lines])
        sizes.append(own[:4])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert sizes == [[8, 8, 8, 8], [4, 4, 4, 4]]


def test_what_is_small_after_a_step_is_set_to_zero(trainer, tiny_stream, memory_keeper):
    known_as("sparse", Sparse)
    entries = []
    for name in ("lora", "sparse"):
        keeper = memory_keeper()
        trainer({"name": name, "rank": 4, "lr": 0.01}, tiny_stream(), keeper=keeper).run()
        record = keeper.records[1]
        entries.append(torch.cat([t.flatten() for k, t in record.items() if k[0] == "U"]).abs())
    small = [(e > 0) & (e < THRESHOLD) for e in entries]
    assert small[0].float().mean() > 0.1 and not small[1].any()
    assert 0.1 < (entries[1] == 0).float().mean() < 0.9


# Factors chosen by the input


class Gated(LoRA):
    """Columns in use chosen by what enters the site. V stays as it is drawn."""

    def __init__(self, settings: LoRASettings, model):
        super().__init__(settings, model)
        self.gates = nn.ParameterList(torch.ones(s.d_in, settings.rank) for s in model.sites)

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        with torch.no_grad():
            for n, gate in enumerate(self.gates):
                gate.copy_(torch.randn(gate.shape, generator=task.generator) / len(gate) ** 0.5)
                self.U[n].copy_(torch.randn(self.U[n].shape, generator=task.generator) / 8)

    def choose(self, x: Tensor, gate: Tensor) -> Tensor:
        raise NotImplementedError

    def factors(self, query: Tensor | None = None) -> list[Factors]:
        return [
            update._replace(columns=lambda x, gate=gate: self.choose(x, gate))
            for update, gate in zip(super().factors(), self.gates, strict=True)
        ]

    def groups(self) -> list[Group]:
        return [Group([*self.U, *self.V, *self.gates], self.settings.lr)]

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        return {}  # nothing that depends on images can be merged: the adapter stays


class ByBatch(Gated):
    def choose(self, x: Tensor, gate: Tensor) -> Tensor:  # (k,)
        return (x.mean((0, 1)) @ gate.to(x.dtype)).sigmoid()


class ByImage(Gated):
    def choose(self, x: Tensor, gate: Tensor) -> Tensor:  # (B, k)
        return (x.mean(1) @ gate.to(x.dtype)).sigmoid()


class ByCls(Gated):
    def choose(self, x: Tensor, gate: Tensor) -> Tensor:  # (B, k), of [CLS] at this layer
        return (x[:, 0] @ gate.to(x.dtype)).softmax(-1)


GATED = {"by-batch": ByBatch, "by-image": ByImage, "by-cls": ByCls}
every_gate = pytest.mark.parametrize("name", GATED)


class DenseByImage(nn.Module):
    """A linear layer whose weight is formed for one image after the other."""

    def __init__(self, site, update: Factors, choose):
        super().__init__()
        self.site, self.update, self.choose = site, update, choose

    def forward(self, x: Tensor) -> Tensor:
        chosen, k = self.choose(x), self.update.U.shape[1]
        out = []
        for image, columns in zip(x, chosen.expand(len(x), k), strict=True):
            change = torch.einsum("ok,k,ik->oi", self.update.U, columns, self.update.V)
            weight = self.site.weight.detach().clone()
            if self.site.rows is None:
                weight = weight + change
            else:
                weight = weight.index_add(0, self.site.rows, change)
            out.append(image @ weight.T + self.site.bias)
        return torch.stack(out)


def dense(learner, updates: list[tuple[Factors, object]]):
    """The learner's network in float64 with each site dense: pixels to features."""
    network = deepcopy(learner.model.network)
    for site, (update, choose) in zip(learner.model.sites, updates, strict=True):
        parent, leaf = site.name.rsplit(".", 1)
        setattr(network.get_submodule(parent), leaf, DenseByImage(site, update, choose))

    def features(pixels: Tensor) -> Tensor:
        x = learner.model.pixels_in(pixels)
        return network.forward_head(network.forward_features(x), pre_logits=True)

    return features


def gated(trainer, stream, vit, name: str, **settings):
    """A learner in the middle of its first task, and the same in dense float64."""
    learner = trainer({"name": name, **settings}, stream, vit.double()).learner
    noise = torch.Generator().manual_seed(1)
    learner.head.begin_task(range(2), noise)
    learner.method.begin_task(TaskInfo(0, range(2), noise))
    twin = deepcopy(learner.method)
    updates = [
        (Factors(U, None, V), lambda x, gate=gate: twin.choose(x, gate))
        for U, V, gate in zip(twin.U, twin.V, twin.gates, strict=True)
    ]
    return learner, twin, dense(learner, updates)


@pytest.mark.parametrize("layers", [("attn.qkv", "mlp.fc2"), ("attn.k", "attn.proj", "mlp.fc1")])
@every_gate
def test_columns_chosen_by_the_input_are_dense_mathematics_image_by_image(
    trainer, tiny_stream, tiny_vit, float64, name, layers
):
    """Features, the loss, and every gradient of it."""
    known_as(name, GATED[name])
    images = tiny_stream().tasks[0].train
    learner, twin, reference = gated(trainer, tiny_stream(), tiny_vit(), name, layers=layers)
    learner.method.train()
    wanted = reference(images.pixels)
    torch.testing.assert_close(learner.features(images.pixels), wanted, rtol=1e-9, atol=1e-9)

    rows = learner.head.rows.detach().clone().requires_grad_()
    loss = F.cross_entropy(F.linear(wanted, rows, learner.head.row_bias), images.labels)
    found = learner.loss(images)
    torch.testing.assert_close(found, loss, rtol=1e-10, atol=1e-10)
    found.backward()
    loss.backward()
    torch.testing.assert_close(learner.head.rows.grad, rows.grad, rtol=1e-8, atol=1e-10)
    for own, other in zip(learner.method.parameters(), twin.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-7, atol=1e-10)
    moved = [*learner.method.U, *learner.method.V, *learner.method.gates]
    assert all(p.grad.abs().max() > 1e-7 for p in moved)


@every_gate
def test_evaluation_chooses_by_the_images_of_its_own_batch(
    trainer, tiny_stream, tiny_vit, float64, monkeypatch, name
):
    """Folded weights would have to be one for all images: these sites go on as in training."""
    known_as(name, GATED[name])
    monkeypatch.setattr(learner_module, "EVALUATION_BATCH", 3)
    images = tiny_stream().tasks[0].test
    learner, _, reference = gated(trainer, tiny_stream(), tiny_vit(), name)
    found = [features for features, _ in learner.in_batches(images)]
    assert [len(part) for part in found] == [3, 3]
    with torch.no_grad():
        wanted = [reference(part) for part in images.pixels.split(3)]
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
        alone = torch.cat([reference(one[None]) for one in images.pixels])
    by_others = not torch.allclose(torch.cat(wanted), alone, rtol=1e-6, atol=1e-9)
    assert by_others == (name == "by-batch")
    assert learner.inference_flops() > 0


# The task of an image, inferred


class Inferring(LoRA):
    """Every task's adapter is kept; an image uses that of the task whose mean query is nearest."""

    needs_query = True

    def __init__(self, settings: LoRASettings, model):
        super().__init__(settings, model)
        for n, site in enumerate(model.sites):
            self.register_buffer(f"old_U{n}", torch.zeros(site.d_out, 0))
            self.register_buffer(f"old_V{n}", torch.zeros(site.d_in, 0))
        self.register_buffer("sums", torch.zeros(0, model.width))
        self.register_buffer("counts", torch.zeros(0))

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.sums = torch.cat([self.sums, self.sums.new_zeros(1, self.sums.shape[1])])
        self.counts = torch.cat([self.counts, self.counts.new_zeros(1)])

    def loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            self.sums[-1] += batch.query.sum(0)
            self.counts[-1] += len(batch.query)
        return super().loss(batch)

    def task_of(self, query: Tensor) -> Tensor:
        return torch.cdist(query, self.sums / self.counts[:, None]).argmin(1)

    def factors(self, query: Tensor | None = None) -> list[Factors]:
        found = []
        for n, own in enumerate(super().factors()):
            U = torch.cat([getattr(self, f"old_U{n}"), own.U], dim=1)
            V = torch.cat([getattr(self, f"old_V{n}"), own.V], dim=1)
            task = torch.arange(U.shape[1]).to(U.device) // self.settings.rank
            present = task[-1:] if self.training else self.task_of(query)[:, None]
            found.append(Factors(U, None, V, columns=(task == present).to(U)))
        return found

    @torch.no_grad()
    def end_task(self) -> dict[str, Tensor]:
        for n, own in enumerate(LoRA.factors(self)):
            for name, side in (("U", own.U), ("V", own.V)):
                old = getattr(self, f"old_{name}{n}")
                setattr(self, f"old_{name}{n}", torch.cat([old, side], dim=1))
            own.U.zero_()
        return {}


def test_an_image_uses_the_columns_of_the_task_that_its_query_says(
    trainer, tiny_stream, tiny_vit, float64
):
    known_as("inferring", Inferring)
    stream = tiny_stream(classes=6, tasks=3)
    started = trainer({"name": "inferring"}, stream, tiny_vit().double(), epochs=3)
    started.run()
    learner, method = started.learner, started.method
    pixels = torch.cat([task.test.pixels for task in stream.tasks])
    plain, x = tiny_vit().double(), learner.model.pixels_in(pixels)
    with torch.no_grad():
        query = plain.forward_head(plain.forward_features(x), pre_logits=True)
        nearest = torch.cdist(query, method.sums / method.counts[:, None]).argmin(1)
        found = learner.features(pixels)
        for image, task, features in zip(pixels, nearest, found, strict=True):
            own = slice(4 * task, 4 * task + 4)
            updates = [
                Factors(method.get_buffer(f"old_U{n}")[:, own], None,
                        method.get_buffer(f"old_V{n}")[:, own])
                for n in range(len(learner.model.sites))
            ]  # fmt: skip
            alone = dense(learner, [(update, lambda x: x.new_ones(4)) for update in updates])
            wanted = alone(image[None])[0]
            torch.testing.assert_close(features, wanted, rtol=1e-8, atol=1e-9)
            assert (wanted - query[0]).abs().max() > 1e-3
    assert set(nearest.tolist()) == {0, 1, 2}


def test_in_training_the_present_tasks_columns_learn_alone(trainer, tiny_stream, tiny_vit, float64):
    """For all images, whatever their queries say: gradients of a network with one adapter."""
    known_as("inferring", Inferring)
    stream, noise = tiny_stream(), torch.Generator().manual_seed(1)
    started = trainer({"name": "inferring"}, stream, tiny_vit().double())
    started.run()
    learner, method, images = started.learner, started.method, stream.tasks[0].train
    learner.head.begin_task(range(2), noise)
    method.begin_task(TaskInfo(2, range(2), noise))
    with torch.no_grad():
        for U in method.U:
            U.copy_(torch.randn(U.shape, generator=noise) / 8)
    own = [(U.detach().clone().requires_grad_(), V.detach().clone().requires_grad_())
           for U, V in zip(method.U, method.V, strict=True)]  # fmt: skip
    alone = dense(learner, [(Factors(U, None, V), lambda x: x.new_ones(4)) for U, V in own])
    rows, bias = learner.head.rows.detach(), learner.head.row_bias.detach()
    F.cross_entropy(F.linear(alone(images.pixels), rows, bias), images.labels).backward()
    method.zero_grad()
    method.train()
    learner.loss(images).backward()
    for U, V, (wanted_U, wanted_V) in zip(method.U, method.V, own, strict=True):
        torch.testing.assert_close(U.grad, wanted_U.grad, rtol=1e-7, atol=1e-11)
        torch.testing.assert_close(V.grad, wanted_V.grad, rtol=1e-7, atol=1e-11)
        assert min(U.grad.abs().max(), V.grad.abs().max()) > 1e-6


# A probe, which only measures


class Probing(LoRA):
    """After a task's training the head alone learns once more, for two epochs, to see how fast."""

    def __init__(self, settings: LoRASettings, model):
        super().__init__(settings, model)
        self.stage = ""

    def stages(self, epochs: int):
        yield Stage("train", epochs)
        yield Stage("look", 2, hold_out=0.25, probe=True)

    def begin_stage(self, stage: Stage, generator: torch.Generator) -> None:
        self.stage = stage.name

    def groups(self) -> list[Group]:
        return [] if self.stage == "look" else super().groups()


def test_a_probe_begins_with_new_rows_and_leaves_the_head_as_it_was(
    trainer, tiny_stream, memory_keeper
):
    known_as("probing", Probing)
    plain, kept = trainer({"name": "lora", "rank": 4, "lr": 0.01}, tiny_stream()), memory_keeper()
    run, rows = trainer("probing", tiny_stream(), keeper=kept), []

    def watched(stage, generator, begin_stage=run.method.begin_stage):
        begin_stage(stage, generator)
        rows.append(run.learner.head.rows.detach().clone())

    def first_step(generator):
        if run.method.stage == "look":
            rows.append(run.learner.head.rows.detach().clone())

    run.method.begin_stage, run.method.on_step = watched, first_step
    measured, wanted = run.run(), plain.run()
    _, trained, new, *_ = rows
    assert 0 < new.std() < 0.03 < (trained - new).abs().max()  # drawn anew, without what is known
    losses = [line["loss"] for line in kept.lines if line["stage"] == "look"]
    assert len(losses) == 4 and losses[0] > losses[1] and losses[2] > losses[3]
    for name, tensor in plain.learner.state().items():
        assert torch.equal(run.learner.state()[name], tensor), name
    assert measured["trained"] == wanted["trained"]  # what a probe trains is nobody's


# All of them, in whole runs

TOYS = {
    "projected": Projected,
    "halves": Halves,
    "sparse": Sparse,
    **GATED,
    "inferring": Inferring,
    "probing": Probing,
}


@pytest.mark.parametrize("name", TOYS)
def test_a_toys_run_stopped_and_resumed_is_the_same(tiny_config, resumed, same_run, tmp_path, name):
    known_as(name, TOYS[name])
    config = tiny_config(name)
    whole = run(config, tmp_path / "whole")
    same_run(whole, resumed(config, tmp_path / "stopped"))
    assert whole.label.title == f"toy {name}" and whole.label.family == "toys"
    right = [restore(whole).correct(task.test) for task in parts(config)[1].tasks]
    assert [100 * n / 6 for n in right] == pytest.approx(whole.accuracy_matrix[-1], abs=1e-3)


@pytest.mark.parametrize("name", [*GATED, "inferring"])
def test_what_depends_on_the_image_is_not_merged(tiny_config, tmp_path, name):
    known_as(name, TOYS[name])
    learner = restore(run(tiny_config(name), tmp_path))
    with pytest.raises(BadInput, match=rf"^{name} chooses .* a plain timm model cannot express$"):
        learner.merge()
