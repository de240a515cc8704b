"""InfLoRA: new directions lie outside the inputs of earlier tasks; its memory against the code."""

import numpy as np
import pytest
import torch

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.config import BadInput
from fmlora_lab.methods.input_moments import InputMoments
from fmlora_lab.methods.low_rank.dual_gpm import extend, free_vectors, without
from fmlora_lab.methods.low_rank.inflora import InfLoRA, InfLoRASettings
from fmlora_lab.methods.method import Stage, StageEnd, TaskInfo, build
from fmlora_lab.profiles import configure
from fmlora_lab.seeds import generator

KV = ["attn.k", "attn.v"]
NEVER = StageEnd(None, torch.Generator())


def projector(M: torch.Tensor) -> torch.Tensor:
    return M @ M.T


def in_use(M: torch.Tensor, free: bool) -> torch.Tensor:
    """The projector on what earlier tasks use, whichever of the two the memory holds."""
    return torch.eye(len(M), dtype=M.dtype) - projector(M) if free else projector(M)


def empty(d: int) -> torch.Tensor:
    return torch.zeros(d, 0, dtype=torch.float64)


# Against the released code

# Made on 2026-11-22 by `InfLoRA.update_DualGPM` (methods/inflora.py) of liangyanshuo/InfLoRA at
# e08b00edd54f, in float64, on the moments of `drawn_moments`; per task: whether it keeps what is
# free ("retain"), how many directions, and the projector on them times (1, …, 10) / 10.
CONSTANT = [
    (False, 1, [-0.073324, -0.225213, 0.313446, 0.069074, 0.027093,
                0.183866, -0.053172, 0.241476, 0.014016, -0.097276]),
    (False, 3, [-0.146607, 0.000098, 0.327089, -0.018598, 0.163711,
                0.169288, -0.087234, 0.363297, 0.158075, -0.22969]),
    (False, 5, [0.141718, 0.257261, 0.387602, 0.381446, 0.72949,
                0.56776, -0.29231, 0.310713, 0.152806, 0.3282]),
    (True, 4, [0.051572, 0.195391, -0.104934, 0.42227, -0.375111,
               0.044463, 0.930299, 0.537656, 0.423023, 0.337167]),
    (True, 3, [0.097486, 0.045801, -0.04562, 0.495277, -0.095225,
               -0.036368, 0.993967, 0.257826, 0.474655, 0.095015]),
    (True, 3, [0.097486, 0.045801, -0.04562, 0.495277, -0.095225,
               -0.036368, 0.993967, 0.257826, 0.474655, 0.095015]),
    (True, 2, [-0.046988, 0.14178, 0.176204, 0.484301, -0.316456,
               -0.00919, 0.498097, -0.092708, 0.619906, 0.10025]),
]  # fmt: skip
RISING = [
    (False, 1, [-0.073324, -0.225213, 0.313446, 0.069074, 0.027093,
                0.183866, -0.053172, 0.241476, 0.014016, -0.097276]),
    (False, 2, [-0.033923, -0.024996, 0.362189, -0.065285, 0.098806,
                0.246886, -0.043161, 0.303358, 0.121909, -0.226081]),
    (False, 3, [-0.212126, 0.168488, 0.489108, 0.002799, 0.298196,
                0.561936, 0.097789, 0.12256, -0.085217, 0.012924]),
    (False, 4, [-0.629431, -0.008981, 0.340366, -0.175517, 0.721668,
                0.390079, 0.122252, 0.283378, 0.407059, 0.38233]),
    (True, 4, [0.613702, 0.127112, -0.120506, 0.672244, -0.202522,
               0.295348, 0.670745, 0.338563, 0.609635, 0.395671]),
    (True, 4, [0.613702, 0.127112, -0.120506, 0.672244, -0.202522,
               0.295348, 0.670745, 0.338563, 0.609635, 0.395671]),
    (True, 3, [0.306178, 0.31331, 0.108655, 0.751373, -0.258583,
               0.125434, 0.056987, 0.07665, 0.656056, 0.346216]),
]  # fmt: skip


