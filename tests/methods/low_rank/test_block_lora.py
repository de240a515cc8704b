"""Block-LoRA: rank r / n at most, arms that stay alike, and what either reading amounts to."""

import pytest
import torch

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.config import BadInput
from fmlora_lab.methods.low_rank.block_lora import BlockLoRASettings
from fmlora_lab.methods.method import Group, build
from fmlora_lab.profiles import configure


def learned(trainer, stream, keeper, method: dict, groups=None, **settings):
    """A run's records and losses; `groups(method)` in place of what the method trains."""
    run = trainer(method, stream, keeper=keeper, epochs=3, weight_decay=0.0, **settings)
    if groups is not None:
        run.method.groups = lambda: groups(run.method)
    run.run()
    return run, keeper.records, [line["loss"] for line in keeper.lines]


@pytest.mark.parametrize("reading", ["sum", "rows"])
def test_the_update_has_rank_r_over_n_whatever_the_reading(
    trainer, tiny_stream, memory_keeper, reading
):
    method = {"name": "block-lora", "rank": 16, "heads": 8, "reading": reading, "lr": 0.01}
    run, records, _ = learned(trainer, tiny_stream(), memory_keeper(), method)
    for record in records:
        for site in run.learner.model.sites:
            U, V = record[f"U.{site.name}"], record[f"V.{site.name}"]
            assert U.shape == (site.d_out, 2) and V.shape == (site.d_in, 2)
            assert torch.linalg.matrix_rank(U @ V.T, rtol=1e-5) == 2


def test_fewer_numbers_are_learned_than_by_a_lora_of_rank_r(tiny_vit):
    m = build(BlockLoRASettings(rank=16, heads=8), ViT(tiny_vit()))
    assert m.trained() == sum(site.d_in * 2 + site.d_out * 16 for site in m.model.sites)


def test_the_arms_are_one_matrix_at_n_times_the_rate(trainer, tiny_stream, memory_keeper, float64):
    """Without weight decay: a LoRA of rank r / n whose U alone learns four times as fast."""
    method = {"name": "block-lora", "rank": 8, "heads": 4, "lr": 0.002}
    _, records, losses = learned(trainer, tiny_stream(), memory_keeper(), method)

    def faster(m, times: int) -> list[Group]:
        return [Group([*m.U], times * 0.002), Group([*m.V], 0.002)]

    plain = {"name": "lora", "rank": 2, "lr": 0.002}
    for times in (4, 1):
        keeper = memory_keeper()
        *_, others = learned(trainer, tiny_stream(), keeper, plain, lambda m, n=times: faster(m, n))
        same = [
            torch.allclose(record[key], other[key], rtol=1e-6, atol=1e-9)
            for record, other in zip(records, keeper.records, strict=True)
            for key in record
            if key[:2] in ("U.", "V.")
        ]
        assert all(same) if times == 4 else not any(same)
        assert (losses == pytest.approx(others, rel=1e-8)) == (times == 4)


def test_equal_arms_hold_throughout_the_training(trainer, tiny_stream):
    run = trainer({"name": "block-lora", "rank": 8, "heads": 4}, tiny_stream(tasks=1), epochs=2)
    end_task, seen = run.method.end_task, []

    def watched():
        seen.extend(arms.detach().clone() for arms in run.method.U)
        return end_task()

    run.method.end_task = watched
    run.run()
    assert all(arms.abs().max() > 1e-4 and (arms == arms[0]).all() for arms in seen)


def test_rows_of_a_shared_projection_are_plain_lora_to_the_last_bit(
    trainer, tiny_stream, memory_keeper
):
    found = []
    for method in (
        {"name": "block-lora", "rank": 32, "heads": 8, "reading": "rows", "lr": 0.01},
        {"name": "lora", "rank": 4, "lr": 0.01},
    ):
        found.append(learned(trainer, tiny_stream(), memory_keeper(), method)[1:])
    (ours, losses), (lora, others) = found
    assert losses == others
    for record, other in zip(ours, lora, strict=True):
        assert all(
            torch.equal(record[key], other[key]) for key in record if key[:2] in ("U.", "V.")
        )


def test_blocks_need_whole_columns():
    with pytest.raises(BadInput, match=r"method\.rank is 12, which 8 blocks of method\.heads"):
        configure("block-lora", overrides={"method.rank": 12})
