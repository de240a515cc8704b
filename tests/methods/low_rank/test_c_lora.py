"""C-LoRA: the old routing is used and never changed; shared factors learn through the new one."""

import pytest
import torch

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.methods.low_rank.c_lora import CLoRA, CLoRASettings
from fmlora_lab.methods.method import Batch, TaskInfo, build
from fmlora_lab.methods.starts import shares_of_starts
from fmlora_lab.seeds import generator

D, R = 32, 4


@pytest.fixture
def method(tiny_vit):
    """`method(**settings)` in float64 on q, v and the MLP of both blocks of a ViT of width 32."""

    def make(**settings) -> CLoRA:
        settings = {"layers": ("attn.q", "attn.v", "mlp.fc1"), "rank": R, **settings}
        return build(CLoRASettings(**settings), ViT(tiny_vit().double())).double()

    return make


def begin(m: CLoRA, index: int) -> None:
    m.begin_task(TaskInfo(index, range(1), generator(0, "method", index)))


@torch.no_grad()
def learn(m: CLoRA, index: int) -> None:
    """Begin a task and put something that was learned into all that is trained."""
    begin(m, index)
    noise = generator(index, "learned")
    for p in (*m.U, *m.V, m.R):
        p += 0.1 * torch.randn(p.shape, generator=noise, dtype=p.dtype)


def updates(m: CLoRA) -> list[torch.Tensor]:
    return [factors.dense().detach() for factors in m.factors()]


def plain_loss(m: CLoRA) -> torch.Tensor:
    """The method's loss where cross-entropy has nothing to say."""
    nothing = torch.zeros(1, 1, dtype=m.R.dtype)
    return m.loss(Batch(nothing, nothing, torch.zeros(1, dtype=torch.long), None))


def test_the_weight_is_that_of_old_and_new_routing_and_gradients_flow_through_the_new(method):
    """Against dense autograd in which the old part is stopped."""
    m = method()
    learn(m, 0)
    m.end_task()
    learn(m, 1)
    x = torch.randn(7, D, generator=generator(1)).double()
    trained = [m.R, *m.U, *m.V]
    m.model.set_update(m.factors(), None)
    for site in m.model.sites:
        site(x).square().sum().backward()
    found = [p.grad for p in trained]
    for p in trained:
        p.grad = None
    for s, site in enumerate(m.model.sites):
        U, V = m.U[s], m.V[s]
        change = (U @ m.old[s] @ V.T).detach() + U @ m.R[s] @ V.T
        torch.testing.assert_close(m.factors()[s].dense(), change)
        if site.d_out == 2 * D:  # q and v
            change = torch.cat([change[:D], torch.zeros_like(change[:D]), change[D:]])
        (x @ (site.weight + change).T + site.bias).square().sum().backward()
    for ours, p in zip(found, trained, strict=True):
        torch.testing.assert_close(ours, p.grad)
        assert ours.abs().max() > 1e-3
    with torch.no_grad():
        m.R.zero_()
    for p in trained:
        p.grad = None
    m.model.set_update(m.factors(), None)
    for site in m.model.sites:
        site(x).square().sum().backward()
    assert not any(p.grad.any() for p in (*m.U, *m.V)) and m.R.grad.any()  # old alone gives none


def test_the_old_routing_is_unchanged_by_later_tasks(trainer, tiny_stream, memory_keeper):
    keeper, seen = memory_keeper(), []
    settings = {"name": "c-lora", "rank": R, "lr": 0.02, "layers": ["attn.qkv", "mlp.fc2"]}
    run = trainer(settings, tiny_stream(classes=6, tasks=3), keeper=keeper, epochs=2)
    m = run.method
    begin_stage, on_step, end_task = m.begin_stage, m.on_step, m.end_task

    def watch(hook):
        def watched(*args):
            seen.append((len(keeper.records), m.old.clone()))
            return hook(*args)

        return watched

    m.begin_stage, m.on_step, m.end_task = watch(begin_stage), watch(on_step), watch(end_task)
    kept = m.kept()
    run.run()
    total = torch.zeros_like(m.old)
    for task, record in enumerate(keeper.records):
        during = [old for t, old in seen if t == task]
        assert len(during) > 4 and all(torch.equal(old, total) for old in during)
        assert record["routing"].any()
        total = total + record["routing"]
    assert torch.equal(m.old, total)
    assert m.kept() == kept  # whatever the number of tasks
    trained = {id(p) for group in m.groups() for p in group.parameters}
    assert trained == {id(p) for p in (m.R, *m.U, *m.V)}
    assert not any(tensor.requires_grad for tensor in m.buffers())


