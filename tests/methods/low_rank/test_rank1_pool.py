"""Rank-1 Expert Pool: who is chosen, what is merged, what AGO does; against the released code."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.methods.low_rank.rank1_pool import Rank1Pool, Rank1PoolSettings
from fmlora_lab.methods.method import TaskInfo, build
from fmlora_lab.seeds import generator
from fmlora_lab.training.learner import Learner

QUICK = {"name": "rank1-pool", "lr": 0.05}

# Made on 2026-11-26 by two `LinearLoRA` (models/loralib/layers.py) and `compute_orthogonal_loss`
# (models/lrbmutil.py) of Fazhan-cs/DAC at 38be3b5, in float64, without dropout, on the numbers that
# the test draws. By task: AGO with the past columns that the paper means, and with those that the
# code takes; by site: the votes of the third batch, the counts of all three, what the pool adds to
# token 3 of image 2, the gradients of row 1 of U, all squares of those of U and of V, row 0 of the
# weight after the task, all squares of it.
RELEASED = [
    (0.0, 0.0, [
        (
            [7, 0, 4, 7, 6, 5, 2, 7, 5, 6, 7, 0],
            [21, 3, 12, 21, 16, 18, 8, 21, 13, 20, 15, 0],
            [0.1631453527, 1.8946205273, 1.7453314162, -0.1426667299, -0.4335322481, 0.7978296465],
            [-0.900357997, 0.0, 0.0, 1.4657771159, -0.6929708133, 1.1477253795,
             0.0, -0.6985288807, 0.510544463, -1.127448146, -0.4181067697, 0.0],
            (54.80199700976944, 155.03199509032558),
            [0.1231034264, 1.4346254204, 1.1622103501, -0.4915124201, -0.2219384615, -0.4755422563],
            29.94089287305132,
        ),
        (
            [7, 0, 7, 3, 6, 5, 7, 7, 2, 4, 3, 5],
            [17, 2, 21, 9, 18, 16, 21, 21, 8, 6, 12, 17],
            [1.0972784091, -0.1983388618, 1.4500262606, 1.0654692873, -0.3922986045, 0.2617860658],
            [0.299107828, 0.0, -2.6339828288, 0.0, 1.797240551, -1.246993898,
             -0.5955840813, 0.7385701768, 0.0, 1.47716042, 0.0, 1.8210380156],
            (912.4261007131608, 600.2578940375122),
            [0.6192730664, 1.1289404735, -0.0498694095, -0.5735738487, 0.5120529162, 0.2463898931],
            121.8392280439733,
        ),
    ]),
    (68.5494290993134, 174.0067783451044, [
        (
            [7, 5, 4, 2, 6, 6, 0, 7, 5, 7, 1, 6],
            [21, 14, 13, 2, 17, 19, 1, 20, 16, 21, 7, 17],
            [0.4727466815, -1.5039406313, -0.7008670205, 0.4226060054, 0.7908082275, 0.2049008483],
            [1.4060767069, -0.2237206943, 0.0, 0.0, -1.5996803722, 1.5872306748,
             0.0, -2.731163582, 0.6864699675, 0.2042468793, 0.0, -0.3439614605],
            (115.54626743232589, 146.85125997954992),
            [0.1332522154, 1.165684953, 1.1239906991, -0.3358600568, 0.0402257447, -0.416876106],
            29.95032224595205,
        ),
        (
            [5, 7, 5, 4, 2, 7, 1, 2, 3, 7, 7, 6],
            [12, 21, 15, 10, 4, 21, 12, 10, 10, 21, 19, 13],
            [0.6300074716, -1.1463760904, -0.4958564339, 0.7244215165, 0.1779862997, 0.587735535],
            [-3.9641874637, -1.3329802179, -0.9515063971, 2.2393947743, 0.0, -4.01893322,
             0.0, 0.0, 0.0, -1.0644500867, 1.2480272766, 0.2391906801],
            (987.9054944769032, 890.180932619411),
            [0.8832452575, 1.3837254734, -0.1014231759, -0.7526351909, 0.2047722702, 0.2143143575],
            126.70086656831073,
        ),
    ]),
]  # fmt: skip


def begin(m: Rank1Pool, index: int) -> None:
    m.begin_task(TaskInfo(index, range(1), generator(0, "method", index)))


def test_two_layers_are_the_released_codes_from_the_vote_to_the_merged_weight(tiny_vit):
    d, r, draw = 6, 12, np.random.default_rng(11)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(draw.standard_normal(shape))

    vit = tiny_vit(embed_dim=d, depth=1).double()
    m = build(Rank1PoolSettings(layers=("attn.proj", "mlp.fc1")), ViT(vit)).double()
    sites = m.model.sites
    for part in ("weight", "bias"):
        for site in sites:
            tensor = getattr(site, part).data
            tensor.copy_(drawn(*tensor.shape))
    everything = []
    for task, (ago, as_released, wanted) in enumerate(RELEASED):
        begin(m, task)
        m.train()
        with torch.no_grad():
            for n, site in enumerate(sites):
                m.V[n].copy_(drawn(d, r)), m.U[n].copy_(drawn(site.d_out, r))
                m.routers[n].weight.copy_(drawn(r, d)), m.routers[n].bias.copy_(drawn(r))
        m.zero_grad()
        m.model.set_update(m.factors(), None)
        for _ in range(3):
            before = m.counts.clone()
            x = [drawn(7, 5, d) + 1 for _ in sites]
            g = [drawn(7, 5, site.d_out) for site in sites]
            y = [site(tokens) for site, tokens in zip(sites, x, strict=True)]
        loss = sum((out * weight).sum() for out, weight in zip(y, g, strict=True))
        if task:
            assert m.overlap().item() == pytest.approx(ago, rel=1e-12)
            loss = loss + 0.1 * m.overlap()
            kept = m.past0, m.past1
            m.past0, m.past1 = everything
            assert m.overlap().item() == pytest.approx(as_released, rel=1e-12)
            m.past0, m.past1 = kept
        loss.backward()
        plain = [F.linear(t, s.weight, s.bias) for t, s in zip(x, sites, strict=True)]
        votes, counts = (m.counts - before).tolist(), m.counts.tolist()
        everything = [U.detach().clone() for U in m.U]
        assert all(p.grad is None for p in m.routers.parameters())
        m.eval()
        m.end_task()
        for n, (voted, counted, added, U_row, (U_all, V_all), row, all_of_W) in enumerate(wanted):
            assert (votes[n], counts[n]) == (voted, counted)
            found = (y[n] - plain[n])[2, 3, :6].tolist()
            assert found == pytest.approx(added, rel=1e-8)
            assert m.U[n].grad[1].tolist() == pytest.approx(U_row, rel=1e-8)
            assert m.U[n].grad.square().sum().item() == pytest.approx(U_all, rel=1e-10)
            assert m.V[n].grad.square().sum().item() == pytest.approx(V_all, rel=1e-10)
            assert sites[n].weight[0].tolist() == pytest.approx(row, rel=1e-8)
            assert sites[n].weight.square().sum().item() == pytest.approx(all_of_W, rel=1e-12)


def weights(learner: Learner) -> list[torch.Tensor]:
    return [site.weight.detach().clone() for site in learner.model.sites]


# What is merged


@pytest.mark.parametrize("router", ["published", "fixed", "learned"])
def test_each_task_adds_the_merged_rank_and_nothing_is_left_to_do_at_inference(
    trainer, tiny_stream, tiny_vit, memory_keeper, float64, router
):
    """The weight's change has rank 4, as recorded; predicting costs what it costs a frozen ViT."""
    states = []

    class Keeper(memory_keeper):
        def save_task(self, index, tensors):
            super().save_task(index, tensors)
            states.append(weights(run.learner))

    keeper, stream = Keeper(), tiny_stream()
    run = trainer({**QUICK, "router": router}, stream, tiny_vit().double(), keeper)
    states.append(weights(run.learner))
    run.run()
    for task, record in enumerate(keeper.records):
        for n, site in enumerate(run.learner.model.sites):
            change = states[task + 1][n] - states[task][n]
            assert torch.linalg.matrix_rank(change, rtol=1e-9) == 4
            update = record[f"U.{site.name}"] @ record[f"V.{site.name}"].T
            torch.testing.assert_close(change, update)
    frozen = trainer("linear-probe", stream)
    assert run.learner.inference_flops() == frozen.learner.inference_flops()
    sites = run.learner.model.sites
    assert run.method.kept() == 2 * 4 * sum(site.d_out for site in sites)  # for AGO alone
    unused = trainer({**QUICK, "ago": 0}, stream)
    unused.run()
    assert unused.method.kept() == 0


