"""What is stored of every two tasks agrees with dense mathematics, q, k and v apart."""

from types import SimpleNamespace

import numpy as np
import pytest

from fmlora_lab.analysis.overlap import relate, related, relation, weights
from fmlora_lab.analysis.updates import cosines, overlap, spaces
from fmlora_lab.config import METHOD_LABELS, BadInput

pytestmark = pytest.mark.unit

D, N = 6, 3


def stand_in(*layers: str, rows: int):
    """Stands for a stored LoRA run of N tasks: one qkv site of `rows` rows, and one fc1."""
    draw = np.random.default_rng(0)
    shapes = {"attn.qkv": rows, "mlp.fc1": 8}
    tasks = [
        {
            f"{factor}.blocks.1.{site}": draw.standard_normal(
                (d if factor == "U" else D, 2 + t % 2)
            )
            for site, d in shapes.items()
            for factor in "UV"
        }
        for t in range(N)
    ]
    derived = {}

    class Stored(SimpleNamespace):
        __hash__ = object.__hash__

        def derived_arrays(self, name, compute):
            return derived.setdefault(name, compute())

    return Stored(
        id="abc",
        config={"method": {"name": "lora", "layers": layers}},
        method_name="lora",
        label=METHOD_LABELS["lora"],
        result={"task_files": N},
        task=lambda t: tasks[t],
        shipped=False,
    )


@pytest.mark.parametrize(
    ("layers", "rows", "names"),
    [
        (("attn.qkv", "mlp.fc1"), 3 * D, ["q", "k", "v"]),
        (("attn.v", "attn.q", "mlp.fc1"), 2 * D, ["q", "v"]),
    ],
)
def test_a_qkv_site_is_the_weights_that_it_adapts(layers, rows, names):
    run = stand_in(*layers, rows=rows)
    for t, task in enumerate(weights(run)):
        assert list(task) == [*(f"blocks.1.attn.{name}" for name in names), "blocks.1.mlp.fc1"]
        whole = run.task(t)["U.blocks.1.attn.qkv"] @ run.task(t)["V.blocks.1.attn.qkv"].T
        parts = [task[f"blocks.1.attn.{name}"] for name in names]
        np.testing.assert_allclose(np.concatenate([U @ V.T for U, V in parts]), whole)


def test_relations_are_those_of_the_dense_updates():
    run = stand_in("attn.qkv", "mlp.fc1", rows=3 * D)
    of = weights(run)
    for name, found in related(run).items():
        own = [task[name] for task in of]
        for i in range(N):
            sigma = np.linalg.svd(own[i][0] @ own[i][1].T, compute_uv=False)
            k = own[i][0].shape[1]
            np.testing.assert_allclose(found.sigma[i][:k], sigma[:k], rtol=1e-5)
            assert np.isnan(found.sigma[i][k:]).all()
            for j in range(N):
                assert found.overlap[i, j] == pytest.approx(overlap(own[i], own[j]), abs=1e-6)
                if i == j:
                    continue
                for side, table in enumerate((found.outputs, found.inputs)):
                    wanted = cosines(spaces(own[i])[side], spaces(own[j])[side])
                    np.testing.assert_allclose(table[i, j][: len(wanted)], wanted, atol=1e-6)
                    assert np.isnan(table[i, j][len(wanted) :]).all()


def test_what_is_stored_is_small():
    stored = relate(stand_in("attn.qkv", "mlp.fc1", rows=3 * D))
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float32)}
    assert stored["outputs.blocks.1.attn.q"].shape == (3, 2)  # every two tasks once


def test_a_weight_that_a_run_does_not_adapt_is_named_with_those_it_does():
    with pytest.raises(BadInput, match=r"no update at blocks.1.attn.k; it adapts attn.q, mlp.fc1"):
        relation(stand_in("attn.q", "mlp.fc1", rows=D), "blocks.1.attn.k")
