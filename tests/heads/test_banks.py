"""Heads that keep statistics: against explicit mathematics and scikit-learn, whatever the batches
and the order of the tasks, as they stand and carried along the drift."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fmlora_lab.config import Heads
from fmlora_lab.heads import Banks
from fmlora_lab.heads.drift import Drift, fit
from fmlora_lab.heads.lda import LDA, SHRINKAGES
from fmlora_lab.heads.means import ClassMeans
from fmlora_lab.heads.ridge import SHARES, Ridge, mean_of_h
from fmlora_lab.training.learner import assign

D, K, M = 6, 4, 40


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(classes=range(K), each: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian classes with one shared covariance, which is no multiple of the identity."""
    centres = 0.6 * torch.randn(K, D, generator=generator(99), dtype=torch.float64)
    stretch = torch.randn(D, D, generator=generator(98), dtype=torch.float64) / D**0.5
    labels = torch.tensor([*classes]).repeat_interleave(each)
    noise = torch.randn(len(labels), D, generator=generator(seed), dtype=torch.float64)
    return centres[labels] + noise @ stretch, labels


def head(kind, **settings):
    return kind(D, K, Heads(**{"random_features": M, **settings}))


def told(bank, *tasks):
    for features, labels in tasks:
        bank.add(features, labels)
        bank.settle(features, labels)
    return bank


def same(a, b, rtol=1e-9):
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-10)


# Class means


def test_class_means_are_cosines_to_the_means_and_unseen_classes_are_never_said():
    f, labels = blobs(classes=(0, 1, 3))
    means, test = told(head(ClassMeans), (f, labels)), F.normalize(blobs(seed=1)[0])
    for k in (0, 1, 3):
        mean = f[labels == k].mean(0)
        same(means(test)[:, k], F.cosine_similarity(test, mean[None]))
    assert (means(test)[:, 2] == -torch.inf).all()


@pytest.mark.parametrize("kind", [ClassMeans, LDA, Ridge])
def test_what_is_kept_does_not_depend_on_batches(kind):
    f, labels = blobs()
    whole, parts = head(kind), head(kind)
    whole.add(f, labels)
    for some in torch.randperm(len(f), generator=generator()).split(7):
        parts.add(f[some], labels[some])
    for name, kept in whole.state_dict().items():
        torch.testing.assert_close(kept, parts.state_dict()[name], rtol=1e-12, atol=1e-12,
                                   equal_nan=True)  # fmt: skip


@pytest.mark.parametrize("kind", [ClassMeans, LDA, Ridge])
def test_nothing_is_lost_by_the_order_of_tasks(kind):
    """All tasks in sequence, in either order, are one batch; to 1e-8."""
    first, second = blobs(range(2)), blobs(range(2, 4), seed=3)
    given = {"shrinkage": 0.1, "ridge": 0.03}
    batch = told(head(kind, **given), [torch.cat(p) for p in zip(first, second, strict=True)])
    test = blobs(seed=5)[0]
    for tasks in ((first, second), (second, first)):
        found = told(head(kind, **given), *tasks)(test)
        assert found.isfinite().all()
        torch.testing.assert_close(found, batch(test), rtol=1e-6 if kind is Ridge else 1e-8,
                                   atol=1e-6 if kind is Ridge else 1e-8)  # fmt: skip
        if kind is Ridge:  # whose solution is kept in single precision
            other = told(head(kind, **given), *tasks)
            for name in ("gram", "targets"):
                same(getattr(other, name), getattr(batch, name), 1e-12)
            exact = [torch.cholesky_solve(r.targets, r._factor(0.03)) for r in (other, batch)]
            torch.testing.assert_close(*exact, rtol=1e-8, atol=1e-8)


def test_a_class_that_comes_again_pools_means_and_scatter_over_domains():
    first, second = blobs(seed=1), blobs(seed=2)
    second = second[0] + 1, second[1]
    lda = told(head(LDA), first, second)
    f, labels = (torch.cat(p) for p in zip(first, second, strict=True))
    mu = torch.stack([f[labels == k].mean(0) for k in range(K)])
    same(lda.means(), mu)
    same(lda.scatter(), (f - mu[labels]).T @ (f - mu[labels]))