def test_evaluation_before_the_merge_is_what_the_merge_leaves(tiny_vit):
    """The most used experts by the counts so far, whatever a batch would choose; equal counts are
    the earlier experts'."""
    m = build(Rank1PoolSettings(rank=6, top=3, merged=2), ViT(tiny_vit()))
    begin(m, 0)
    with torch.no_grad():
        for U in m.U:
            U.normal_(generator=generator(1))
    m.counts += torch.tensor([3, 9, 4, 9, 4, 9])
    m.eval()
    before = [update.dense() for update in m.factors()]
    for U, V, update in zip(m.U, m.V, before, strict=True):
        torch.testing.assert_close(update, U[:, [1, 3]] @ V[:, [1, 3]].T / 6)
    old = [site.weight.clone() for site in m.model.sites]
    m.end_task()
    for site, W, update in zip(m.model.sites, old, before, strict=True):
        torch.testing.assert_close(site.weight, W + update)
        assert not m.factors()[0].dense().any()


# Who chooses


def test_the_published_router_gets_no_gradient_and_a_learned_one_learns(trainer, tiny_stream):
    for name in ("published", "learned"):
        run = trainer({**QUICK, "router": name}, tiny_stream(tasks=1))
        drawn, begin_task = [], run.method.begin_task

        def watched(task, begin_task=begin_task, drawn=drawn, routers=run.method.routers):
            begin_task(task)
            drawn += [p.detach().clone() for p in routers.parameters()]

        run.method.begin_task = watched
        run.run()
        routers = [*run.method.routers.parameters()]
        assert len(routers) == 16 and all(p.requires_grad for p in routers)
        same = [torch.equal(p, start) for p, start in zip(routers, drawn, strict=True)]
        assert all(same) if name == "published" else not any(same)
        assert all((p.grad is None) == (name == "published") for p in routers)