def drawn_moments(task: int, d: int = 10) -> torch.Tensor:
    draw = np.random.default_rng(task)
    X = draw.standard_normal((40, d)) * 1.15 ** -np.arange(d)
    X = X @ np.linalg.qr(draw.standard_normal((d, d)))[0]
    return torch.from_numpy(X.T @ X / 40)


@pytest.mark.parametrize(
    ("first", "last", "wanted"),
    [(0.7, None, CONSTANT), (0.4, 0.9, RISING)],
    ids=["constant", "rising"],
)
def test_the_memory_is_the_released_codes(tiny_vit, first, last, wanted):
    tasks = None if last is None else 7
    settings = InfLoRASettings(threshold=first, last_threshold=last, tasks=tasks)
    m = build(settings, ViT(tiny_vit()))
    M, free = empty(10), False
    probe = torch.arange(1, 11).double() / 10
    for task, (retain, columns, seen) in enumerate(wanted):
        m.begin_task(TaskInfo(task, range(1), torch.Generator()))
        M, free = extend(M, free, drawn_moments(task), m._threshold())
        assert (free, M.shape[1]) == (retain, columns)
        assert (projector(M) @ probe).tolist() == pytest.approx(seen, abs=1e-6)


# Made on 2026-11-22 by `InfLoRA._train` (methods/inflora.py) with one `Attention_LoRA`
# (models/vit_inflora.py) of liangyanshuo/InfLoRA at e08b00edd54f, in float64, on the numbers that
# the test draws; after each of five tasks: 3 AᵀA times (1, …, 8) / 8 for that task's design A; what
# all tasks add to k and v of token 0 of task 1; the attention's output there; directions kept, and
# of which kind.
LAYER = [
    (
        [0.076163, 0.486912, 0.341795, 0.329074, -0.104754, 0.595517, 0.152236, -0.075799],
        [1.678565, -1.011507, 0.400516, -0.088977, -0.15965, -0.400423, -1.298282, -0.713926],
        [1.27755, -0.778563, -0.746673, -0.064147, 0.443022, -0.051979, -1.615887, -0.541275],
        [-3.305973, 8.327924, 1.627625, -9.971684, -7.8962, 2.431394, 9.802771, -5.763655],
        (1, False),
    ),
    (
        [0.244282, -0.067605, -0.079366, -0.33745, 0.039513, 0.098375, 0.393785, 0.103183],
        [3.06805, -1.272631, -0.210168, -0.142109, -0.774133, -0.85982, -1.45106, -0.526438],
        [2.502194, -1.356605, 0.184043, 0.280759, 0.574456, -1.119664, -1.300277, -0.030785],
        [-2.559256, 8.475355, 2.406132, -11.138686, -7.312137, 2.918997, 11.279127, -4.159688],
        (2, False),
    ),
    (
        [0.017995, -0.002187, -0.407827, -0.028524, 0.368704, 0.283103, 0.019636, 0.09936],
        [2.833001, -2.003309, -1.048865, -0.574791, -1.115757, -1.008259, -2.243203, -1.49434],
        [2.383559, -1.620044, 0.442733, -0.361268, 0.004392, -0.530944, -1.302631, -0.173872],
        [-3.167537, 11.317359, 4.211446, -13.29431, -8.504111, 3.922454, 12.21068, -4.364649],
        (3, False),
    ),
    (
        [-0.039385, -0.013966, -0.321473, -0.166665, 0.050512, 0.16892, 0.177089, 0.10554],
        [2.78435, -1.986087, -1.142583, -0.271782, -0.754634, -0.537566, -1.890992, -0.814109],
        [2.500623, -1.711988, 0.18271, -0.461896, -0.602503, -1.078982, -1.185628, -0.822694],
        [-5.528015, 7.856885, 4.402252, -9.911727, -10.47321, 3.565014, 11.284648, -3.70682],
        (4, False),
    ),
    (
        [-0.235204, -0.159027, -0.38714, -0.167153, 0.29262, 0.279676, 0.634893, 0.773684],
        [3.301329, -2.308251, -0.823063, -0.536219, -0.527738, -0.857453, -1.703443, -0.635326],
        [2.26809, -1.28429, 0.500002, 0.184882, -0.920875, -1.644141, -0.447288, -0.83383],
        [-9.647267, 7.696927, 6.075525, -10.259726, -11.449905, 1.918162, 11.297184, -3.042625],
        (3, True),
    ),
]


