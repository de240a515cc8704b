"""XGBLoRA: every booster has rank 1 and few sites, and what is in the weight is their sum."""

import pytest
import torch

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.methods.low_rank.xgb_lora import XGBLoRA, XGBLoRASettings
from fmlora_lab.methods.method import TaskInfo, build


class Watch:
    """Of every booster, as a run goes on: its steps, its update by site before it is merged, and
    every site's weight before the first and after each."""

    def __init__(self, run):
        self.m: XGBLoRA = run.method
        self.sites = run.learner.model.sites
        self.steps, self.boosters, self.weights = [], [], [self.now()]
        self.merge, self.m._merge = self.m._merge, self.merged

    def now(self) -> list[torch.Tensor]:
        return [site.weight.detach().clone() for site in self.sites]

    def merged(self) -> None:
        found = [(s, update) for s, update in enumerate(self.m.factors()) if update is not None]
        self.steps.append(self.m.steps)
        self.boosters.append({s: update.dense().detach() for s, update in found})
        self.merge()
        self.weights.append(self.now())


def test_each_booster_has_rank_1_and_the_sum_is_in_the_weight(trainer, tiny_stream, memory_keeper):
    keeper = memory_keeper()
    method = {"name": "xgb-lora", "steps": 5, "share": 0.5, "lr": 0.01}
    run = trainer(method, tiny_stream(), keeper=keeper, epochs=6)
    watch = Watch(run)
    run.run()
    assert watch.steps == [5, 5, 2] * 2  # of twelve steps in each of two tasks
    for booster, before, after in zip(
        watch.boosters, watch.weights[:-1], watch.weights[1:], strict=True
    ):
        assert len(booster) == 4  # half of the sites
        for s, (W, W_next) in enumerate(zip(before, after, strict=True)):
            if s not in booster:
                assert torch.equal(W, W_next)
                continue
            assert torch.linalg.matrix_rank(booster[s], rtol=1e-5) == 1
            torch.testing.assert_close(W_next - W, booster[s], rtol=0, atol=1e-6)
    for task, record in enumerate(keeper.records):
        own = watch.boosters[3 * task : 3 * task + 3]
        for s, site in enumerate(run.learner.model.sites):
            U, V = record[f"U.{site.name}"], record[f"V.{site.name}"]
            taken = [booster[s] for booster in own if s in booster]
            assert U.shape == (site.d_out, len(taken)) and V.shape == (site.d_in, len(taken))
            torch.testing.assert_close(U @ V.T, sum(taken, torch.zeros_like(site.weight)))
            whole = watch.weights[3 * task + 3][s] - watch.weights[3 * task][s]
            torch.testing.assert_close(whole, U @ V.T, rtol=0, atol=1e-6)
    assert len({tuple(booster) for booster in watch.boosters}) > 1  # other sites, another time


def test_merging_changes_nothing_that_the_model_computes(trainer, tiny_stream):
    run = trainer({"name": "xgb-lora", "steps": 3, "lr": 0.01}, tiny_stream(), epochs=4)
    m, begin_booster = run.method, run.method._begin_booster
    pixels, before, merge = run.stream.tasks[0].test.pixels, [], run.method._merge

    def watched_merge():
        before.append(run.learner.features(pixels).detach())
        merge()

    def watched_begin(generator):
        begin_booster(generator)
        if before:
            found = run.learner.features(pixels).detach()
            torch.testing.assert_close(found, before[-1], rtol=1e-4, atol=1e-5)

    m._merge, m._begin_booster = watched_merge, watched_begin
    run.run()
    assert len(before) == 6


def test_a_booster_begins_without_memory_in_the_optimiser(trainer, tiny_stream):
    """Its first step moves u by the rate of that moment, as Adam's first does; so does not the
    first of the head, which goes on."""
    method = {"name": "xgb-lora", "steps": 2, "lr": 0.01, "share": 1.0}
    run = trainer(method, tiny_stream(), epochs=3)
    m, step, firsts, ages = run.method, run.method.step, [], []

    def watched_step(batch):
        first = m.steps == 0
        loss = step(batch)
        rate = batch.optimizer.param_groups[0]["lr"]
        if first:
            firsts.extend(u.abs().max().item() / rate for u in m.u)
            assert all(batch.optimizer.state[p]["step"] == 1 for p in (*m.u, *m.v))
        ages.append(int(batch.optimizer.state[run.learner.head.rows]["step"]))
        return loss

    m.step = watched_step
    run.run()
    assert firsts == pytest.approx([1] * (2 * 3 * 8), rel=1e-2)
    assert ages == [1, 2, 3, 4, 5, 6] * 2


def test_only_the_boosters_sites_move(trainer, tiny_stream):
    run = trainer({"name": "xgb-lora", "steps": 2, "lr": 0.01}, tiny_stream(tasks=1), epochs=3)
    m, step = run.method, run.method.step

    def watched_step(batch):
        before = [(u.detach().clone(), v.detach().clone()) for u, v in zip(m.u, m.v, strict=True)]
        loss = step(batch)
        for s, (u, v) in enumerate(before):
            moved = not torch.equal(u, m.u[s]), not torch.equal(v, m.v[s])
            assert moved == ((s in m.adapted),) * 2
        return loss

    m.step = watched_step
    run.run()


def test_the_norm_penalty_keeps_boosters_small(trainer, tiny_stream, memory_keeper):
    sizes = []
    for norm in (0.0, 1.0):
        keeper = memory_keeper()
        method = {"name": "xgb-lora", "steps": 4, "lr": 0.01, "norm": norm}
        trainer(method, tiny_stream(), keeper=keeper, epochs=4).run()
        record = keeper.records[1]
        sizes.append(sum(t.square().sum() for key, t in record.items() if key[:2] == "V."))
    assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.parametrize(("share", "wanted"), [(0.01, 1), (1 / 3, 3), (1.0, 8)])
def test_a_booster_takes_its_share_of_the_sites_and_one_at_least(tiny_vit, share, wanted):
    m = build(XGBLoRASettings(share=share), ViT(tiny_vit()))
    m.begin_task(TaskInfo(0, range(2), torch.Generator()))
    adapted = [s for s, update in enumerate(m.factors()) if update is not None]
    assert len(adapted) == wanted and adapted == m.chosen.nonzero().flatten().tolist()
    numbers = [m.model.sites[s].d_out + m.model.sites[s].d_in for s in adapted]
    assert m.trained() == sum(numbers)
