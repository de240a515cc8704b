"""O-LoRA and N-LoRA: their losses against the released code; what each claims of its updates."""

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fmlora_lab.analysis.collision import collision_rate
from fmlora_lab.backbone.vit import ViT
from fmlora_lab.methods.low_rank.lora import LoRA
from fmlora_lab.methods.low_rank.n_lora import NLoRASettings
from fmlora_lab.methods.low_rank.o_lora import OLoRASettings
from fmlora_lab.methods.method import Batch, TaskInfo, build
from fmlora_lab.seeds import generator

D, R = 6, 2

# Made on 2026-11-26 by `Linear` (src/peft/tuners/lora.py) and the lines of `training_step`
# (src/uie_trainer_lora.py) that add to the loss, of cmnfriend/O-LoRA at 07117e1fc4a5 and of
# PKU-YuanGroup/N-LoRA at 7301afe5f0e3, in float64, on the numbers that the test draws; per task:
# loss, gradients of U in block 0 (row 0) and V in block 1 (row 2), and all squares of these.
# N-LoRA's product has the up factor first, as in the paper; as released it would be |VᵀU|.
O_LORA = [
    (12.9385825324, [-0.8995612163, -0.9125394288], [0.5985418885, -0.6156089156], 25.2225324499),
    (20.1525717605, [-1.0552200042, 0.6491124505], [0.0229415642, 0.9217799893], 28.3552743088),
    (30.6787148148, [0.3909747349, 0.2989587016], [-1.2134648411, -0.3230106803], 35.9263738073),
]
N_LORA = [
    (41.5012311297, [-2.2331860621, -0.4627991536], [-0.6621948642, -1.6191387157], 179.2087773192),
    (41.7230965752, [-0.5244832209, 2.0646729472], [2.1536295725, 2.0614998106], 143.1379307542),
    (51.7975171525, [0.1285804809, -1.3110301168], [0.7997157461, -3.0969898449], 200.4268659678),
]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (OLoRASettings(layers=("attn.proj",), rank=R, orthogonality=0.5, norms=0.1), O_LORA),
        (NLoRASettings(layers=("attn.proj",), rank=R, sparsity=0.4 * D * D), N_LORA),
    ],
    ids=["o-lora", "n-lora"],
)
def test_loss_and_gradients_are_the_released_codes(tiny_vit, settings, wanted):
    """Two square layers, whose outputs' sum is taken as logits."""
    draw = np.random.default_rng(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(draw.standard_normal(shape))

    W, b = [drawn(D, D) for _ in range(2)], [drawn(D) for _ in range(2)]
    learned = [[(drawn(D, R), drawn(D, R)) for _ in range(2)] for _ in range(3)]
    x, labels = [drawn(5, D) for _ in range(2)], torch.arange(5)
    vit = tiny_vit(embed_dim=D, depth=2).double()
    for n, block in enumerate(vit.blocks):
        block.attn.proj.weight.data, block.attn.proj.bias.data = W[n].clone(), b[n]
    m = build(settings, ViT(vit)).double()
    for task, (loss, U_row, V_row, squares) in enumerate(wanted):
        begin(m, task)
        with torch.no_grad():
            for n, (U, V) in enumerate(learned[task]):
                m.U[n].copy_(U), m.V[n].copy_(V)
        m.model.set_update(m.factors(), None)
        logits = sum(site(tokens) for site, tokens in zip(m.model.sites, x, strict=True))
        found = m.loss(Batch(logits, logits, labels, None))
        m.zero_grad()
        found.backward()
        assert found.item() == pytest.approx(loss, rel=1e-8)
        assert m.U[0].grad[0].tolist() == pytest.approx(U_row, rel=1e-8)
        assert m.V[1].grad[2].tolist() == pytest.approx(V_row, rel=1e-8)
        total = sum(p.grad.square().sum().item() for p in (*m.U, *m.V))
        assert total == pytest.approx(squares, rel=1e-8)
        m.end_task()


def begin(m: LoRA, index: int) -> None:
    m.begin_task(TaskInfo(index, range(1), generator(0, "method", index)))


def test_without_their_terms_both_are_sequential_lora(trainer, tiny_stream, memory_keeper):
    losses = []
    for method in (
        {"name": "lora"},
        {"name": "o-lora", "orthogonality": 0},
        {"name": "n-lora", "sparsity": 0},
    ):
        keeper = memory_keeper()
        trainer(method | {"rank": 4, "lr": 0.01}, tiny_stream(), keeper=keeper).run()
        losses.append([line["loss"] for line in keeper.lines])
    assert losses[0] == losses[1] == losses[2]


def trained(trainer, tiny_stream, memory_keeper, **method) -> list[dict[str, torch.Tensor]]:
    """The records of three tasks."""
    keeper = memory_keeper()
    stream = tiny_stream(classes=6, tasks=3)
    trainer({"rank": 4, "lr": 0.01, **method}, stream, keeper=keeper, epochs=6).run()
    return keeper.records


def test_o_lora_reads_from_other_directions_than_its_earlier_tasks(
    trainer, tiny_stream, memory_keeper
):
    """The mean cosine of any two tasks' columns of V, beside the same without the term."""

    def shared(orthogonality: float) -> float:
        method = {"name": "o-lora", "orthogonality": orthogonality}
        records = trained(trainer, tiny_stream, memory_keeper, **method)
        V = [[F.normalize(r[n], dim=0) for n in r if n.startswith("V.")] for r in records]
        cosines = [
            (v.T @ w).abs() for a, b in combinations(V, 2) for v, w in zip(a, b, strict=True)
        ]
        return torch.stack(cosines).mean().item()

    assert shared(0.5) < 0.5 * shared(0)


def test_n_lora_lowers_the_collision_rate_against_o_lora(trainer, tiny_stream, memory_keeper):
    def rate(**method) -> float:
        records = trained(trainer, tiny_stream, memory_keeper, **method)
        sites = [name[2:] for name in records[0] if name.startswith("U.")]
        of = [{s: (r[f"U.{s}"].numpy(), r[f"V.{s}"].numpy()) for s in sites} for r in records]
        met = [collision_rate(a[s], b[s]) for a, b in combinations(of, 2) for s in sites]
        return float(np.mean(met))

    assert rate(name="n-lora") < 0.75 * rate(name="o-lora")
    assert rate(name="n-lora", sparsity=0) > 0.95 * rate(name="o-lora")
