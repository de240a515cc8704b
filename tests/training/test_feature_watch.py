"""How far features have moved: 1 − linear CKA, and the part that the carried map explains."""

import pytest
import torch
import torch.nn.functional as F

from fmlora_lab.heads.drift import fit
from fmlora_lab.training.feature_watch import WATCHED, FeatureWatch, linear_cka

pytestmark = pytest.mark.unit


def features(n: int = 40, d: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def rotation(d: int = 5) -> torch.Tensor:
    return torch.linalg.qr(features(d, d, seed=3)).Q


def test_linear_cka_is_hsic_of_centred_linear_kernels():
    X, Y = features().double(), (features() @ features(5, 5, 1)).double()
    H = torch.eye(40).double() - 1 / 40
    K, L = (H @ part @ part.T @ H for part in (X, Y))
    wanted = (K * L).sum() / (K.norm() * L.norm())
    assert linear_cka(X, Y) == pytest.approx(float(wanted), rel=1e-10)


def test_cka_does_not_see_rotations_shifts_and_scales():
    X = features()
    assert linear_cka(X, 3 * X @ rotation() + 1) == pytest.approx(1)
    assert linear_cka(X, features(seed=9)) < 0.5
    assert linear_cka(X, torch.ones(40, 5)) == 1


def test_a_rotation_is_all_explained_by_the_map_of_other_images():
    watch = FeatureWatch(5)
    old, new = features(seed=1), F.normalize(features(60, seed=2))
    watch.learned(old)
    watch.learned(new)
    watch.carry(fit(new, new @ rotation()))
    drift, explained = watch.moved(0, old @ rotation())
    assert drift == pytest.approx(0, abs=1e-6) and explained == pytest.approx(1, abs=1e-6)


def test_what_no_map_says_is_not_explained_and_what_stands_still_has_nothing_to_explain():
    watch, old = FeatureWatch(5), features()
    watch.learned(old)
    watch.carry(None)
    assert watch.moved(0, old) == (pytest.approx(0, abs=1e-6), None)
    drift, explained = watch.moved(0, old + features(seed=4))
    assert drift > 0.1 and explained == 0


def test_only_so_many_images_of_a_task_are_followed():
    watch, many = FeatureWatch(5), features(3 * WATCHED)
    watch.learned(many)
    watch.learned(features(7))
    assert watch.sizes.tolist() == [WATCHED, 7] and len(watch.then) == WATCHED + 7
    assert watch.moved(0, many)[1] is None
