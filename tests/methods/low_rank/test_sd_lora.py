"""SD-LoRA: old directions stay, magnitudes go on; the released form against the released code."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.config import BadInput
from fmlora_lab.methods.low_rank.sd_lora import SDLoRA, SDLoRASettings
from fmlora_lab.methods.method import TaskInfo, build
from fmlora_lab.profiles import configure
from fmlora_lab.seeds import generator

D, R = 32, 2


@pytest.fixture
def method(tiny_vit):
    """`method(**settings)` in float64 on q and v of both blocks of a ViT of width 32."""

    def make(**settings) -> SDLoRA:
        settings = {"layers": ("attn.q", "attn.v"), "rank": R, **settings}
        return build(SDLoRASettings(**settings), ViT(tiny_vit().double())).double()

    return make


def begin(m: SDLoRA, index: int) -> None:
    m.begin_task(TaskInfo(index, range(1), generator(0, "method", index)))


@torch.no_grad()
def learn(m: SDLoRA, index: int) -> None:
    """Begin a task and put something that was learned into all that is trained."""
    begin(m, index)
    noise = generator(index, "learned")
    for p in (*m.U, *m.V):
        p.normal_(generator=noise)
    m.alpha += torch.rand(m.alpha.shape, generator=noise, dtype=m.alpha.dtype)


def updates(m: SDLoRA) -> torch.Tensor:
    return torch.stack([factors.dense().detach() for factors in m.factors()])


def directions(m: SDLoRA) -> torch.Tensor:
    """Every weight's old directions, formed: (weights, directions, o, i)."""
    found = []
    for n in range(len(m.U)):
        U, V = (getattr(m, f"{part}{n}") for part in "UV")
        own = [m.owner == k for k in m.owner.unique()]
        found.append(torch.stack([U[:, cols] @ V[:, cols].T for cols in own]))
    return torch.stack(found)


# The released form against the released code


# Made on 2026-11-22 by `_LoRA_qkv_timm_train.forward` (backbone/lora.py) of WuYichen-97/SD-Lora-CL
# at 8bacded6eb44, in float64, on the numbers that the test draws; per task: what the adapter adds
# to token 0 in block 1 (q, then v), the gradients of the magnitudes (earlier tasks', then its
# own), of U of q in block 0 (row 0) and V of v in block 1 (row 2), and all squares of these.
RELEASED = [
    (
        [-1.2223931902, 2.8000819621, -0.1294848142, 0.606914965, -0.3731211590, 0.5359005236],
        [-1.9112421647, -0.9217124575, -0.2100235128, -0.978206497, -1.326680196, -0.7948539153],
        [3.0322076842],
        [4.6293604225, 4.010925241],
        [-3.7129056199, 3.8188902524],
        1194.572267682906,
    ),
    (
        [5.7186813446, -0.7056653842, -2.4303714077, -8.9123776768, -4.9285197039, -5.2984191234],
        [4.7225716569, -1.4615626158, -1.8577457715, -0.2746903232, -3.5963757458, -3.6734246039],
        [0.8240455279, -54.7089886914],
        [0.6933369639, 5.562835148],
        [-3.6249184166, -0.7909264546],
        1339.2105485440957,
    ),
    (
        [1.9955327945, 6.6720925912, -1.8477508149, -5.4724832816, 3.193933982, -4.7881507024],
        [-1.0960522006, 1.7593823712, -1.038350355, 0.5964662741, -1.6235598108, -2.3680701539],
        [0.8240455279, -4.3589084634, -44.1229740833],
        [2.5674737273, 7.2446147711],
        [-6.061567076, -5.7800139224],
        1306.6898176512652,
    ),
]


