"""LiLoRA: each image has its own task's update, as in the released code, once its task is known."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.methods.low_rank.lilora import LiLoRA, LiLoRASettings
from fmlora_lab.methods.method import Batch, TaskInfo, build
from fmlora_lab.methods.starts import shares_of_starts
from fmlora_lab.seeds import generator

D, R, S = 6, 3, 2

# Made on 2026-11-26 by `LiLoraLinear` (PEFT_LiLoRA/peft/tuners/lilora.py) of chanceche/LiLoRA at
# 5f24f190de76, in float64, on the numbers that the test draws; per task: loss, the update of block
# 0 (row 0), the gradients of V in block 1 (row 2), P in block 0 (row 1), N in block 0 (row 0) and
# of both gates, all squares of these, and those of U_0's.
RELEASED = [
    (
        12.5941717489,
        [-0.7651078348, -0.8867518074, 0.2834518337, -0.9513416843, 1.0034703593, -1.1016477313],
        [0.2452078951, 0.1323050748, -0.0604834701],
        [-0.6016157922, -0.226542969],
        [2.5075673819, 2.4459545835],
        [-2.3367890899, 0.5062555532],
        46.9043294739,
        2.7015211726,
    ),
    (
        9.5370635553,
        [0.2811931245, -0.9168612799, -0.9510712232, -0.3036563077, -0.0679913472, 0.5327631854],
        [0.0036667648, -0.2336435929, -0.163279855],
        [-0.4319752995, 0.6067315747],
        [-6.6036589249, -3.9901352254],
        [-0.174326113, -0.0852679467],
        137.6746816987,
        0.0,
    ),
    (
        8.7026728641,
        [0.0480072116, -0.3936024378, 0.0001150842, -0.0357976213, 0.0163877906, -0.1796892724],
        [-0.0881582362, -0.0124557901, -0.1235563354],
        [0.2006358737, -0.6591333132],
        [-1.7371763115, -0.4707299863],
        [-0.3458623834, 0.170775047],
        12.7789853493,
        0.0,
    ),
]
# After all tasks, with the task set: row 1 of block 1's update.
SET = [
    [-1.1038891978, -0.6465244518, 0.4602360928, 0.3934054722, 0.4114656632, -0.3647865051],
    [1.9669948902, 3.7974721346, 0.9483044273, 0.0863586083, -2.7654124605, 4.0764333782],
    [-0.0886740288, 0.0438475463, -0.1245421171, -0.042906783, 0.1110220952, -0.7836137238],
]


def begin(m: LiLoRA, index: int) -> None:
    m.begin_task(TaskInfo(index, range(1), generator(0, "method", index)))


@torch.no_grad()
def learn(m: LiLoRA, index: int) -> None:
    """Begin a task, see its images' frozen features, and learn something."""
    begin(m, index)
    noise = generator(index, "learned")
    centre = 10 * F.one_hot(torch.tensor([index]), m.model.width).double()
    query = centre + torch.randn(9, m.model.width, generator=noise, dtype=torch.float64)
    m.gaussians.add(index, query, torch.full((9,), index))
    for p in (*m.V, *m.P, *m.N, *(m.U if index == 0 else ())):
        p += torch.randn(p.shape, generator=noise, dtype=p.dtype) / 3


@pytest.fixture
def method(tiny_vit):
    """`method(**settings)` in float64 on all layers of a ViT of width 32, in evaluation mode."""

    def make(**settings) -> LiLoRA:
        settings = {"rank": 4, "own_rank": 2, **settings}
        return build(LiLoRASettings(**settings), ViT(tiny_vit().double())).double().eval()

    return make


