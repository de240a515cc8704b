"""Where V of the first task's LoRA starts: the directions are dense mathematics', and all learn."""

import pytest
import torch

from fmlora_lab.backbone.vit import ViT
from fmlora_lab.config import BadInput
from fmlora_lab.methods.fm_lora.factorized import FactorizedLoRA
from fmlora_lab.profiles import configure

pytestmark = pytest.mark.train

INITS = ("gaussian", "inputs", "gradient", "weight")


def close(found, expected, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def started(trainer, tiny_stream, tiny_vit):
    """`started(init, at=..., **settings)`: a trainer of one task; `at(run)` is called when the
    stage `stage` has just ended."""

    def make(init: str, stage: str, at, R: int = 6, **settings):
        bases = {"init": init, "lr": 0.02, **settings.pop("bases", {})}
        method = {"name": "fm-lora", "basis_rank": R, "drs": {"enabled": False}, "bases": bases}
        method |= {"prompt": {"tokens": 0}, **settings}
        run = trainer(method, tiny_stream(tasks=1), tiny_vit().to(torch.get_default_dtype()))
        end_stage = run.method.end_stage

        def watched(ended, end):
            end_stage(ended, end)
            if ended.name == stage:
                at(run)

        run.method.end_stage = watched
        run.run()
        return run

    return make


def right_vectors(matrix: torch.Tensor, R: int) -> torch.Tensor:
    return torch.linalg.svd(matrix.double(), full_matrices=False)[2][:R].T


def test_inputs_are_the_right_singular_vectors_of_all_inputs_of_the_task(started, float64):
    seen = []

    def check(run):
        model, images = run.learner.model, run.stream.tasks[0].train
        inputs = [[] for _ in model.sites]
        hooks = [
            site.register_forward_pre_hook(lambda _, args, own=own: own.append(args[0].detach()))
            for site, own in zip(model.sites, inputs, strict=True)
        ]
        with torch.no_grad():
            run.learner.features(images.pixels)
        for hook in hooks:
            hook.remove()
        for V, own in zip(run.method.factorized.V, inputs, strict=True):
            wanted = right_vectors(torch.cat([x.reshape(-1, len(V)) for x in own]), 6)
            close((V.detach() * wanted).sum(0).abs(), torch.ones(6), 1e-6)
            close(V.detach().norm(), torch.tensor(6.0).sqrt(), 1e-6)  # as a Gaussian's on average
            seen.append(V)

    started("inputs", "inputs", check)
    assert len(seen) == 8


@pytest.mark.parametrize("layers", [("attn.qkv", "mlp.fc1"), ("attn.k", "mlp.fc2")])
def test_weights_are_the_right_singular_vectors_of_the_adapted_rows(tiny_vit, trainer, tiny_stream,
                                                                    layers):  # fmt: skip
    bases = {"init": "weight", "lr": 1e-9, "lr_v": 1e-9}
    settings = {"name": "fm-lora", "basis_rank": 5, "layers": layers, "bases": bases}
    run = trainer(settings, tiny_stream(tasks=1), epochs=1)
    at_start = []
    begin_task = run.method.begin_task

    def watched(task):
        begin_task(task)
        at_start.extend(V.detach().clone() for V in run.method.factorized.V)

    run.method.begin_task = watched
    run.run()
    for site, V in zip(run.learner.model.sites, at_start, strict=True):
        W = site.weight if site.rows is None else site.weight[site.rows]
        wanted = right_vectors(W.detach(), 5).float()
        close((V * wanted).sum(0).abs(), torch.ones(5), 1e-4)


def test_the_gradient_is_that_of_the_pretrained_weights_over_the_task(started, float64):
    """The sketch is as wide as a side here, and so exact: V holds all that R directions can."""
    seen = []

    def check(run):
        learner, images = run.learner, run.stream.tasks[0].train
        sites = learner.model.sites
        run.method.factors = lambda query=None: [None] * len(sites)
        weights = [site.weight.requires_grad_() for site in sites]
        gradients = torch.autograd.grad(learner.loss(images), weights)
        for weight in weights:
            weight.requires_grad_(False)
        del run.method.factors
        for V, G in zip(run.method.factorized.V, gradients, strict=True):
            best = torch.linalg.svdvals(G)[:24].square().sum()
            close((G @ V.detach()).square().sum() / best, torch.tensor(1.0), 1e-6)
            close(V.T @ V, torch.eye(24), 1e-6)
            close((V[:, 0] @ right_vectors(G, 1)[:, 0]).abs(), torch.tensor(1.0), 1e-6)
            seen.append(V)

    started("gradient", "gradient", check, R=24, blocks=(0,))
    assert len(seen) == 4


def test_a_gaussian_start_has_on_average_the_size_of_the_others(tiny_vit):
    f = FactorizedLoRA(ViT(tiny_vit(depth=4)).adapt(("attn.proj", "mlp.fc2")), 16)
    f.begin_bases(torch.Generator().manual_seed(0))
    sizes = torch.stack([V.detach().square().sum() for V in f.V])
    assert sizes.mean().item() == pytest.approx(16, rel=0.05)
    f.start_in([torch.eye(len(V), 16) for V in f.V])
    assert all(V.square().sum() == 16 for V in f.V)


@pytest.mark.parametrize("init", INITS)
def test_from_every_start_both_tasks_are_learned(trainer, tiny_stream, memory_keeper, quick, init):
    keeper = memory_keeper()
    settings = quick("fm-lora", bases={"init": init, "lr": 0.01})
    trainer(settings, tiny_stream(each=16), keeper=keeper, epochs=6, lr_head=0.02).run()
    for task in range(2):
        losses = keeper.losses(task)
        assert losses[-1] < 0.67 * losses[0], (task, losses)
    sigma = keeper.records[0]["own_core"].diagonal(dim1=1, dim2=2)
    assert (sigma[:, 0] > 1e-3).all()  # not the head alone


@pytest.mark.parametrize(("lr_v", "moves"), [(1e-9, False), (None, True), (0.02, True)])
def test_v_has_a_rate_of_its_own(started, lr_v, moves):
    found = {}

    def note(run):
        found["V"] = [V.detach().clone() for V in run.method.factorized.V]
        found["U"] = [U.detach().clone() for U in run.method.factorized.U]

    started("weight", "train", note, bases={"lr_v": lr_v, "lr": 1e-3})
    model = started("weight", "none", None).learner.model  # frozen: the same weights
    for site, V, U in zip(model.sites, found["V"], found["U"], strict=True):
        start = right_vectors(site.weight, 6).float()
        away = (V - start * (V * start).sum(0).sign()).abs().max()
        assert (away > 1e-4) == moves and U.abs().max() > 1e-4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method.bases.lr_v": 0}, r"method\.bases\.lr_v is 0; input should be greater than 0"),
        ({"method.bases.init": "svd"}, r"method\.bases\.init is 'svd'.*'inputs', 'gradient'"),
        (
            {"method.bases.init": "inputs", "method.bases.from": "random"},
            r"method\.bases\.init is 'inputs', which needs method\.bases\.from \"first-task\"",
        ),
        (
            {"method.bases.lr_v": 1e-3, "method.bases.from": "weight-svd"},
            r"method\.bases\.lr_v is 0\.001, which needs method\.bases\.from \"first-task\"",
        ),
    ],
)
def test_wrong_starts_are_refused(wrong, said):
    with pytest.raises(BadInput, match=said):
        configure("fm-lora", overrides=wrong)