def test_the_released_form_is_the_released_code_in_outputs_and_gradients(tiny_vit):
    d, blocks, draw = 6, 2, np.random.default_rng(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(draw.standard_normal(shape))

    W, b = [drawn(3 * d, d) for _ in range(blocks)], [drawn(3 * d) for _ in range(blocks)]
    learned = [[(drawn(d, R), drawn(d, R)) for _ in range(2 * blocks)] for _ in range(3)]
    x, g = [drawn(5, d) for _ in range(blocks)], [drawn(5, 3 * d) for _ in range(blocks)]
    vit = tiny_vit(embed_dim=d, depth=blocks).double()
    for n, block in enumerate(vit.blocks):
        block.attn.qkv.weight.data, block.attn.qkv.bias.data = W[n], b[n]
    settings = SDLoRASettings(layers=("attn.q", "attn.v"), rank=R, form="code")
    m = build(settings, ViT(vit)).double()
    for task, (q, v, magnitudes, U_row, V_row, squares) in enumerate(RELEASED):
        begin(m, task)
        with torch.no_grad():
            for n, (U, V) in enumerate(learned[task]):
                m.U[n].copy_(U), m.V[n].copy_(V)
        m.model.set_update(m.factors(), None)
        y = [site(tokens) for site, tokens in zip(m.model.sites, x, strict=True)]
        sum((out * weight).sum() for out, weight in zip(y, g, strict=True)).backward()
        added = (y[1] - x[1] @ W[1].T - b[1])[0].tolist()
        assert added == pytest.approx([*q, *[0.0] * d, *v], rel=1e-8, abs=1e-12)
        assert m.alpha.grad.flatten().tolist() == pytest.approx(magnitudes, rel=1e-8)
        assert m.U[0].grad[0].tolist() == pytest.approx(U_row, rel=1e-8)
        assert m.V[3].grad[2].tolist() == pytest.approx(V_row, rel=1e-8)
        found = sum(p.grad.square().sum().item() for p in (*m.U, *m.V))
        assert found == pytest.approx(squares, rel=1e-10)
        m.end_task()


def test_the_released_form_restarts_magnitudes_when_the_next_task_begins(method):
    """Up to then nothing changes: an ended task is ranked by what it learned."""
    m = method(form="code")
    for task in range(3):
        learn(m, task)
        before = updates(m)
        m.end_task()
        torch.testing.assert_close(updates(m), before)
    begin(m, 3)
    assert m.alpha.shape == (1, 4) and (m.alpha == 0.8).all()
    for n in range(4):
        for k in range(3):
            U, V = (getattr(m, f"{part}{n}")[:, m.owner == k] for part in "UV")
            assert (U.norm() * V.norm()).item() == pytest.approx(1)


# The paper's form


def test_ending_a_task_changes_nothing_and_leaves_directions_of_unit_norm(method):
    m = method()
    for task in range(3):
        learn(m, task)
        before = updates(m)
        m.end_task()
        torch.testing.assert_close(updates(m), before, rtol=1e-12, atol=1e-12)
        norms = directions(m).flatten(2).norm(dim=2)
        torch.testing.assert_close(norms, torch.ones_like(norms))
        begin(m, task + 1)
        torch.testing.assert_close(updates(m), before, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_the_formula(method):
    """And nothing else gets any: of the old directions, the magnitudes alone."""
    m = method()
    for task in range(2):
        learn(m, task)
        m.end_task()
    learn(m, 2)
    x = torch.randn(7, D, generator=generator(1)).double()
    m.model.set_update(m.factors(), None)
    for site in m.model.sites:
        site(x).square().sum().backward()
    trained = [m.alpha, *m.U, *m.V]
    found = [p.grad for p in trained]
    old = directions(m)
    for p in trained:
        p.grad = None
    for s, site in enumerate(m.model.sites):
        new = []
        for n in (2 * s, 2 * s + 1):
            kept = (m.alpha[n, :2, None, None] * old[n]).sum(0)
            new.append(kept + m.alpha[n, 2] * m.U[n] @ m.V[n].T)
        change = torch.cat([new[0], torch.zeros_like(new[0]), new[1]])
        (x @ (site.weight + change).T + site.bias).square().sum().backward()
    for ours, p in zip(found, trained, strict=True):
        torch.testing.assert_close(ours, p.grad)
    assert not any(tensor.requires_grad for tensor in m.buffers())
    assert {id(p) for group in m.groups() for p in group.parameters} == {id(p) for p in trained}


@pytest.mark.parametrize("form", ["paper", "code"])
def test_in_training_old_magnitudes_move_and_old_directions_stay(
    trainer, tiny_stream, memory_keeper, form
):
    ended = []

    class Keeper(memory_keeper):
        def save_task(self, index, tensors):
            super().save_task(index, tensors)
            ended.append((directions(run.method), run.method.state_dict()))

    settings = {"name": "sd-lora", "rank": 4, "lr": 0.01, "lr_magnitudes": 0.01, "form": form}
    settings["layers"] = ["attn.q", "attn.v"]
    keeper = Keeper()
    run = trainer(settings, tiny_stream(classes=6, tasks=3), keeper=keeper, epochs=1)
    run.run()
    for task in (1, 2):
        begun = 0.8 if form == "code" else ended[task - 1][1]["alpha"]
        assert ((ended[task][1]["alpha"][:, :task] - begun).abs() > 1e-5).all()
    last = ended[2][1]
    old = ended[1][0].shape[1] - (1 if form == "code" else 0)  # the last is divided later there
    torch.testing.assert_close(ended[2][0][:, :old], ended[1][0][:, :old], rtol=0, atol=0)
    for n in range(4):
        for part in "UV":
            then = ended[1][1][f"{part}{n}"][:, : 4 * old]
            assert torch.equal(last[f"{part}{n}"][:, : 4 * old], then)
    for record in keeper.records:  # the record's U and V are the site's, q and v apart
        U, V = record["U.blocks.0.attn.qkv"], record["V.blocks.0.attn.qkv"]
        assert U.shape == (2 * D, 8) and V.shape == (D, 8)
        assert U[:D, :4].any() and U[D:, 4:].any() and not U[:D, 4:].any() and not U[D:, :4].any()


def test_q_and_v_are_weights_of_their_own(method):
    """As in the paper, r (d + d) numbers each, and a magnitude a direction."""
    m = method()
    learn(m, 0)
    assert m.trained() == 4 * (2 * D * R + 1)
    m.end_task()
    assert m.kept() == 4 * (2 * D * R + 1)
    learn(m, 1)
    assert m.trained() == 4 * (2 * D * R + 2)
    before = updates(m)
    with torch.no_grad():
        m.V[1].zero_()  # of v, in block 0
        m.alpha[1, 0] = 0
    after = updates(m)
    assert torch.equal(after[:, :D], before[:, :D]) and torch.equal(after[1], before[1])
    assert before[0, D:].any() and not after[0, D:].any()


# RR and KD


def test_later_tasks_have_the_ranks_they_are_given_and_keep_fewer_numbers(method):
    m, full = method(rank=4, later_ranks={3: 1, 2: 3}), method(rank=4)
    kept, ranks = [], []
    for task in range(5):
        for each in (m, full):
            learn(each, task)
        ranks.append(m.U[0].shape[1])
        assert {U.shape[1] for U in (*m.U, *m.V)} == {ranks[-1]}
        for each in (m, full):
            each.end_task()
        kept.append((m.kept(), full.kept()))
    assert ranks == [4, 4, 3, 1, 1]
    for task, (fewer, all_) in enumerate(kept):
        assert fewer == 4 * (2 * D * sum(ranks[: task + 1]) + task + 1)
        assert all_ == 4 * (2 * D * 4 + 1) * (task + 1)


def test_a_direction_in_the_old_ones_span_is_folded_into_their_magnitudes(method):
    m = method(fold=9e-4, later_ranks={2: 2 * R})
    for task in range(2):
        learn(m, task)
        assert not m.end_task()["folded"]  # fresh ones are kept
    learn(m, 2)
    mixed = torch.rand(len(m.U), 2, generator=generator(3)).double() + 0.5
    with torch.no_grad():
        for n in range(len(m.U)):
            m.U[n].copy_(getattr(m, f"U{n}") * mixed[n, m.owner])
            m.V[n].copy_(getattr(m, f"V{n}"))
    before, alpha, old = updates(m), m.alpha.detach().clone(), directions(m)
    kept = m.kept() - len(m.U)  # the third magnitude goes
    assert m.end_task()["folded"]
    torch.testing.assert_close(updates(m), before, rtol=1e-10, atol=1e-10)
    assert torch.equal(directions(m), old) and m.kept() == kept
    torch.testing.assert_close(m.alpha.detach(), alpha[:, :2] + alpha[:, 2:] * mixed)
    begin(m, 3)
    assert m.alpha.shape == (4, 3)
    torch.testing.assert_close(updates(m), before, rtol=1e-10, atol=1e-10)
    learn(m, 3)
    assert not m.end_task()["folded"] and directions(m).shape[1] == 3


@pytest.mark.parametrize(("left", "folded"), [(8e-4, True), (1e-3, False)])
def test_the_squared_distance_to_the_span_decides(method, left, folded):
    m = method(fold=9e-4, later_ranks={1: R + 1})
    learn(m, 0)
    m.end_task()
    begin(m, 1)
    share = (left / (1 - left)) ** 0.5  # of a unit direction orthogonal to the old one
    with torch.no_grad():
        for n in range(len(m.U)):
            U, V = getattr(m, f"U{n}"), getattr(m, f"V{n}")
            u = torch.linalg.svd(U)[0][:, R:][:, :1]
            m.U[n].copy_(torch.cat([U, share * u], dim=1))
            m.V[n].copy_(torch.cat([V, torch.eye(D)[:, :1]], dim=1))
    assert m.end_task()["folded"] == folded
    assert m.alpha.shape[1] == (1 if folded else 2)


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["nothing", "the same again"])
def test_a_weight_that_learned_nothing_new_does_not_spoil_the_fit(method, share):
    m = method(fold=9e-4)
    learn(m, 0)
    m.end_task()
    learn(m, 1)
    with torch.no_grad():
        m.U[0].copy_(share * m.U0), m.V[0].copy_(m.V0)
    assert not m.end_task()["folded"]  # the other weights did
    learn(m, 2)
    with torch.no_grad():
        for n in range(len(m.U)):
            for part in "UV":
                getattr(m, part)[n].copy_(getattr(m, f"{part}{n}")[:, m.owner == 1])
    before = updates(m)
    assert m.end_task()["folded"]
    torch.testing.assert_close(updates(m), before, rtol=1e-10, atol=1e-10)
    assert m.alpha.abs().max() < 100


def test_wrong_settings_are_refused():
    with pytest.raises(BadInput, match=r'method\.fold needs method\.form "paper"'):
        configure("sd-lora", overrides={"method.fold": 9e-4, "method.form": "code"})
    with pytest.raises(ValidationError, match="later_ranks"):
        SDLoRASettings(later_ranks={4: 0})