def test_per_domain_keeps_a_gaussian_a_class_and_domain_and_the_nearest_counts():
    first, second = blobs(seed=1), blobs(seed=2)
    second = second[0] + 5, second[1]
    lda = told(head(LDA, per_domain=True, shrinkage=0.2), first, second)
    S = sum(
        (f - f[y == k].mean(0))[y == k].T @ (f - f[y == k].mean(0))[y == k]
        for f, y in (first, second)
        for k in range(K)
    )
    same(lda.scatter(), S)
    for f, labels in (blobs(seed=7), (blobs(seed=8)[0] + 5, blobs(seed=8)[1])):
        alone = told(head(LDA, shrinkage=0.2), (f - 0, labels))
        assert lda(f).shape == (len(f), K)
        right = (lda(f).argmax(1) == labels).double().mean()
        assert right > 0.6 and (alone(f).argmax(1) == labels).double().mean() > 0.6
    assert lda.kept() == 2 * K * (D + 1) + D * D
    pooled = told(head(LDA, shrinkage=0.2), first, second)
    assert pooled.kept() == K * (D + 1) + D * D


# LDA


@pytest.mark.parametrize("s", [0.01, 0.3, 1.0])
def test_lda_is_scikit_learns_on_one_task(s):
    """Theirs divides the scatter by n where ours divides by n − K, and has log priors."""
    f, labels = blobs()
    theirs = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=s, priors=np.full(K, 1 / K)
    ).fit(f.numpy(), labels.numpy())  # fmt: skip
    ours, test = told(head(LDA, shrinkage=s), (f, labels)), blobs(seed=1)[0]
    scale = (len(f) - K) / len(f)
    wanted = scale * (theirs.decision_function(test.numpy()) - np.log(1 / K))
    np.testing.assert_allclose(ours(test).numpy(), wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("s", SHRINKAGES)
def test_lda_left_out_is_explicit_leaving_out(s):
    earlier, (f, labels) = blobs(range(2), seed=1), blobs(range(2, 4), each=5)
    lda = told(head(LDA, shrinkage=0.1), earlier, (f, labels))
    scores, said = lda.left_out(f, labels, s)
    assert torch.equal(said, labels)
    for i in range(len(f)):
        rest = torch.arange(len(f)) != i
        without = told(head(LDA, shrinkage=s), earlier, (f[rest], labels[rest]))
        torch.testing.assert_close(scores[i], without(f[i : i + 1])[0], rtol=1e-7, atol=1e-7)


def test_shrinkage_is_that_of_the_least_loss_left_out():
    f, labels = blobs(each=4)
    lda = told(head(LDA), (f, labels))
    losses = [F.cross_entropy(*lda.left_out(f, labels, s)) for s in SHRINKAGES]
    assert lda.shrinkage == SHRINKAGES[int(torch.stack(losses).argmin())]
    assert len({float(loss) for loss in losses}) == len(SHRINKAGES)


@pytest.mark.parametrize("each", [1, 2])
def test_a_few_images_a_class_are_enough_to_predict(each):
    f, labels = blobs(each=each)
    for kind in (ClassMeans, LDA, Ridge):
        bank = told(head(kind), (f, labels))
        assert bank(f).isfinite().all()
    one = told(head(LDA), (f[:1], labels[:1]))  # a single image of a single class
    assert one(f)[:, 0].isfinite().all() and (one(f)[:, 1:] == -torch.inf).all()


def test_a_task_with_one_image_a_class_leaves_the_shrinkage_as_it_was():
    lda = told(head(LDA), blobs(range(3), each=4))
    chosen, few = float(lda.shrinkage), blobs(range(3, 4), each=1)
    assert float(told(lda, few).shrinkage) == chosen and chosen > SHRINKAGES[0]
    assert lda(few[0]).isfinite().all()


# Ridge


@pytest.mark.parametrize("share", [SHARES[0], 0.1, SHARES[-1]])
def test_ridge_left_out_is_explicit_leaving_out(share):
    earlier, (f, labels) = blobs(range(2), seed=1), blobs(range(2, 4), each=5)
    ridge = told(head(Ridge, ridge=0.1), earlier, (f, labels))
    h = ridge.random(f)
    lam = share * ridge.gram.diagonal().mean()  # the same λ, whichever image is left out
    found = ridge.left_out(h, labels, share)
    y = F.one_hot(labels, K).double()
    for i in range(len(f)):
        G = ridge.gram - h[i, :, None] * h[i]
        Q = ridge.targets - h[i, :, None] * y[i]
        W = torch.linalg.solve(G + lam * torch.eye(M), Q)
        torch.testing.assert_close(found[i], y[i] - h[i] @ W, rtol=1e-6, atol=1e-8)


def test_lambda_is_chosen_when_images_have_doubled_among_neighbours():
    ridge = told(head(Ridge), blobs(range(1), each=8))
    assert float(ridge.share) in SHARES[::2] and ridge.chosen_at == 8
    before = SHARES.index(float(ridge.share))
    told(ridge, blobs(range(1, 2), each=7))
    assert ridge.chosen_at == 8
    told(ridge, blobs(range(2, 3), each=1))
    assert ridge.chosen_at == 16 and abs(SHARES.index(float(ridge.share)) - before) <= 1


def test_lambda_is_near_the_published_procedures_and_no_worse():
    """RanPAC: of 10⁻⁸ … 10⁸ the least squared error on a fifth of the images, the rest fitted."""
    f, labels = blobs(each=60)
    mixed = torch.randperm(len(f), generator=generator())
    f, labels = F.normalize(f[mixed]), labels[mixed]
    ridge = told(head(Ridge, random_features=400), (f, labels))
    h, y = ridge.random(f), F.one_hot(labels, K).double()
    cut = int(0.8 * len(f))

    def error(lam, test=h[cut:], target=y[cut:]):
        G, Q = h[:cut].T @ h[:cut], h[:cut].T @ y[:cut]
        W = torch.linalg.solve(G + lam * torch.eye(400).double(), Q)
        return float(((test @ W - target) ** 2).mean())

    theirs = min((10.0**p for p in range(-8, 9)), key=error)
    ours = float(ridge.share * ridge.gram.diagonal().mean())
    assert error(ours) < 1.02 * error(theirs)


def test_the_random_projection_is_one_for_every_run_and_not_stored():
    a, b = head(Ridge), head(Ridge)
    assert torch.equal(a.projection, b.projection) and "projection" not in a.state_dict()


def test_numbers_kept_are_counted():
    task = blobs(range(3))
    assert told(head(ClassMeans), task).kept() == 3 * (D + 1)
    assert told(head(LDA), task).kept() == 3 * (D + 1) + D * D
    ridge = told(head(Ridge), task)
    assert ridge.kept() == M * M + 3 * M
    ridge.finish()
    assert ridge.kept() == M * M + 3 * M and ridge.state_dict()["gram"].numel() == 0


# Drift


def linear_move(seed: int = 4):
    A = torch.eye(D).double() + 0.3 * torch.randn(D, D, generator=generator(seed)).double()
    b = 0.2 * torch.randn(D, generator=generator(seed + 1)).double()
    return lambda f: f @ A + b


def test_a_linear_move_is_found_from_the_new_tasks_images_alone():
    move, (f, _) = linear_move(), blobs(range(2, 4), each=20)
    drift = fit(f, move(f))
    elsewhere = blobs(range(2), seed=9)[0]
    torch.testing.assert_close(drift.points(elsewhere), move(elsewhere), rtol=1e-6, atol=1e-6)


def test_noise_is_shrunk_towards_no_change():
    f, _ = blobs(each=3)
    noise = 0.01 * torch.randn(f.shape, generator=generator(3)).double()
    drift = fit(f, f + noise)
    assert drift.D.norm() < 0.5 * torch.linalg.lstsq(F.pad(f, (0, 1), value=1.0), noise)[0].norm()


def test_the_penalty_has_the_least_squared_error_left_out():
    before, _ = blobs(each=5)
    after = linear_move()(before) + 0.3 * torch.randn(before.shape, generator=generator(6)).double()
    X, Y = F.pad(before, (0, 1), value=1.0), after - before

    def ridge(X, Y, lam):
        return torch.linalg.solve(X.T @ X + lam * torch.eye(D + 1).double(), X.T @ Y)

    def left_out(lam):
        rest = [torch.arange(len(X)) != i for i in range(len(X))]
        errors = [Y[i] - X[i] @ ridge(X[r], Y[r], lam) for i, r in enumerate(rest)]
        return float(torch.stack(errors).square().sum())

    mean_square = X.square().sum() / (D + 1)
    lams = [10.0**p * mean_square for p in range(-9, 3)]
    best = min(lams, key=left_out)
    torch.testing.assert_close(fit(before, after).D, ridge(X, Y, best), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", [ClassMeans, LDA])
def test_carried_statistics_are_recomputed_ones_where_features_move_linearly(kind):
    move = linear_move()
    old, new = blobs(range(2)), blobs(range(2, 4), each=20, seed=2)
    carried = told(head(kind, shrinkage=0.1), old)
    carried.carry(fit(new[0], move(new[0])), carried, carried)
    told(carried, (move(new[0]), new[1]))
    again = told(head(kind, shrinkage=0.1), (move(old[0]), old[1]), (move(new[0]), new[1]))
    for name in ("sums", "counts", *(["moment"] if kind is LDA else [])):
        torch.testing.assert_close(getattr(carried, name), getattr(again, name), rtol=1e-6,
                                   atol=1e-6)  # fmt: skip
    test = move(blobs(seed=7)[0])
    torch.testing.assert_close(carried(test), again(test), rtol=1e-5, atol=1e-5)


def test_the_mean_of_random_features_of_a_gaussian():
    covariance = torch.diag(torch.linspace(0.1, 2, D)).double()
    mu = torch.randn(1, D, generator=generator()).double()
    P = torch.randn(D, M, generator=generator(1)).double()
    z = torch.randn(200_000, D, generator=generator(2)).double()
    sampled = ((mu + z * covariance.diagonal().sqrt()) @ P).relu().mean(0)
    torch.testing.assert_close(mean_of_h(mu, covariance, P)[0], sampled, rtol=0.02, atol=0.02)


def test_carried_ridge_comes_nearer_to_a_recomputed_one():
    move = linear_move()
    old, new = blobs(range(2), each=40), blobs(range(2, 4), each=40, seed=2)
    plain = told(head(Ridge, ridge=0.03), old, (move(new[0]), new[1]))
    carried, lda = told(head(Ridge, ridge=0.03), old), told(head(LDA), old)
    carried.carry(fit(new[0], move(new[0])), plain, lda)
    told(carried, (move(new[0]), new[1]))
    again = told(head(Ridge, ridge=0.03), (move(old[0]), old[1]), (move(new[0]), new[1]))
    for name in ("gram", "targets"):
        off = [(getattr(b, name) - getattr(again, name)).norm() for b in (carried, plain)]
        assert off[0] < 0.6 * off[1]
    still = told(head(Ridge, ridge=0.03), old)
    before = still.gram.clone(), still.targets.clone()
    still.carry(Drift(torch.zeros(D + 1, D).double()), plain, lda)
    same(still.gram, before[0])
    same(still.targets, before[1])


# All of a run's


def banks(**settings) -> Banks:
    return Banks(D, K, Heads(**{"random_features": M, **settings}))


def test_until_features_move_carried_is_plain_and_then_it_is_not():
    found, first, second = banks(), blobs(range(2)), blobs(range(2, 4), each=20, seed=2)
    test = blobs(seed=5)[0]
    assert found.end_task(*first) is None
    scores = found(test)
    for name in ("means", "lda", "ridge"):
        assert torch.equal(scores[name], scores[f"{name}-carried"])
    found.begin_task(second[0])
    assert found.end_task(linear_move()(second[0]), second[1]) is not None
    scores = found(test)
    for name in ("means", "lda", "ridge"):
        assert not torch.equal(scores[name], scores[f"{name}-carried"])
    kept = found.kept()
    assert kept["ridge-carried"] == kept["ridge"] + kept["lda"]
    assert kept["lda-carried"] == kept["lda"]


def test_heads_look_at_directions_alone():
    """What they see has length 1."""
    f, labels = blobs()
    one, other = banks(), banks()
    one.end_task(f, labels)
    other.end_task(f * torch.rand(len(f), 1, generator=generator()).double().add(0.1), labels)
    test = blobs(seed=5)[0]
    for name, scores in one(test).items():
        torch.testing.assert_close(scores, other(3 * test)[name], rtol=1e-5, atol=1e-6)


def test_state_goes_on_where_it_was():
    """Stored between two tasks and loaded into fresh heads, whatever shapes they had."""
    first, second = blobs(range(2)), blobs(range(2, 4), each=20, seed=2)
    third = blobs(range(4), each=6, seed=3)
    whole, fresh = banks(per_domain=True), banks(per_domain=True)
    whole.end_task(*first)
    whole.begin_task(second[0])
    whole.end_task(linear_move()(second[0]), second[1])
    whole.begin_task(third[0])
    for name, value in whole.state_dict().items():
        assign(fresh, name, value.clone())
    for found in (whole, fresh):
        found.end_task(linear_move(7)(third[0]), third[1])
    left, right = whole.state_dict(), fresh.state_dict()
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].numpy().tobytes() == right[name].numpy().tobytes(), name
