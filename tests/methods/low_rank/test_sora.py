"""SoRA: gates reach exact zeros, pruning them changes nothing; layer and gate as released."""

import numpy as np
import pytest
import torch

from fmlora_lab.analysis.updates import norm, spaces
from fmlora_lab.backbone.vit import ViT
from fmlora_lab.methods.low_rank.sora import SoRA, SoRASettings, pruned, soft_threshold
from fmlora_lab.methods.method import Batch, StepBatch, build
from fmlora_lab.seeds import generator

# Against the released code


# Made on 2026-11-26 by `LowRankLinear` (src/lora.py) and `SparseAdamW` (src/sparse_optimizer.py) of
# TsinghuaC3I/SoRA at c275ac237b68, in float64, on the numbers that the tests draw: r = 4, α = 16,
# λ = 10; the first output, the loss, gradients of the gate, of A's first column and of B's first
# row.
OUTPUT = [-4.291266, 2.987674, 2.956876, 7.337876, 8.298644, -11.802585]
LOSS = 31.714759729897764
GATE_GRADIENT = [5.715863, 14.301399, 4.806011, -2.71155]
A_GRADIENT = [-0.053567, -9.340451, 0.213825, -0.372268]
B_GRADIENT = [-0.020598, -1.430285, -0.063918, 0.979724]


def drawn() -> tuple:
    draw = np.random.default_rng(0)
    return draw, lambda *shape: torch.from_numpy(draw.standard_normal(shape))


def test_a_layer_is_the_released_codes_in_output_loss_and_gradients(tiny_vit):
    vit = tiny_vit(embed_dim=6, depth=1).double()
    m = build(SoRASettings(layers=("attn.proj",), rank=4, penalty=10.0), ViT(vit)).double()
    (site,), (_, draw), scale = m.model.sites, drawn(), 16 / 4
    x, B, A, g = draw(5, 6), draw(6, 4), draw(4, 6), draw(1, 4)
    with torch.no_grad():
        site.weight.zero_()
        site.bias.zero_()
        m.U[0].copy_(scale * B)
        m.V[0].copy_(A.T)
        m.gate.copy_(g)
    m.model.set_update(m.factors(), None)
    y = site(x)
    loss = m.loss(Batch(y, y, torch.tensor([0, 3, 5, 1, 2]), None))
    loss.backward()
    assert y[0].tolist() == pytest.approx(OUTPUT, abs=1e-6)
    assert loss.item() == pytest.approx(LOSS, rel=1e-12)
    assert m.gate.grad[0].tolist() == pytest.approx(GATE_GRADIENT, abs=1e-6)
    assert m.V[0].grad[0].tolist() == pytest.approx(A_GRADIENT, abs=1e-6)
    assert (scale * m.U[0].grad[0]).tolist() == pytest.approx(B_GRADIENT, abs=1e-6)


BEGIN = [[0.9, -0.6, 0.35, -0.28], [0.17, -0.12, 0.06, 0.02]]
# The gates after each of four steps at rate 0.03 and ξ = 0.05, with gradients as drawn (its ε in
# Adam is 1e-6).
GATES = [
    [[0.879997, -0.520001, 0.329999, -0.259998], [0.090002, -0.099999, 0.0, 0.0]],
    [[0.859513, -0.476905, 0.306202, -0.206124], [0.0, -0.079633, 0.0, 0.0]],
    [[0.835186, -0.419891, 0.268483, -0.16773], [0.0, 0.0, 0.0, 0.0]],
    [[0.811799, -0.368749, 0.23859, -0.131575], [0.0, 0.0, 0.0, 0.0]],
]


def given(m: SoRA, images, gradient: torch.Tensor, optimizer) -> StepBatch:
    """A step in which the gates have this gradient."""
    return StepBatch(images, None, lambda images, query: (m.gate * gradient).sum(), optimizer)


def test_gates_go_as_the_released_codes_but_for_the_ones_it_drops_too_soon(tiny_vit, tiny_images):
    """It sets to zero what is below ξ after ξ was taken away, which is at twice the threshold."""
    _, draw = drawn()
    for shape in ((5, 6), (6, 4), (4, 6), (1, 4)):  # what the layer's test draws first
        draw(*shape)
    settings = SoRASettings(layers=("attn.proj",), rank=4, threshold=0.05)
    m, xi = build(settings, ViT(tiny_vit())).double(), 0.05
    with torch.no_grad():
        m.gate.copy_(torch.tensor(BEGIN))
    optimizer = torch.optim.AdamW([m.gate], lr=0.03, weight_decay=0.0)
    early = 0
    for wanted in map(torch.tensor, GATES):
        m.step(given(m, tiny_images(range(2), 1), draw(2, 4), optimizer))
        gone = (wanted == 0) & (m.gate != 0)
        torch.testing.assert_close(
            m.gate[wanted != 0].float(), wanted[wanted != 0], rtol=0, atol=2e-5
        )
        assert (m.gate[gone].abs() < 2 * xi).all()
        early += int(gone.sum())
    assert early > 0