def test_updates_loss_and_gradients_are_the_released_codes(tiny_vit):
    """Two square layers, whose outputs' sum is taken as logits; V goes on learning."""
    draw = np.random.default_rng(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(draw.standard_normal(shape))

    W, b = [drawn(D, D) for _ in range(2)], [drawn(D) for _ in range(2)]
    V, U = [[drawn(D, R) for _ in range(2)] for _ in range(3)], [drawn(D, R) for _ in range(2)]
    own = [[(drawn(D, S), drawn(R, S), drawn(1)) for _ in range(2)] for _ in range(3)]
    x, labels = [drawn(5, D) for _ in range(2)], torch.arange(5)
    vit = tiny_vit(embed_dim=D, depth=2).double()
    for n, block in enumerate(vit.blocks):
        block.attn.proj.weight.data, block.attn.proj.bias.data = W[n].clone(), b[n]
    settings = LiLoRASettings(layers=("attn.proj",), rank=R, own_rank=S, stability=0)
    m = build(settings, ViT(vit)).double().eval()
    for task, (loss, update, V_row, P_row, N_row, gates, squares, of_basis) in enumerate(RELEASED):
        begin(m, task)
        m.stage = "train"
        with torch.no_grad():
            for n, (P, N, g) in enumerate(own[task]):
                m.V[n].copy_(V[task][n]), m.P[n].copy_(P), m.N[n].copy_(N)
                m.g[n] = g.item()
                if task == 0:
                    m.U[n].copy_(U[n])
        assert m.factors()[0].dense()[0].tolist() == pytest.approx(update, abs=1e-9)
        m.model.set_update(m.factors(), None)
        logits = sum(site(tokens) for site, tokens in zip(m.model.sites, x, strict=True))
        m.zero_grad()
        found = m.loss(Batch(logits, logits, labels, None))
        found.backward()
        assert found.item() == pytest.approx(loss, rel=1e-8)
        assert m.V[1].grad[2].tolist() == pytest.approx(V_row, rel=1e-7)
        assert m.P[0].grad[1].tolist() == pytest.approx(P_row, rel=1e-8)
        assert m.N[0].grad[0].tolist() == pytest.approx(N_row, rel=1e-8)
        assert m.g.grad.tolist() == pytest.approx(gates, rel=1e-8)
        total = sum(p.grad.square().sum().item() for p in (*m.V, *m.P, *m.N, m.g))
        assert total == pytest.approx(squares, rel=1e-8)
        basis = sum(0 if p.grad is None else p.grad.square().sum().item() for p in m.U)
        assert basis == pytest.approx(of_basis, rel=1e-8)
        m.end_task()
    query = torch.zeros(1, D).double()
    for task, wanted in enumerate(SET):
        m.given = task
        assert dense(m, query)[1][0][1].tolist() == pytest.approx(wanted, abs=1e-9)


def dense(m: LiLoRA, query: torch.Tensor) -> list[torch.Tensor]:
    """Every site's update for each image (B, o, i)."""
    found = []
    for update in m.factors(query):
        assert update is not None
        columns = torch.as_tensor(update.columns)
        found.append(torch.einsum("ok,bk,ik->boi", update.U, columns, update.V).detach())
    return found


def test_images_of_several_tasks_in_one_batch_have_each_its_own_update(method):
    m = method()
    learned = []
    for task in range(3):
        learn(m, task)
        m.stage = "train"
        learned.append([f.U.detach() for f in m.factors()])
        m.end_task()
    of = torch.tensor([2, 0, 1, 1, 2])
    query = 10 * F.one_hot(of, 32).double()
    assert m.needs_query and m.tasks_of(query).tolist() == of.tolist()
    x = torch.rand(5, 3, 16, 16, generator=generator(3)).double()
    m.model.set_update(m.factors(query), None)
    together = m.model.features(x)
    for n, updates in enumerate(dense(m, query)):
        for image, task in enumerate(of):  # V is what the last task left
            torch.testing.assert_close(updates[image], learned[task][n] @ m.V[n].detach().T)
    for task in range(3):
        m.given = task
        m.model.set_update(m.factors(query), None)
        alone = m.model.features(x)
        mine = of == task
        torch.testing.assert_close(together[mine], alone[mine])
        assert (together[~mine] - alone[~mine]).abs().max() > 1e-3
    m.given = 7  # it has not been learned yet
    m.model.set_update(m.factors(query), None)
    torch.testing.assert_close(m.model.features(x), together)


def test_the_basis_is_the_first_tasks_and_what_a_task_learned_stays(
    trainer, tiny_stream, memory_keeper
):
    ended = []

    class Keeper(memory_keeper):
        def save_task(self, index, tensors):
            super().save_task(index, tensors)
            ended.append({n: t.clone() for n, t in run.method.state_dict().items()})

    settings = {"name": "lilora", "rank": 4, "own_rank": 2, "lr": 0.02}
    run = trainer(settings, tiny_stream(classes=6, tasks=3), keeper=Keeper(), epochs=2)
    run.run()
    for earlier, later in pairwise(ended):
        for n in range(8):
            assert earlier[f"U.{n}"].any()
            assert torch.equal(earlier[f"U.{n}"], later[f"U.{n}"])
            assert not torch.equal(earlier[f"V.{n}"], later[f"V.{n}"])
            for part in "PN":
                then, now = earlier[f"{part}{n}"], later[f"{part}{n}"]
                assert torch.equal(now[:, : then.shape[1]], then)
                assert now.shape[1] == then.shape[1] + 2
        tasks = earlier["old_g"].shape[1]
        assert torch.equal(later["old_g"][:, :tasks], earlier["old_g"])


def test_what_is_kept_grows_by_the_small_matrices_the_gates_and_the_means(method):
    m, d = method(), 32
    outputs = [site.d_out for site in m.model.sites]
    shared = 4 * (sum(outputs) + sum(site.d_in for site in m.model.sites))
    for task in range(3):
        learn(m, task)
        m.end_task()
        own = 2 * (sum(outputs) + 4 * len(outputs)) + len(outputs) + d
        assert m.kept() == shared + d * d + (task + 1) * own


def test_the_term_holds_the_shared_side_where_the_task_found_it(
    trainer, tiny_stream, memory_keeper
):
    def turned(stability: float) -> float:
        run = trainer(
            {"name": "lilora", "rank": 4, "own_rank": 2, "lr": 0.02, "stability": stability},
            tiny_stream(),
            epochs=6,
        )
        run.run()
        m = run.method
        return np.mean([
            1 - F.cosine_similarity(V.flatten(), getattr(m, f"V_start{n}").flatten(), dim=0).item()
            for n, V in enumerate(m.V)
        ])  # fmt: skip

    assert turned(100.0) < 0.5 * turned(0.0)


def test_the_term_is_one_less_the_mean_cosine_and_the_first_task_has_none(method):
    m = method(stability=3.0)
    logits = torch.zeros(1, 1).double()
    nothing = Batch(logits, logits, torch.zeros(1, dtype=torch.long), None)
    learn(m, 0)
    assert m.loss(nothing) == 0
    m.end_task()
    begin(m, 1)
    assert m.loss(nothing).abs() < 1e-12
    with torch.no_grad():
        m.V[0] *= -2  # of eight sites
    assert m.loss(nothing).item() == pytest.approx(3 * 2 / 8)


def test_a_record_knows_where_both_sides_started(method):
    """U in the basis, which the first task has not; V where the task found it."""
    m = method()
    for task in range(2):
        begin(m, task)
        starts = [V.detach().clone() for V in m.V]
        learn(m, task)
        if task == 0:  # it draws V anew
            starts = [getattr(m, f"V_start{n}") for n in range(8)]
        own = [(m._own(n).detach(), V.detach().clone()) for n, V in enumerate(m.V)]
        bases = [None if task == 0 else U.detach() for U in m.U]
        record = m.end_task()
        sides = [
            ((U, U_start), (V, V_start))
            for (U, V), U_start, V_start in zip(own, bases, starts, strict=True)
        ]
        for name, wanted in shares_of_starts(sides).items():
            torch.testing.assert_close(record[name], wanted)
        for site, (U, V) in zip(m.model.sites, own, strict=True):
            torch.testing.assert_close(record[f"U.{site.name}"], U)
            torch.testing.assert_close(record[f"V.{site.name}"], V)
        assert (record["start_chance"] > 0).sum(0).tolist() == [8 * task, 8]
