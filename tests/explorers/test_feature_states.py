"""Features that are computed anew are those that the run had, in a plane that parts classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coloured import coloured_folders

from fmlora_lab import configure, restore, run
from fmlora_lab.analysis.updates import updates
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.explorers.feature_states import States, best_plane, evenly, means_carried, measured
from fmlora_lab.runs.run import stream_of_run

pytestmark = pytest.mark.train

TASKS, CLASSES = 3, 3
SIZES = {"training.batch_size": 6, "training.epochs": 3, "training.precision": "float32"}
SIZES |= {"benchmark.tasks": TASKS, "method.blocks": (1, 4), "method.lr": 0.02}
OF_METHODS = {
    "fm-lora": {"method.basis_rank": 8, "method.bases.lr": 0.01, "method.drs.candidates": (2, 4)},
    "lora": {"method.rank": 4},
}


@pytest.fixture(scope="module", params=OF_METHODS)
def stored(request, tmp_path_factory):
    """A run of three tasks on a few coloured images, with the features that it had."""
    root = tmp_path_factory.mktemp("features")
    images = coloured_folders(root / "images", CLASSES * TASKS, {"train": 6, "test": 5}, noise=60)
    fixed = {**SIZES, **OF_METHODS[request.param], "benchmark.data": images}
    return run(
        configure(request.param, "folder", "smoke", fixed), root / "runs", keep_features=True
    )


@pytest.fixture(scope="module")
def found(stored):
    return measured(stored)


def images_of(stored):
    stream = stream_of_run(RunConfig.model_validate(stored.config), 32)
    return [task.test for task in stream.tasks]


def test_the_network_after_each_task_is_put_together_again(stored):
    states = States(stored)
    for t in range(TASKS):
        states.set(t + 1)
        for images, kept in zip(images_of(stored), stored.features(t), strict=False):
            wanted = F.normalize(torch.from_numpy(kept).float())
            torch.testing.assert_close(states.features(images), wanted, atol=3e-3, rtol=0)


def test_before_the_first_task_it_is_the_backbone(stored):
    states = States(stored)
    states.set(0)
    images = images_of(stored)[0]
    frozen = F.normalize(states.model.frozen_features(states.model.pixels_in(images.pixels)))
    torch.testing.assert_close(states.features(images), frozen)


def test_points_are_in_one_plane_for_all_times(stored, found):
    for k, images in enumerate(images_of(stored)):
        points = found[f"points.{k}"]
        assert points.shape == (TASKS + 1 - k, len(images), 2)
        kept = [stored.features(t)[k] for t in range(k, TASKS)]
        f = F.normalize(torch.from_numpy(np.stack(kept)).float(), dim=-1)
        origin, plane = best_plane(f[0], images.labels)
        np.testing.assert_allclose(points[1:], (f - origin) @ plane, atol=0.02)
        numbers = found[f"images.{k}"]
        assert (numbers == np.arange(15) + 15 * k).all()
        np.testing.assert_array_equal(found[f"labels.{k}"], images.labels)


def test_carried_means_are_those_of_the_head_that_carries(stored, found):
    """Of every class at the end, and the kept ones those of class means."""
    learner = restore(stored)
    kept = learner.banks.plain["means"].means().float()
    carried = learner.banks.carried["means"].means().float()
    for k, images in enumerate(images_of(stored)):
        f = F.normalize(torch.from_numpy(stored.features(k)[k]).float())
        origin, plane = best_plane(f, images.labels)
        now, as_kept, along = found[f"means.{k}"]
        own = found[f"classes.{k}"]
        np.testing.assert_allclose(as_kept[-1], (kept[own] - origin) @ plane, atol=0.02)
        np.testing.assert_allclose(along[-1], (carried[own] - origin) @ plane, atol=0.02)
        assert np.isnan(as_kept[0]).all() and np.isnan(along[0]).all()
        np.testing.assert_array_equal(now[1], as_kept[1])
        assert k == TASKS - 1 or np.abs(now[-1] - as_kept[-1]).max() > 0.01


def test_attention_is_a_share_of_all_tokens(stored, found):
    prompted = stored.method_name == "fm-lora"
    for k in range(TASKS):
        with_prompt, bare = found[f"attention.{k}"].astype(float).swapaxes(0, 1)
        np.testing.assert_allclose(with_prompt.sum(-1), 1, atol=5e-3)
        np.testing.assert_allclose(bare.sum(-1), 1, atol=5e-3)
        assert (bare[..., 1] == 0).all() and with_prompt.shape[-1] == 2 + 16
        assert (with_prompt[1:, :, 1] > 0).all() == prompted
    assert (found["attention.0"][0, 0, :, 1] == 0).all()  # the backbone has no prompt


def test_attention_is_what_the_block_computes(stored):
    """Weighed by it, values give the block's own output for [CLS], head by head."""
    states = States(stored)
    states.set(TASKS)
    images = images_of(stored)[0][torch.arange(3)]
    attn, seen = states.model.network.blocks[-1].attn, {}
    attn.register_forward_hook(lambda module, args, out: seen.update(x=args[0], out=out))
    shares = states.attention(images)
    x = seen["x"]
    q, k, v = attn.qkv(x).reshape(3, x.shape[1], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    weights = (q * attn.scale @ k.transpose(2, 3)).softmax(3)
    mixed = attn.proj((weights @ v).transpose(1, 2).reshape(x.shape))
    torch.testing.assert_close(mixed, seen["out"], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(shares[:, 2:], weights[:, :, 0, -16:].mean(1))


def test_a_method_whose_network_is_not_its_sum_is_refused(stored, monkeypatch):
    halved = [{site: (U / 2, V) for site, (U, V) in task.items()} for task in updates(stored)]
    monkeypatch.setattr("fmlora_lab.explorers.feature_states.updates", lambda run: halved)
    with pytest.raises(BadInput, match=f"run {stored.id} is of .* is not the sum of what it"):
        measured(stored)


def test_the_plane_parts_classes_best():
    """Three classes apart in two directions of ten, and wide in the others."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(60)
    noise = torch.randn(180, 10, generator=draw) * torch.tensor([0.1] * 2 + [3.0] * 8)
    centres = torch.zeros(3, 10)
    centres[1, 0], centres[2, 1] = 2, 2
    features = centres[labels] + noise
    origin, plane = best_plane(features, labels)
    torch.testing.assert_close(plane.T @ plane, torch.eye(2))
    assert (plane[:2] ** 2).sum() > 1.9
    torch.testing.assert_close(
        origin, torch.stack([features[labels == k].mean(0) for k in range(3)]).mean(0)
    )


@pytest.mark.parametrize("classes", [1, 2])
def test_of_few_classes_the_rest_is_where_features_vary_most(classes):
    draw = torch.Generator().manual_seed(1)
    labels = torch.arange(classes).repeat_interleave(50)
    noise = torch.randn(50 * classes, 6, generator=draw) * torch.tensor(
        [0.1, 0.1, 5, 0.1, 0.1, 0.1]
    )
    centres = torch.zeros(classes, 6)
    centres[-1, 0] = 3.0
    _, plane = best_plane(centres[labels] + noise, labels)
    torch.testing.assert_close(plane.T @ plane, torch.eye(2), atol=1e-5, rtol=0)
    assert (plane[2] ** 2).sum() > 0.95
    if classes == 2:
        assert (plane[0] ** 2).sum() > 0.95


@pytest.mark.parametrize("classes", [1, 4])
def test_one_image_a_class_has_a_plane_too(classes):
    features = torch.randn(classes, 6, generator=torch.Generator().manual_seed(2))
    _, plane = best_plane(features, torch.arange(classes))
    torch.testing.assert_close(plane.T @ plane, torch.eye(2), atol=1e-5, rtol=0)


def test_means_are_carried_along_the_drift_of_later_tasks():
    """All features move by the same shift, which is seen in the later task's images."""
    draw = torch.Generator().manual_seed(2)
    first, second = torch.randn(2, 40, 3, generator=draw)
    shift = torch.tensor([1.0, 0, -2])
    labels = torch.arange(40) % 2
    carried = means_carried(
        [[first, first, first + shift], [second, second + shift]], [labels, labels]
    )
    means = torch.stack([first[labels == k].mean(0) for k in range(2)])
    torch.testing.assert_close(carried[0][0], means)
    torch.testing.assert_close(carried[0][1], means + shift, atol=1e-3, rtol=0)
    assert len(carried[1]) == 1


def test_many_images_are_thinned_evenly():
    assert evenly(4, 500).tolist() == [0, 1, 2, 3]
    assert evenly(1001, 5).tolist() == [0, 250, 500, 750, 1000]
