"""The head that grows with the classes, and the class means."""

import pytest
import torch
import torch.nn.functional as F

from fmlora_lab.heads import TrainedHead
from fmlora_lab.heads.cosine import SCALE, Cosine
from fmlora_lab.heads.linear import Linear

pytestmark = pytest.mark.unit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(n: int = 6, d: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=generator(seed))


def learn(head: TrainedHead, labels: torch.Tensor, x: torch.Tensor, steps: int = 5) -> None:
    optimizer = torch.optim.AdamW([head.rows, head.row_bias], lr=0.1, weight_decay=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(head.task_logits(x), labels - head.classes.start).backward()
        optimizer.step()


def test_rows_of_earlier_classes_never_move_nor_decay():
    head = Linear(5, 6)
    head.begin_task(range(0, 2), generator())
    learn(head, torch.tensor([0, 1, 0, 1, 0, 1]), features())
    head.end_task()
    weight, bias = head.weight[:2].clone(), head.bias[:2].clone()
    assert weight.abs().min() > 0 and bias.abs().max() > 0
    for index in (1, 2):
        head.begin_task(range(2 * index, 2 * index + 2), generator(index))
        assert [tuple(p.shape) for p in head.parameters()] == [(2, 5), (2,)]  # all that can learn
        before = head.rows.detach().clone()
        learn(head, torch.tensor([0, 1, 0, 1, 0, 1]) + 2 * index, features(seed=index))
        assert not torch.equal(head.rows, before)
        head.end_task()
        assert torch.equal(head.weight[2 * index : 2 * index + 2], head.rows)
        assert torch.equal(head.weight[:2], weight) and torch.equal(head.bias[:2], bias)


def test_unseen_classes_have_logits_of_minus_infinity():
    head = Linear(5, 6)
    assert (head(features()) == -torch.inf).all()
    head.begin_task(range(0, 2), generator())
    head.end_task()
    head.begin_task(range(2, 4), generator())
    logits = head(features())  # the second task has not ended yet
    assert logits.shape == (6, 6)
    assert logits[:, :2].isfinite().all() and (logits[:, 2:] == -torch.inf).all()
    head.end_task()
    assert head(features())[:, :4].isfinite().all()


def test_a_task_sees_its_own_classes_alone_and_predicts_over_all():
    head = Linear(5, 4)
    for start in (0, 2):
        head.begin_task(range(start, start + 2), generator(start))
        learn(head, torch.tensor([0, 1, 0, 1, 0, 1]) + start, features())
        own = head.task_logits(features())
        head.end_task()
        assert own.shape == (6, 2)
        whole = F.linear(features(), head.weight, head.bias)
        torch.testing.assert_close(own, whole[:, start : start + 2])
        torch.testing.assert_close(head(features())[:, : start + 2], whole[:, : start + 2])


def test_new_rows_come_from_the_generator_alone():
    rows = []
    for seed in (0, 0, 1):
        head = Linear(1000, 4)
        head.begin_task(range(2, 4), generator(seed))
        rows.append(head.rows.detach())
        assert head.rows.std().item() == pytest.approx(0.02, rel=0.1)
        assert (head.row_bias == 0).all()
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


def test_domain_incremental_rows_go_on_from_where_they_are():
    head = Linear(5, 3)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    head.begin_task(range(3), generator(0))
    learn(head, labels, features())
    head.end_task()
    first = head.weight.clone()
    head.begin_task(range(3), generator(1))
    assert torch.equal(head.rows, first) and torch.equal(head.row_bias, head.bias)
    assert head.rows.requires_grad
    learn(head, labels, features(seed=1))
    assert torch.equal(head.weight, first)  # predictions change when the task ends
    head.end_task()
    assert not torch.equal(head.weight, first)


def test_cosine_logits_are_sixteen_times_the_cosine():
    head = Cosine(5, 4)
    head.begin_task(range(4), generator())
    learn(head, torch.tensor([0, 1, 2, 3, 0, 1]), features())
    x = features(seed=1)
    cosine = F.cosine_similarity(x[:, None], head.rows[None], dim=-1)
    torch.testing.assert_close(head.task_logits(x), 16 * cosine)
    torch.testing.assert_close(head.task_logits(100 * x), 16 * cosine)  # length says nothing
    assert SCALE == 16
    head.end_task()
    torch.testing.assert_close(head(x), 16 * cosine)