# Sparsity


def test_the_operator_is_the_proximal_step():
    g, xi = torch.linspace(-1, 1, 41, dtype=torch.float64), 0.3
    found = soft_threshold(g, xi)
    # argmin over a fine grid of ½ (z - g)² + ξ |z|
    z = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    best = z[(0.5 * (z - g[:, None]).square() + xi * z.abs()).argmin(1)]
    torch.testing.assert_close(found, best, rtol=0, atol=1e-4)
    assert (found == 0).sum() == 13 and not soft_threshold(torch.zeros(1), 0.0).any()


def run_with(trainer, stream, keeper, **settings):
    method = {"name": "sora", "rank": 8, "lr": 0.01, "penalty": 0.01, **settings}
    run = trainer(method, stream, keeper=keeper, epochs=3)
    run.run()
    return run


def test_gates_reach_exact_zeros_and_what_stays_is_recorded_by_site(
    trainer, tiny_stream, memory_keeper
):
    keeper = memory_keeper()
    run = run_with(trainer, tiny_stream(), keeper, threshold=0.05)
    for record in keeper.records:
        gate, rank = record["gate"], record["rank"]
        assert (rank == (gate != 0).sum(1)).all() and rank.shape == (8,)
        assert 0 < (gate == 0).float().mean() < 1
        for site, kept in zip(run.learner.model.sites, rank.tolist(), strict=True):
            assert record[f"U.{site.name}"].shape == (site.d_out, kept)
            assert record[f"V.{site.name}"].shape == (site.d_in, kept)
    assert not torch.equal(keeper.records[0]["rank"], keeper.records[1]["rank"])


def test_without_threshold_no_gate_is_zero_and_all_directions_stay(
    trainer, tiny_stream, memory_keeper
):
    keeper = memory_keeper()
    run_with(trainer, tiny_stream(), keeper, threshold=0)
    assert all((record["rank"] == 8).all() for record in keeper.records)


def test_a_larger_threshold_leaves_fewer_directions(trainer, tiny_stream, memory_keeper):
    left = []
    for threshold in (0.01, 0.05, 0.15):
        keeper = memory_keeper()
        run_with(trainer, tiny_stream(), keeper, threshold=threshold)
        left.append(sum(int(record["rank"].sum()) for record in keeper.records))
    assert left[0] > left[1] > left[2]


def test_pruning_what_is_zero_changes_no_bit_of_an_output(tiny_vit):
    """Of numbers whose products and sums are exact, so that no order of summation can hide it."""
    m = build(SoRASettings(layers=("attn.qkv", "mlp.fc2"), rank=8), ViT(tiny_vit()))
    noise = generator(0)

    def coarse(*shape: int) -> torch.Tensor:
        return torch.randint(-8, 9, shape, generator=noise) / 8

    with torch.no_grad():
        for p in (*m.U, *m.V, m.gate, *m.weights, *(site.bias for site in m.model.sites)):
            p.copy_(coarse(*p.shape))
        m.gate[:, ::3] = 0
    less = [pruned(update) for update in m.factors()]
    assert all(0 < update.U.shape[1] < 8 for update in less)
    for site, whole, part in zip(m.model.sites, m.factors(), less, strict=True):
        x, outputs = coarse(3, 5, site.d_in), []
        for update in (whole, part, part._replace(U=part.U + 1 / 8)):
            site.factors = update
            outputs.append(site(x))
        assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[1], outputs[2])
        site.factors = None


def test_what_is_merged_is_the_gated_update(trainer, tiny_stream, memory_keeper):
    """Each site's weight has moved by the sum of what the tasks recorded."""
    keeper = memory_keeper()
    run = trainer({"name": "sora", "lr": 0.01, "threshold": 0.05}, tiny_stream(), keeper=keeper)
    before = [site.weight.detach().clone() for site in run.learner.model.sites]
    run.run()
    for site, W in zip(run.learner.model.sites, before, strict=True):
        summed = sum(r[f"U.{site.name}"] @ r[f"V.{site.name}"].T for r in keeper.records)
        assert summed.abs().max() > 1e-3
        torch.testing.assert_close(site.weight - W, summed, rtol=1e-4, atol=1e-6)


def test_a_site_may_end_with_no_direction_at_all(trainer, tiny_stream, memory_keeper):
    """Its update is zero, of width 0, in the record and for whoever reads it."""
    keeper = memory_keeper()
    run = run_with(trainer, tiny_stream(), keeper, threshold=10.0)
    record = keeper.records[0]
    assert not record["rank"].any() and torch.isnan(record["start_share"]).all()
    name = run.learner.model.sites[0].name
    update = (record[f"U.{name}"].double().numpy(), record[f"V.{name}"].double().numpy())
    assert norm(update) == 0 and spaces(update)[0].shape[1] == 0