def observe(m: InfLoRA, name: str, x: torch.Tensor) -> None:
    """An observing stage in which these are the inputs of the only site."""
    stage = Stage(name, 1, observe=True)
    m.begin_stage(stage, torch.Generator())
    with torch.no_grad():
        m.model.sites[0](x)
    m.end_stage(stage, NEVER)


def test_a_layer_is_the_released_codes_from_design_to_output(tiny_vit):
    d, r, draw = 8, 2, np.random.default_rng(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(draw.standard_normal(shape))

    vit = tiny_vit(embed_dim=d, depth=1).double()
    attention, probe = vit.blocks[0].attn, torch.arange(1, d + 1).double() / d
    W, b = drawn(3 * d, d), drawn(3 * d)
    attention.qkv.weight.data, attention.qkv.bias.data = W.clone(), b
    attention.proj.weight.data, attention.proj.bias.data = drawn(d, d), drawn(d)
    x = [drawn(6, 5, d) * torch.from_numpy(1.5 ** -np.arange(d)) @ drawn(d, d) for _ in range(5)]
    learned = [drawn(2 * d, r) for _ in range(5)]
    settings = InfLoRASettings(layers=KV, rank=r, threshold=0.6, last_threshold=0.9, tasks=5)
    m = build(settings, ViT(vit)).double()
    for task, (design, k, v, output, (columns, retain)) in enumerate(LAYER):
        m.begin_task(TaskInfo(task, range(1), torch.Generator()))
        observe(m, "inputs", x[task])
        assert (3 * projector(m.V0) @ probe).tolist() == pytest.approx(design, abs=2e-6)
        with torch.no_grad():  # whichever sign its singular vectors have
            m.U[0].copy_(learned[task] * m.V0.sum(0).sign())
        m.model.set_update(m.factors(), None)
        first = x[0][:1]
        added = m.model.sites[0](first)[0, 0] - first[0, 0] @ W.T - b
        assert added.tolist() == pytest.approx([*[0.0] * d, *k, *v], abs=2e-6)
        assert attention(first)[0, 0].tolist() == pytest.approx(output, abs=2e-5)
        observe(m, "memory", x[task])
        assert (m.memory0.shape[1], bool(m.free[0])) == (columns, retain)
        m.end_task()


# The memory


@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.98, 0.9999, 1.0])
def test_the_memory_grows_orthonormal_and_holds_its_share_of_every_tasks_energy(threshold):
    """A first task stops one direction short of it, as released."""
    d = 12
    M, free, before = empty(d), False, torch.zeros(d, d, dtype=torch.float64)
    for task in range(4):
        draw = np.random.default_rng(task)
        X = draw.standard_normal((8, d)) * 1.05 ** -np.arange(d)
        R = torch.from_numpy(X.T @ X / 8)
        M, free = extend(M, free, R, threshold)
        torch.testing.assert_close(M.T @ M, torch.eye(M.shape[1], dtype=M.dtype))
        assert M.shape[1] <= d / 2
        used = in_use(M, free)
        torch.testing.assert_close(used @ before, before, atol=1e-6, rtol=0)  # nothing is let go
        left = (R - used @ R).square().sum() / R.square().sum()
        if task == 0 and threshold < 1:
            short = torch.linalg.svdvals(R - used @ R)[0] ** 2 / R.square().sum()
            assert 1 - left < threshold or M.shape[1] == 1
            assert 1 - left + short >= threshold
        else:
            assert 1 - left >= threshold - 1e-9
        before = used
    assert free == (threshold > 0.3)  # both kinds are met


