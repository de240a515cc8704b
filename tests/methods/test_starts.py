"""What of an update lay in its start: dense mathematics, chance, and every low-rank method."""

import numpy as np
import pytest
import torch

from fmlora_lab import run
from fmlora_lab.backbone.low_rank import times
from fmlora_lab.methods.method import METHODS
from fmlora_lab.methods.starts import STARTS, shares_of_starts

pytestmark = pytest.mark.train

LOW_RANK = sorted(name for name, method in METHODS.items() if method.record.updates)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=noise, dtype=torch.float64)


def share_and_chance(*sites) -> tuple[list, list]:
    found = shares_of_starts(sites)
    return found["start_share"].tolist(), found["start_chance"].tolist()


def test_a_space_that_has_not_moved_is_all_start_and_one_at_right_angles_none():
    Q, U, mix = torch.linalg.qr(draw(12, 6)).Q, draw(9, 3, seed=1), draw(3, 3, seed=2)
    for V, wanted in ((Q[:, :3] @ mix, 1.0), (Q[:, 3:], 0.0), (Q[:, 1:4], 2 / 3)):
        share, chance = share_and_chance(((U, None), (V, Q[:, :3])))
        assert share == [pytest.approx([0, wanted], abs=1e-6)]
        assert chance == [pytest.approx([0, 3 / 12])]


def test_it_is_of_the_updates_own_space_not_of_its_factors():
    """Of rank 1 there is one direction, whatever V spans beside it; angles are known."""
    Q, angle = torch.linalg.qr(draw(10, 4)).Q, 0.4
    V = torch.stack([Q[:, 0] * np.cos(angle) + Q[:, 2] * np.sin(angle), Q[:, 3]], dim=1)
    U = torch.stack([draw(7), torch.zeros(7, dtype=torch.float64)], dim=1)
    ((_, share),), ((_, chance),) = share_and_chance(((U, None), (V, Q[:, :2])))
    assert share == pytest.approx(np.cos(angle) ** 2) and chance == pytest.approx(0.2)


def test_chance_is_what_a_space_at_random_has_on_average():
    start = torch.cat([draw(20, 5), torch.zeros(20, 3)], dim=1)  # five directions, of eight columns
    sites = [
        ((draw(6, 4, seed=n), draw(6, 2, seed=n + 999)), (draw(20, 4, seed=2 * n + 1), start))
        for n in range(400)
    ]
    share, chance = share_and_chance(*sites)
    assert chance[0] == pytest.approx([2 / 6, 5 / 20])
    assert np.mean(share, axis=0) == pytest.approx(chance[0], rel=0.03)


def test_an_update_of_zero_has_no_space_that_could_lie_anywhere():
    share, chance = share_and_chance(((torch.zeros(5, 2), None), (draw(6, 2).float(),) * 2))
    assert np.isnan(share).all() and chance == [pytest.approx([0, 2 / 6])]


# In training

BOTH_SIDES = {"c-lora", "lilora"}
"""Methods whose updates start from given columns on either side; their own tests have them."""


def spanned(matrix: np.ndarray) -> np.ndarray:
    left, sigma, _ = np.linalg.svd(matrix, full_matrices=False)
    return left[:, sigma > 1e-5 * sigma[0]]


def mean_part(of: np.ndarray, inside: np.ndarray) -> float:
    return float(np.square(spanned(inside).T @ spanned(of)).sum(0).mean())


@pytest.mark.parametrize("name", sorted({*LOW_RANK} - BOTH_SIDES))
def test_a_tasks_record_says_how_far_its_update_left_its_start(
    trainer, tiny_stream, memory_keeper, quick, name
):
    """Against dense updates and what the factors were before the first step of training."""
    keeper = memory_keeper()
    single = {"steps": 100, "share": 1.0} if name == "xgb-lora" else {}
    settings = quick(name, blocks=[0], layers=["attn.qkv", "mlp.fc2"], **single)
    started = trainer(settings, tiny_stream(tasks=2), keeper=keeper, epochs=3)
    method, before, after = started.method, [], []
    on_step, begin_stage, end_task = method.on_step, method.begin_stage, method.end_task

    def factors() -> list[tuple[np.ndarray, ...]]:
        """Each site's U and V; of FM-LoRA's later tasks M and N."""
        if name == "sd-lora":
            blocks = [torch.block_diag(*(method.U[i] for i in own)) for own in method.weights]
            wide = [torch.cat([method.V[i] for i in own], dim=1) for own in method.weights]
            pairs = [*zip(blocks, wide, strict=True)]
        elif name != "fm-lora":
            pairs = [(times(update.U, update.C), update.V) for update in method.factors()]
        else:
            f = method.factorized
            parts = (f.U, f.V) if f.learning_bases else (f.M, f.N)
            pairs = [*zip(*parts, strict=True)]
        return [tuple(part.detach().double().numpy().copy() for part in pair) for pair in pairs]

    def watched_step(noise):
        on_step(noise)
        if getattr(method, "stage", "train") == "train" and len(before) == len(after):
            before.append(factors())

    def watched_begin(stage, noise):
        if stage.name == "preliminary" and method.task.index == 0:  # task 1's LoRA becomes bases
            after.append(factors())
        begin_stage(stage, noise)

    def watched_end():
        if len(after) < len(before):
            after.append(factors())
        return end_task()

    method.on_step, method.begin_stage, method.end_task = watched_step, watched_begin, watched_end
    started.run()
    for task, record in enumerate(keeper.records):
        assert record["start_share"].shape == record["start_chance"].shape == (2, 2)
        for site, ((U0, V0), (U, V)) in enumerate(zip(before[task], after[task], strict=True)):
            share, chance = record["start_share"][site], record["start_chance"][site]
            for side, (now, start) in enumerate(((U @ V.T, U0), (V @ U.T, V0))):
                if not start.any():
                    assert share[side] == chance[side] == 0
                    continue
                assert share[side].item() == pytest.approx(mean_part(now, start), abs=1e-4)
                k = spanned(start).shape[1]
                assert chance[side].item() == pytest.approx(k / len(start))
                frozen = np.array_equal((U, V)[side], start)  # designed, as InfLoRA's V
                assert (share[side] > 0.99999) == (frozen or k == len(start))
    # At every site one side starts at zero; SLAO's later tasks are handed both.
    later = {"fm-lora": (True, False), "slao": (True, True)}.get(name, (False, True))
    given = [{*map(tuple, record["start_chance"].gt(0).tolist())} for record in keeper.records]
    assert given == [{(False, True)}, {later}]


@pytest.mark.parametrize("name", LOW_RANK)
def test_a_resumed_run_remembers_where_its_updates_started(
    tiny_config, resumed, quick, tmp_path, name
):
    config = tiny_config(quick(name))
    whole, stopped = run(config, tmp_path / "whole"), resumed(config, tmp_path / "stopped")
    for task in range(2):
        for array in STARTS:
            assert whole.task(task)[array].tobytes() == stopped.task(task)[array].tobytes()
        # NaN at a site that the task left as it was
        assert np.nanmax(whole.task(task)["start_share"]) > 0.5
