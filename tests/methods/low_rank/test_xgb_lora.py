"""XGBLoRA: every booster has rank 1 and few sites, and what is in the weight is their sum."""

import pytest
import torch

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.methods.low_rank.xgb_lora import XGBLoRA, XGBLoRASettings
from fmlora_lab.methods.method import build


def watched(run) -> tuple[list[dict[int, torch.Tensor]], list[list[torch.Tensor]]]:
    """Of every booster, as a run goes on: its update by site before it is merged, and every site's
    weight before it and after the last."""
    m: XGBLoRA = run.method
    sites, begin_stage, end_stage = run.learner.model.sites, m.begin_stage, m.end_stage
    boosters, weights = [], [[site.weight.detach().clone() for site in sites]]

    def watched_begin(stage, noise):
        begin_stage(stage, noise)
        assert all(not m.u[s].any() and m.v[s].all() for s in m.chosen)

    def watched_end(stage, end):
        found = [(s, update) for s, update in enumerate(m.factors()) if update is not None]
        boosters.append({s: update.dense().detach() for s, update in found})
        end_stage(stage, end)
        weights.append([site.weight.detach().clone() for site in sites])
        assert m.factors() == [None] * len(sites)

    m.begin_stage, m.end_stage = watched_begin, watched_end
    return boosters, weights


def test_each_booster_has_rank_1_and_the_sum_is_in_the_weight(trainer, tiny_stream, memory_keeper):
    keeper = memory_keeper()
    method = {"name": "xgb-lora", "boosters": 3, "share": 0.5, "lr": 0.01}
    run = trainer(method, tiny_stream(), keeper=keeper, epochs=3)
    boosters, weights = watched(run)
    run.run()
    assert len(boosters) == 6  # three in each of two tasks
    for booster, before, after in zip(boosters, weights[:-1], weights[1:], strict=True):
        assert len(booster) == 4  # half of the sites
        for s, (W, W_next) in enumerate(zip(before, after, strict=True)):
            if s not in booster:
                assert torch.equal(W, W_next)
                continue
            assert torch.linalg.matrix_rank(booster[s], rtol=1e-5) == 1
            torch.testing.assert_close(W_next - W, booster[s], rtol=0, atol=1e-6)
    for task, record in enumerate(keeper.records):
        own = boosters[3 * task : 3 * task + 3]
        for s, site in enumerate(run.learner.model.sites):
            U, V = record[f"U.{site.name}"], record[f"V.{site.name}"]
            taken = [booster[s] for booster in own if s in booster]
            assert U.shape == (site.d_out, len(taken)) and V.shape == (site.d_in, len(taken))
            torch.testing.assert_close(U @ V.T, sum(taken, torch.zeros_like(site.weight)))
            whole = weights[3 * task + 3][s] - weights[3 * task][s]
            torch.testing.assert_close(whole, U @ V.T, rtol=0, atol=1e-6)
    assert len({tuple(booster) for booster in boosters}) > 1  # other sites, another time


def test_boosters_share_the_tasks_epochs_and_see_the_images_that_others_see(
    trainer, tiny_stream, memory_keeper
):
    images = []
    for method in ({"name": "xgb-lora", "boosters": 3}, {"name": "lora"}):
        run = trainer(method, tiny_stream(), epochs=5)
        images.append(run.run()["images"])
    assert images[0] == images[1] == 2 * 5 * 16


@pytest.mark.parametrize(
    ("boosters", "epochs", "wanted"),
    [(3, 5, [2, 2, 1]), (4, 4, [1, 1, 1, 1]), (4, 1, [1]), (1, 5, [5]), (2, 0, [])],
)
def test_no_booster_is_without_an_epoch(tiny_vit, boosters, epochs, wanted):
    m = build(XGBLoRASettings(boosters=boosters), ViT(tiny_vit()))
    stages = list(m.stages(epochs))
    assert [stage.epochs for stage in stages] == wanted
    assert len({stage.name for stage in stages}) == len(stages)


def test_a_booster_begins_with_a_fresh_optimiser(trainer, tiny_stream, monkeypatch):
    """The first step of each moves u by the learning rate, as Adam's first does."""
    run = trainer({"name": "xgb-lora", "boosters": 2, "lr": 0.01}, tiny_stream(), epochs=2)
    m, first, begin_stage, step = run.method, [], run.method.begin_stage, run.method.step

    def watched_begin(stage, noise):
        begin_stage(stage, noise)
        first.append(None)

    def watched_step(batch):
        loss = step(batch)
        if first[-1] is None:
            assert len(batch.optimizer.state) == len(batch.optimizer.param_groups[0]["params"]) + 2
            first[-1] = max(m.u[s].abs().max().item() for s in m.chosen)
        return loss

    m.begin_stage, m.step = watched_begin, watched_step
    run.run()
    assert first == pytest.approx([0.01] * 4, rel=1e-3)


def test_the_norm_penalty_keeps_boosters_small(trainer, tiny_stream, memory_keeper):
    sizes = []
    for norm in (0.0, 1.0):
        keeper = memory_keeper()
        method = {"name": "xgb-lora", "boosters": 2, "lr": 0.01, "norm": norm}
        trainer(method, tiny_stream(), keeper=keeper, epochs=4).run()
        record = keeper.records[1]
        sizes.append(sum(t.square().sum() for key, t in record.items() if key[:2] == "V."))
    assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.parametrize(("share", "wanted"), [(0.01, 1), (1 / 3, 3), (1.0, 8)])
def test_a_booster_takes_its_share_of_the_sites_and_one_at_least(tiny_vit, share, wanted):
    m = build(XGBLoRASettings(share=share), ViT(tiny_vit()))
    (stage,) = m.stages(1)
    m.begin_stage(stage, torch.Generator())
    assert len(set(m.chosen)) == wanted
    assert m.trained() == sum(
        s.d_out + s.d_in for n, s in enumerate(m.model.sites) if n in m.chosen
    )