def test_the_new_routing_is_held_orthogonal_to_the_columns_that_the_old_one_uses(method):
    m = method(orthogonality=3.0, energy=0.8)
    learn(m, 0)
    assert plain_loss(m) == 0  # nothing is old
    m.end_task()
    learn(m, 1)
    wanted = torch.zeros((), dtype=torch.float64)
    for R_t, old, Q in zip(m.R, m.old, m.Q, strict=True):
        left, sigma, _ = torch.linalg.svd(old)
        share = sigma.square().cumsum(0) / sigma.square().sum()
        k = int((share < 0.8).sum()) + 1  # the fewest that hold it
        torch.testing.assert_close(Q.T @ Q, torch.diag((torch.arange(R) < k).double()))
        torch.testing.assert_close(Q @ Q.T, left[:, :k] @ left[:, :k].T)
        wanted += 3 * (left[:, :k].T @ R_t).square().sum()
    torch.testing.assert_close(plain_loss(m), wanted)
    with torch.no_grad():
        m.R -= m.Q @ m.Q.mT @ m.R
    assert plain_loss(m) < 1e-20 and m.R.norm() > 0.1


@pytest.mark.parametrize(("energy", "columns"), [(0.0, 0), (1.0, R)])
def test_a_basis_may_hold_nothing_or_all_and_after_no_training_it_is_empty(method, energy, columns):
    m = method(energy=energy)
    begin(m, 0)
    m.end_task()
    assert not m.Q.any()
    learn(m, 1)
    m.end_task()
    assert (m.Q.norm(dim=1) > 0.5).sum(1).tolist() == [columns] * len(m.Q)


def test_the_term_keeps_tasks_apart_in_training(trainer, tiny_stream, memory_keeper):
    """Of what the second task learns, the share within the first one's columns."""

    def shared(orthogonality: float) -> float:
        keeper = memory_keeper()
        settings = {"name": "c-lora", "rank": 8, "lr": 0.01, "orthogonality": orthogonality}
        run = trainer(settings, tiny_stream(), keeper=keeper, epochs=6)
        end_task, bases = run.method.end_task, []
        run.method.end_task = lambda: bases.append(run.method.Q.clone()) or end_task()
        run.run()
        R_t = keeper.records[1]["routing"]
        return ((bases[1].mT @ R_t).square().sum() / R_t.square().sum()).item()

    assert shared(100.0) < 0.2 * shared(0.0)


def test_records_add_up_to_what_the_run_ended_with_and_know_their_starts(method):
    """The moves of U and V under the old routing are in them."""
    m = method()
    total = [torch.zeros_like(update) for update in updates(m)]
    for task in range(3):
        both = [*zip(m.U, m.V, strict=True)]
        starts = [(U.detach().clone(), V.detach().clone()) for U, V in both]
        learn(m, task)
        before = updates(m)
        own = [((U @ R_t).detach(), V.detach()) for U, R_t, V in zip(m.U, m.R, m.V, strict=True)]
        record = m.end_task()
        for s, (site, after) in enumerate(zip(m.model.sites, updates(m), strict=True)):
            U, V = record[f"U.{site.name}"], record[f"V.{site.name}"]
            total[s] = total[s] + U @ V.T
            torch.testing.assert_close(total[s], before[s])
            torch.testing.assert_close(after, before[s])
            if task:  # the first task draws them
                sides = tuple(zip(own[s], starts[s], strict=True))
                share, chance = shares_of_starts([sides]).values()
                torch.testing.assert_close(record["start_share"][s], share[0])
                torch.testing.assert_close(record["start_chance"][s], chance[0])
                assert (share > 0.5).all() and (share < 0.999).all()
