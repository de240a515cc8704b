"""Votes, overlaps and what is merged, against the record and dense mathematics."""

import numpy as np
import pytest
import torch
from pools import IMAGES, MERGED, NAMES, RANK, SITES, TOP, pool_run

from fmlora_lab.analysis.experts import (
    block_of,
    course_of,
    experts_of,
    kind_of,
    place,
    suits,
    tower_of,
)
from fmlora_lab.backbone.glyphs_clip import GlyphsCLIP
from fmlora_lab.backbone.two_towers import TwoTowers
from fmlora_lab.config import BadInput
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.runs.archive import ship
from fmlora_lab.runs.stored import load_runs

N = len(NAMES)


@pytest.fixture
def run(tmp_path):
    return pool_run(tmp_path)


def test_votes_are_shares_of_the_images_and_the_most_used_were_merged(run):
    found = experts_of(run)
    for t in range(N):
        counts = run.task(t)["counts"]
        np.testing.assert_allclose(found.votes[t] * IMAGES, counts)
        for n in range(len(SITES)):
            order = sorted(range(RANK), key=lambda e, n=n: (-counts[n, e], e))
            assert found.merged[t, n].tolist() == order[:MERGED]
    assert found.votes.mean() == pytest.approx(TOP / RANK)


def test_the_share_of_the_merged_is_of_all_votes_in_that_tower(run):
    found, counts = experts_of(run), run.task(1)["counts"]
    text = [n for n, site in enumerate(SITES) if site.startswith("text.")]
    most = sum(sorted(counts[n])[-1] + sorted(counts[n])[-2] for n in text)
    assert found.share(1, "text") == pytest.approx(most / counts[text].sum())
    assert found.within("text").tolist() == text and len(found.within("image")) == 12


def test_overlaps_and_norms_are_those_of_the_dense_columns(run):
    found = experts_of(run)
    assert found.sites == SITES
    for n, site in enumerate(SITES):
        U, V = ([run.task(t)[f"{f}.{site}"].astype(float) for t in range(N)] for f in "UV")
        assert found.chance[n] == pytest.approx((2 / np.pi / len(U[0])) ** 0.5)
        for i in range(N):
            assert found.norm[n, i] == pytest.approx(np.linalg.norm(U[i] @ V[i].T), rel=1e-5)
            for j in range(N):
                if i == j:
                    assert np.isnan(found.cosine[n, i, j]) and np.isnan(found.ago[n, i, j])
                    continue
                inner = np.abs([[u @ w for w in U[j].T] for u in U[i].T])
                sizes = np.outer(np.linalg.norm(U[i], axis=0), np.linalg.norm(U[j], axis=0))
                assert found.cosine[n, i, j] == pytest.approx((inner / sizes).mean(), rel=1e-5)
                # a record's U has 1/r in it, the loss has not
                assert found.ago[n, i, j] == pytest.approx(RANK**2 * inner.sum(), rel=1e-5)


def test_columns_at_random_overlap_by_chance(tmp_path):
    found = [experts_of(pool_run(tmp_path / f"{s}", seed=s)) for s in range(8)]
    mean = np.nanmean([one.cosine.mean(0) for one in found])
    assert mean == pytest.approx(found[0].chance.mean(), rel=0.1)


def test_where_nobody_chooses_the_first_experts_are_used_by_all(tmp_path):
    found = experts_of(pool_run(tmp_path, router="fixed"))
    assert (found.votes == [1] * TOP + [0] * (RANK - TOP)).all()
    assert (found.merged == range(MERGED)).all()


def test_sites_stand_as_in_the_model():
    model = TwoTowers(GlyphsCLIP(["alpha"]), lambda texts: torch.zeros(0), 128, 32)
    names = [site.name for site in model.adapt(("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))]
    assert sorted(names, key=place) == names
    assert {tower_of(name) for name in names[:36]} == {"image"}
    assert {tower_of(name) for name in names[36:]} == {"text"}
    assert [block_of(name) for name in names[36::6]] == [0, 1, 2, 3]
    assert [kind_of(name) for name in names[:6]] == ["q", "k", "v", "out", "fc1", "fc2"]


def test_open_clips_sites_are_known_too():
    names = [
        "visual.transformer.resblocks.10.attn.qkv.v",
        "visual.transformer.resblocks.10.attn.out_proj",
        "transformer.resblocks.2.mlp.c_fc",
        "transformer.resblocks.2.mlp.c_proj",
        "transformer.resblocks.10.attn.qkv.q",
    ]
    assert sorted(sorted(names), key=place) == names
    assert [tower_of(name) for name in names] == ["image"] * 2 + ["text"] * 3
    assert [kind_of(name) for name in names] == ["v", "out", "fc1", "fc2", "q"]


@pytest.mark.parametrize(
    ("given", "head", "before"),
    [(True, "within_task_matrix", [40, 30, 20]), (False, "accuracy_matrix", [4, 3, 2])],
)
def test_the_course_begins_with_what_is_known_before_anything_is_learned(run, given, head, before):
    course = course_of(run, given)
    assert course.names == NAMES and course.along[0].tolist() == before
    np.testing.assert_array_equal(course.along[1:], run.result["heads"]["trained"][head])


def test_what_is_shipped_opens_without_the_factors(run, tmp_path):
    whole = experts_of(run)
    path = ship([run], tmp_path / "few.zip", {"rank1-pool": METHODS["rank1-pool"].record.ships})
    (there,) = load_runs(path)
    assert suits(there) and set(there.task(0)) == {"counts"}
    for name, array in vars(experts_of(there)).items():
        np.testing.assert_array_equal(array, getattr(whole, name))


def test_a_run_as_large_as_the_labs_own_ships_in_less_than_100_kilobytes(tmp_path):
    sites = [
        f"{start}.{block}.{site}"
        for start, blocks in (("visual.blocks", 6), ("text", 4))
        for block in range(blocks)
        for site in [name.split(".", 3)[3] for name in SITES[:6]]
    ]
    run = pool_run(tmp_path, sites=sites)
    experts_of(run)
    ships = {"rank1-pool": METHODS["rank1-pool"].record.ships}
    assert ship([run], tmp_path / "few.zip", ships).stat().st_size < 50_000  # of half the domains


def test_a_run_that_was_shipped_without_it_does_not_suit_and_says_so(run, tmp_path):
    (there,) = load_runs(ship([run], tmp_path / "bare.zip", {"rank1-pool": ("counts",)}))
    assert not suits(there)
    with pytest.raises(BadInput, match="was shipped without its trained factors"):
        experts_of(there)


def test_other_runs_are_refused_by_name(run, monkeypatch):
    assert suits(run)
    monkeypatch.delitem(run.result, "by_texts")
    with pytest.raises(BadInput, match=r"abc123 is of one tower, glyphs-clip, .*--backbone glyphs"):
        experts_of.__wrapped__(run)
    with pytest.raises(BadInput, match="one tower"):
        course_of(run, True)
    assert not suits(run)
    monkeypatch.setitem(run.config, "method", {"name": "lora"})
    with pytest.raises(BadInput, match="abc123 is of lora, which has no experts; rank1-pool has"):
        experts_of.__wrapped__(run)