def test_a_fixed_choice_is_the_same_experts_for_every_batch(trainer, tiny_stream):
    run = trainer({**QUICK, "router": "fixed"}, tiny_stream())
    used, on_step = [], run.method.on_step

    def watched(noise):
        used.extend(U.ne(0).any(0).nonzero().flatten().tolist() for U in run.method.U if U.any())
        on_step(noise)

    run.method.on_step = watched
    run.run()
    assert used and all(columns == [*range(8)] for columns in used)
    assert not [*run.method.routers.parameters()]


def test_a_learned_routers_gradient_is_that_of_its_mean_scores(tiny_vit):
    """As if expert i's weight were the mean of softmax(s / temperature)_i over the batch."""
    settings = Rank1PoolSettings(layers=("attn.proj",), router="learned", temperature=0.7)
    m = build(settings, ViT(tiny_vit(depth=1).double())).double()
    begin(m, 0)
    m.train()
    noise = generator(1)
    with torch.no_grad():
        m.U[0].normal_(generator=noise)
    x, g = (torch.randn(4, 5, 32, generator=noise).double() for _ in range(2))
    (site,) = m.model.sites
    m.model.set_update(m.factors(), None)
    (site(x) * g).sum().backward()
    router = m.routers[0]
    found = router.weight.grad.clone()
    by_expert = torch.einsum("bto,or,ir,bti->r", g, m.U[0], m.V[0], x).detach() / 12
    router.weight.grad = None
    (router(x[:, 0]).div(0.7).softmax(-1).mean(0) @ by_expert).backward()
    torch.testing.assert_close(found, router.weight.grad, rtol=1e-8, atol=1e-10)


# AGO


def overlap_of_used(records) -> float:
    """Mean absolute cosine of the columns that the second task merged with the first one's."""
    found = []
    for name, U in records[1].items():
        if name.startswith("U."):
            now, past = (F.normalize(part, dim=0) for part in (U, records[0][name]))
            found.append((now.T @ past).abs().mean())
    return torch.stack(found).mean().item()


def test_ago_lowers_the_overlap_of_used_columns_with_earlier_tasks(
    trainer, tiny_stream, memory_keeper
):
    """Against the same run without it; the first task is the same to the last bit."""
    records = []
    for ago in (0.0, 0.1):
        keeper = memory_keeper()
        trainer({**QUICK, "ago": ago}, tiny_stream(each=16), keeper=keeper, epochs=6).run()
        records.append(keeper.records)
    without, with_ago = records
    assert all(torch.equal(with_ago[0][k], v) for k, v in without[0].items() if k[:2] == "U.")
    assert overlap_of_used(with_ago) < 0.5 * overlap_of_used(without)


@pytest.mark.parametrize("wrong", [{"top": 13}, {"merged": 9}, {"rank": 7}])
def test_fewer_are_used_than_there_are_and_fewer_merged_than_used(wrong):
    with pytest.raises(ValidationError, match="is needed, and they are"):
        Rank1PoolSettings(**wrong)
