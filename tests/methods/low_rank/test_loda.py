"""LoDA: its two bases, the step on two halves, and what the merge recalibrates.

No code of the paper was to be had; the tests are of its equations.
"""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fmlora_lab.methods.input_moments import InputMoments
from fmlora_lab.methods.low_rank.loda import bases, recalibration

QUICK = {"name": "loda", "rank": 4, "lr": 0.01}


def inputs(*scales: tuple[slice, float], n: int = 200, d: int = 16, seed: int = 0) -> torch.Tensor:
    """n inputs (n, d) with these standard deviations along turned axes, 0.01 elsewhere."""
    draw = np.random.default_rng(seed)
    sizes = np.full(d, 0.01)
    for axes, scale in scales:
        sizes[axes] = scale
    turned = np.linalg.qr(np.random.default_rng(99).standard_normal((d, d)))[0]
    return torch.from_numpy(draw.standard_normal((n, d)) * sizes @ turned.T)


def energy(V: torch.Tensor, S: torch.Tensor) -> float:
    """The share of the inputs' energy that lies in the span of V."""
    return ((V.T @ S @ V).trace() / S.trace()).item()


# The bases


def test_isolated_directions_have_the_new_tasks_energy_and_not_the_old_ones():
    """Axes 0 to 3 are shared and strongest, 4 to 7 are the old task's, 8 to 10 the new one's."""
    old = inputs((slice(0, 4), 3.0), (slice(4, 8), 2.0))
    new = inputs((slice(0, 4), 3.0), (slice(8, 11), 1.0), seed=1)
    S_old, S_new = old.T @ old, new.T @ new
    general, isolated = bases(S_old, S_new, 3, 1e-3)
    for V in (general, isolated):
        torch.testing.assert_close(V.T @ V, torch.eye(3).double(), atol=1e-9, rtol=0)
    assert energy(isolated, S_old) < 1e-3
    assert energy(isolated, S_new) > 0.9 * 3 / (4 * 9 + 3)  # all that is its own
    assert min(energy(general, S_old), energy(general, S_new)) > 0.5


@pytest.mark.parametrize("r", [1, 4])
def test_the_bases_solve_the_eigenproblems_that_they_are_said_to(r):
    old, new = inputs((slice(0, 9), 1.0)), inputs((slice(5, 16), 0.7), seed=1)
    S_old, S_new = (X.T @ X for X in (old, new))
    general, isolated = bases(S_old, S_new, r, 1e-2)
    floor = 1e-2 * (S_old + S_new).trace() / 16 * torch.eye(16)
    for V, wanted in (
        (general, scipy.linalg.eigh(S_old + S_new)[1]),
        (isolated, scipy.linalg.eigh(S_new, S_old + floor)[1]),
    ):
        angles = scipy.linalg.subspace_angles(V.numpy(), wanted[:, -r:])
        assert np.abs(angles).max() < 1e-6


def test_a_first_task_takes_the_directions_after_the_general_ones():
    X = inputs((slice(0, 8), 1.0))
    general, isolated = bases(torch.zeros(16, 16).double(), X.T @ X, 4, 1e-3)
    wanted = torch.linalg.eigh(X.T @ X).eigenvectors.flip(1)
    torch.testing.assert_close(torch.cat([general, isolated], dim=1), wanted[:, :8])


def moments_of(run, images) -> list[torch.Tensor]:
    """The sums of x xᵀ over a task's images at every site, with the present weights."""
    gathering = InputMoments(run.learner.model.sites)
    for _ in run.learner.in_batches(images):
        pass
    counts = gathering.counts
    return [n * mean for n, mean in zip(counts, gathering.take(), strict=True)]


def test_in_a_run_the_bases_come_from_the_tasks_own_inputs_and_stay(trainer, tiny_stream):
    """Isolated directions have a larger share of the new inputs' energy beside the old ones' than
    any other directions, the general ones among them; the memory is the sum over tasks."""
    stream = tiny_stream(classes=6, tasks=3)
    run = trainer(QUICK, stream, epochs=1, augmentation="shift")
    m, begin_stage, sums, checked = run.method, run.method.begin_stage, [], []

    def watched_begin(stage, noise):
        if stage.name == "inputs":
            sums.append(moments_of(run, stream.tasks[len(sums)].train))
        begin_stage(stage, noise)
        if stage.name == "train":
            task = len(sums) - 1
            for n, V in enumerate(m.V):
                old = sum(of_task[n] for of_task in sums[:-1])
                new = sums[-1][n]
                memory = getattr(m, f"moments{n}").double()
                torch.testing.assert_close(memory, old + new, rtol=1e-4, atol=1e-3)
                if task:
                    general, isolated = V.double().tensor_split(2, dim=1)
                    drawn = torch.linalg.qr(torch.randn(len(V), 4).double()).Q
                    ratios = [energy(v, new) / energy(v, old) for v in (isolated, general, drawn)]
                    assert ratios[0] > 1.2 * max(ratios[1:])
            checked.append([V.clone() for V in m.V])

    m.begin_stage = watched_begin
    run.run()
    assert len(checked) == 3 and all(map(torch.equal, checked[-1], m.V))
    assert m.kept() == sum(site.d_in**2 for site in run.learner.model.sites)