def low_rank_moments(rank: int, d: int, seed: int = 0) -> torch.Tensor:
    """As gathered, in float32: rounding leaves no singular value exactly zero."""
    noise = generator(seed)
    X = torch.randn(50, rank, generator=noise) @ torch.randn(rank, d, generator=noise)
    return (X.T @ X).double() / 50


@pytest.mark.parametrize("rank", [1, 5, 7, 16])
def test_a_threshold_of_one_keeps_all_that_the_inputs_span_and_no_rounding(rank):
    d = 16
    M, free = extend(empty(d), False, low_rank_moments(rank, d), 1.0)
    assert (M.shape[1], free) == ((d - rank, True) if rank > d / 2 else (rank, False))
    again, still = extend(M.float(), free, low_rank_moments(rank, d), 1.0)
    assert (again.shape, still) == (M.shape, free)
    torch.testing.assert_close(projector(again.double()), projector(M), atol=1e-6, rtol=0)
    torch.testing.assert_close(M.T @ M, torch.eye(M.shape[1], dtype=M.dtype))


def test_where_all_is_in_use_it_stays_so():
    M, free = extend(empty(6), False, low_rank_moments(6, 6), 1.0)
    assert M.shape == (6, 0) and free
    R = low_rank_moments(6, 6, seed=1)
    assert not without(R, M, free).any() and free_vectors(R, M, free)[0].shape == (6, 0)
    assert extend(M, free, R, 0.9)[0].shape == (6, 0)


# Inside InfLoRA


def test_where_too_little_is_free_the_columns_are_zero(tiny_vit):
    m = build(InfLoRASettings(layers=KV, rank=4, threshold=1, blocks=(0,)), ViT(tiny_vit()))
    noise = generator(0)
    for task, (tokens, columns) in enumerate([(3, 3), (27, 4), (40, 2), (40, 0)]):
        m.begin_task(TaskInfo(task, range(1), torch.Generator()))
        x = torch.randn(tokens, 32, generator=noise)
        observe(m, "inputs", x)
        lengths = m.V0.norm(dim=0)
        torch.testing.assert_close(lengths[:columns], torch.full((columns,), 3**-0.5))
        assert m.V0.shape == (32, 4) and not lengths[columns:].any()
        observe(m, "memory", x)


@pytest.mark.parametrize("threshold", [0.5, 0.9999])
def test_designed_directions_are_free_and_frozen_and_hooks_go(
    trainer, tiny_stream, memory_keeper, threshold
):
    settings = {"name": "inflora", "rank": 4, "lr": 0.03, "threshold": threshold, "layers": KV}
    keeper = memory_keeper()
    run = trainer(settings, tiny_stream(classes=6, tasks=3), keeper=keeper, epochs=1)
    m, sites = run.method, run.learner.model.sites
    hooks = [len(site._forward_pre_hooks) for site in sites]
    begin_stage, end_stage, designed, spaces = m.begin_stage, m.end_stage, [], []

    def watched_begin(stage, noise):
        begin_stage(stage, noise)
        gathering = [len(site._forward_pre_hooks) for site in sites]
        assert gathering == [n + stage.observe for n in hooks]

    def watched_end(stage, end):
        memory = [(getattr(m, f"memory{s}").clone(), bool(m.free[s])) for s in range(2)]
        end_stage(stage, end)
        assert [len(site._forward_pre_hooks) for site in sites] == hooks and m.moments is None
        if stage.name == "inputs":
            assert not any(U.any() for U in m.U)
            designed.append([getattr(m, f"V{s}").clone() for s in range(2)])
            for (M, free), V in zip(memory, designed[-1], strict=True):
                assert (in_use(M, free) @ V).abs().max() < 1e-5
                ones = torch.ones(4) * (V != 0).any(0)  # a zero column where nothing is free
                assert ones.any()
                torch.testing.assert_close(3 * V.T @ V, torch.diag(ones))
            spaces.append({free for M, free in memory})
        if stage.name == "train":
            assert all(U.any() for U in m.U)
            assert all(torch.equal(getattr(m, f"V{s}"), V) for s, V in enumerate(designed[-1]))

    m.begin_stage, m.end_stage = watched_begin, watched_end
    run.run()
    assert len(designed) == 3
    assert spaces[2] == ({False} if threshold == 0.5 else {True})  # both kinds are met
    trained = [p for group in m.groups() for p in group.parameters]
    assert {id(p) for p in trained} == {id(U) for U in m.U}
    assert not any(tensor.requires_grad for tensor in m.buffers())
    kept = sum(keeper.records[-1][f"memory.blocks.{s}.attn.qkv"].numel() for s in range(2))
    assert m.kept() == kept


def test_the_moments_are_those_of_the_present_tasks_inputs(trainer, tiny_stream, monkeypatch):
    """Of all its images and no others, before and after its training."""
    taken, take = [], InputMoments.take
    monkeypatch.setattr(
        InputMoments, "take", lambda moments, _: taken.append(take(moments)) or taken[-1]
    )
    stream = tiny_stream(classes=6, tasks=3)
    settings = {"name": "inflora", "rank": 4, "lr": 0.03, "threshold": 0.9}
    run = trainer({**settings, "layers": KV, "blocks": [0]}, stream, epochs=1, augmentation="shift")
    run.run()
    assert len(taken) == 6  # twice a task
    vit = run.learner.model.network
    for number, (R,) in enumerate(taken):
        pixels = (stream.tasks[number // 2].train.pixels.float() / 255 - 0.5) / 0.5
        tokens = torch.cat([vit.cls_token.expand(len(pixels), -1, -1), vit.patch_embed(pixels)], 1)
        x = vit.blocks[0].norm1(tokens + vit.pos_embed).reshape(-1, 32).double()
        torch.testing.assert_close(R, x.T @ x / len(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("each", [1, 2], ids=["memory of what is in use", "memory of what is free"])
def test_with_all_of_its_inputs_kept_a_task_is_not_interfered_with(
    trainer, tiny_stream, memory_keeper, each
):
    """Fewer tokens than dimensions: no output on the first task's images changes in the second."""

    def moved(threshold: float) -> float:
        features = []

        class Keeper(memory_keeper):
            def save_task(self, index, tensors):
                super().save_task(index, tensors)
                pixels = stream.tasks[0].train.pixels
                features.append(run.learner.features(pixels).detach())

        stream = tiny_stream(each=each)
        settings = {"name": "inflora", "rank": 4, "lr": 0.1, "threshold": threshold, "layers": KV}
        run = trainer(settings, stream, keeper=Keeper(), epochs=5)
        run.run()
        if threshold == 1:
            assert run.keeper.records[0]["free"].tolist() == [each == 2] * 2
            update = run.keeper.records[1]
            assert update["U.blocks.0.attn.qkv"].abs().max() > 0.05
        return (features[1] - features[0]).abs().max().item()

    assert moved(1) < 1e-4
    assert moved(0.5) > 1e-2


def test_a_rising_threshold_needs_the_number_of_tasks(tiny_vit):
    wrong = {"method.last_threshold": 1.0}, {"method.tasks": 10}
    for overrides in wrong:
        with pytest.raises(BadInput, match=r"method\.tasks and method\.last_threshold"):
            configure("inflora", overrides=overrides)
    m = build(InfLoRASettings(threshold=0.95, last_threshold=1, tasks=10), ViT(tiny_vit()))
    found = []
    for task in (0, 1, 9):
        m.begin_task(TaskInfo(task, range(1), torch.Generator()))
        found.append(m._threshold())
    assert found == pytest.approx([0.95, 0.955, 0.995])