# The step


def test_a_step_has_the_first_halfs_gradient_down_the_second_halfs(trainer, tiny_stream, float64):
    """At U − ρ ∇L₂ / ‖∇L₂‖, with U back in its place when the optimiser sees it."""
    rho, stream = 0.3, tiny_stream()
    run = trainer({**QUICK, "rho": rho}, stream, batch_size=7, epochs=1)
    m, learner, seen = run.method, run.learner, []
    step = m.step

    def watched(batch):
        U = [*m.U]
        start = [p.detach().clone() for p in U]
        n = len(batch.images)
        h = n - n // 2  # of seven the first half has four
        first, second = (batch.images[part] for part in torch.arange(n).split([h, n - h]))
        other = learner.loss(second)
        down = torch.autograd.grad(other, U)
        size = sum(g.square().sum() for g in down).sqrt()
        with torch.no_grad():
            for p, g in zip(U, down, strict=True):
                p -= m.length * g / size
        loss = learner.loss(first)
        wanted = torch.autograd.grad(loss, [*U, learner.head.rows])
        with torch.no_grad():
            for p, s in zip(U, start, strict=True):
                p.copy_(s)

        def look(optimizer, *_):
            found = [*(p.grad for p in U), learner.head.rows.grad]
            torch.testing.assert_close(found, [*wanted], rtol=1e-9, atol=1e-12)
            assert all(torch.equal(p, s) for p, s in zip(U, start, strict=True))
            seen.append(m.length)

        handle = register_optimizer_step_pre_hook(look)
        try:
            found = step(batch)
        finally:
            handle.remove()
        mean = (h * loss + (n - h) * other) / n
        torch.testing.assert_close(found, mean.detach())
        return found

    m.step = watched
    run.run()
    assert len(seen) == len(set(seen)) == 6 and min(seen) > 0 and max(seen) < rho


def test_without_a_way_it_is_a_plain_step_on_the_whole_batch(trainer, tiny_stream):
    run = trainer({**QUICK, "rho": 0}, tiny_stream(), epochs=1)
    sizes, loss = [], run.learner.loss
    run.learner.loss = lambda images, query: sizes.append(len(images)) or loss(images, query)
    run.run()
    assert sizes == [8, 8, 8, 8]


# The merge


def test_the_recalibration_is_the_least_squares_optimum_of_both_tasks_features():
    """Of all M, M A X comes closest to U A X on the new inputs and to 0 on the old ones."""
    old, new = inputs((slice(0, 9), 1.0)), inputs((slice(5, 16), 0.7), seed=1, n=90)
    A = bases(old.T @ old, new.T @ new, 4, 1e-3)[0]
    U = torch.from_numpy(np.random.default_rng(3).standard_normal((7, 4)))
    seen, target = torch.cat([old @ A, new @ A]), torch.cat([0 * old @ A @ U.T, new @ A @ U.T])
    M = torch.linalg.lstsq(seen, target).solution.T
    found = U @ recalibration(old.T @ old, new.T @ new, A)
    torch.testing.assert_close(found, M, rtol=1e-8, atol=1e-9)
    assert (M - U).norm() > 0.1 * U.norm()


def test_the_merge_recalibrates_the_general_branch_alone(trainer, tiny_stream, memory_keeper):
    keeper = memory_keeper()
    run = trainer({**QUICK, "general": 0.5}, tiny_stream(), keeper=keeper)
    m, end_task, learned = run.method, run.method.end_task, []

    def watched():
        learned.append([U.detach().clone() for U in m.U])
        return end_task()

    m.end_task = watched
    run.run()
    for task, record in enumerate(keeper.records):
        for n, site in enumerate(run.learner.model.sites):
            U, was = record[f"U.{site.name}"], learned[task][n]
            assert torch.equal(U[:, 4:], was[:, 4:])
            assert U[:, :4].allclose(was[:, :4], rtol=1e-4) == (task == 0)
            V = record[f"V.{site.name}"]
            lengths = torch.tensor([0.5] * 4 + [1.0] * 4)
            torch.testing.assert_close(V.norm(dim=0), lengths)


def test_exact_moments_are_not_rounded_to_the_compute_type(trainer, tiny_stream):
    site = trainer("lora", tiny_stream()).learner.model.sites[0]
    x, off = inputs((slice(0, 16), 1.0), d=32).float(), []
    for exact in (True, False):
        gathering = InputMoments([site], exact)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            site(x)
        wanted = x.double().T @ x.double() / len(x)
        off.append(((gathering.take()[0] - wanted).norm() / wanted.norm()).item())
    assert off[0] < 1e-6 < 1e-4 < off[1]
