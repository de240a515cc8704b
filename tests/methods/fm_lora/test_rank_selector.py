"""DRS: the paper's formula to the letter, its flaw, and the calibrated form's promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fmlora_lab import seeds
from fmlora_lab.backbone.vit import ViT
from fmlora_lab.benchmarks.stream import Images, Stream, Task
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.methods.fm_lora import fm_lora as fm_lora_module
from fmlora_lab.methods.fm_lora.factorized import FactorizedLoRA
from fmlora_lab.methods.fm_lora.rank_selector import (
    DRSSettings,
    RankSelector,
    gumbel_softmax,
)
from fmlora_lab.methods.fm_lora.scores import scores
from fmlora_lab.profiles import configure
from fmlora_lab.training import loop
from fmlora_lab.training.stage import StageRun

numbers = st.floats(-4, 4, width=32, allow_subnormal=False)
complexities = st.floats(2.0**-10, 1e3, width=32)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def selector(basis_rank: int = 16, n: int = 1, **choices) -> RankSelector:
    return RankSelector(DRSSettings(**choices), basis_rank, n)


def with_theta(theta: list[float], **choices) -> RankSelector:
    s = selector(**choices)
    with torch.no_grad():
        s.theta.copy_(torch.tensor([theta]))
    return s


# The paper's form


@given(
    w=st.lists(numbers, min_size=4, max_size=4),
    H=st.floats(2.0**-10, 10, width=32),
    tau=st.floats(0.25, 4, width=32),
)
@settings(max_examples=50, deadline=None)
def test_the_papers_probabilities_are_its_formula(w, H, tau):
    s = with_theta(w, form="paper", tau=tau)
    ranks, p = s.choose(torch.tensor(H))
    weights = [math.exp((v - max(w)) * H / tau) for v in w]
    expected = torch.tensor([[v / sum(weights) for v in weights]])
    torch.testing.assert_close(p, expected, rtol=1e-3, atol=1e-5)
    assert ranks.item() in [r for r, v in zip((2, 4, 8, 16), w, strict=True) if v == max(w)]


@given(w=st.lists(st.integers(-40, 40), min_size=4, max_size=4, unique=True), H=complexities)
@settings(max_examples=100, deadline=None)
def test_the_papers_choice_does_not_depend_on_the_task(w, H):
    """argmax_r w_r H / τ = argmax_r w_r for every H > 0: the flaw that the lab shows."""
    s = with_theta([v / 10 for v in w], form="paper")
    assert s.choose(torch.tensor(H))[0].item() == (2, 4, 8, 16)[w.index(max(w))]


def test_the_papers_H_is_the_loss_itself_and_the_calibrated_ones_is_in_units_of_ln_K():
    assert selector(form="paper").complexity(1.2, 50).item() == pytest.approx(1.2)
    for classes in (2, 10, 100):
        at_chance = selector().complexity(math.log(classes), classes)
        assert at_chance.item() == pytest.approx(1.0)


# The calibrated form


@pytest.mark.parametrize("cost", [0.5, 1.0, 3.0])
def test_the_choice_moves_through_every_candidate_as_H_grows(cost):
    s = selector(cost=cost)
    borders = []
    for a, b in ((0, 1), (1, 2), (2, 3)):  # scores of neighbours are equal at the border
        w, r = s.w()[0].detach(), s.ranks
        borders.append((cost * (r[b] - r[a]) / 16 / (w[b] - w[a])).item())
    assert borders == pytest.approx([0.2137 * cost, 0.3393 * cost, 0.5896 * cost], rel=1e-3)
    previous = 0.0
    for rank, border in zip((2, 4, 8), borders, strict=True):
        for H in (previous * 1.01 + 1e-4, border * 0.99):
            assert s.choose(torch.tensor(H))[0].item() == rank
        previous = border
    assert s.choose(torch.tensor(previous * 1.01))[0].item() == 16
    assert s.choose(torch.tensor(100.0))[0].item() == 16


def test_scores_are_the_formula():
    s = selector(cost=0.7, tau=2.0)
    found = s.scores(torch.tensor(0.9))
    expected = [(math.log2(1 + r / 2) * 0.9 - 0.7 * r / 16) / 2.0 for r in (2, 4, 8, 16)]
    torch.testing.assert_close(found, torch.tensor([expected]))
    paper = scores(torch.tensor(0.9), s.w(), s.ranks, 2.0, 0.0)
    torch.testing.assert_close(paper, s.w() * 0.9 / 2.0)


@pytest.mark.parametrize("form", ["paper", "calibrated"])
@pytest.mark.parametrize("candidates", [(2, 4, 8, 16), (1, 2, 3), (4, 5, 6, 16), (3,), (1, 16)])
def test_w_starts_rising_with_diminishing_returns(form, candidates):
    s = selector(form=form, candidates=candidates)
    expected = [math.log2(1 + r / candidates[0]) for r in candidates]
    torch.testing.assert_close(s.w(), torch.tensor([expected]), rtol=1e-5, atol=1e-5)


@given(theta=st.lists(st.floats(-6, 6, width=32), min_size=6, max_size=6))
@settings(max_examples=100, deadline=None)
def test_w_stays_rising_concave_and_anchored_whatever_it_learns(theta):
    s = selector(n=2)
    with torch.no_grad():
        s.theta.copy_(torch.tensor(theta).view(2, 3))
    w = s.w().double()
    slopes = w.diff() / s.ranks.double().diff()
    torch.testing.assert_close(w[:, 0], torch.ones(2).double())  # log2(1 + r_min / r_min)
    assert (slopes > 0).all()
    assert (slopes.diff() <= 1e-5).all()


@given(
    theta=st.lists(numbers, min_size=3, max_size=3),
    cost=st.floats(0.125, 4, width=32),
    low=st.floats(0.0625, 4, width=32),
    more=st.floats(0, 4, width=32),
)
@settings(max_examples=200, deadline=None)
def test_a_larger_H_never_gets_a_smaller_rank(theta, cost, low, more):
    s = with_theta(theta, cost=cost)
    easy, hard = (s.choose(torch.tensor(H))[0].item() for H in (low, low + more))
    assert hard >= easy


@pytest.mark.parametrize(
    ("candidates", "middle"),
    [((2, 4, 8, 16), (4, 8)), ((2, 4, 8), (4, 8)), ((1, 2, 4, 8, 16), (4, 8)), ((2, 16), (2, 16))],
    ids=str,
)
@pytest.mark.parametrize("H", [0.1, 0.8])
def test_the_first_task_sets_the_cost_so_that_it_lies_on_the_middle_border(candidates, middle, H):
    """Of an odd number, the border above the middle one."""
    s = selector(candidates=candidates)
    assert s.choose(torch.tensor(H))[0].item() == middle[0]
    assert s.cost.item() > 0
    assert s.choose(torch.tensor(0.999 * H))[0].item() == middle[0]
    assert s.choose(torch.tensor(1.001 * H))[0].item() == middle[1]
    own = s.scores(torch.tensor(H))[0]
    a, b = (candidates.index(r) for r in middle)
    assert own[a].item() == pytest.approx(own[b].item(), abs=1e-5)
    assert own.max().item() == pytest.approx(own[a].item(), abs=1e-5)


def test_the_cost_is_set_once_and_a_given_cost_never():
    s, fixed = selector(), selector(cost=0.3)
    for H in (0.5, 2.0):
        s.choose(torch.tensor(H))
        fixed.choose(torch.tensor(H))
    once = selector()
    once.choose(torch.tensor(0.5))
    assert s.cost.item() == once.cost.item()
    assert fixed.cost.item() == pytest.approx(0.3)
    assert selector(cost=0.0).cost_is_set  # a cost of nothing is a given cost


def test_a_first_task_of_one_class_leaves_the_cost_to_the_next():
    """Its H is 0: the cost would be 0 for ever, and the largest rank chosen whatever comes."""
    s, later = selector(), selector()
    assert s.choose(torch.tensor(0.0))[0].item() == 2
    assert not s.cost_is_set
    for H in (0.4, 0.1):
        later.choose(torch.tensor(H))
        s.choose(torch.tensor(H))
    assert s.cost.item() == later.cost.item() > 0


def test_a_single_candidate_is_always_chosen():
    for s in (selector(candidates=(4,)), selector(basis_rank=3, candidates=(4, 8))):
        ranks, p = s.choose(torch.tensor(0.5))
        assert ranks.tolist() == s.ranks.tolist() and p.tolist() == [[1.0]]
    assert s.ranks.tolist() == [3.0]  # all candidates are above R


def test_candidates_above_the_basis_rank_are_left_out():
    assert selector(basis_rank=8).ranks.tolist() == [2, 4, 8]
    assert selector(basis_rank=15).r_max == 8


def test_tau_anneals_after_each_task():
    s = selector(tau=2.0, tau_decay=0.5, cost=0.5)
    p = [s.choose(torch.tensor(1.0))[1].max().item()]
    for expected in (1.0, 0.5):
        s.end_task()
        assert s.tau.item() == expected
        p.append(s.choose(torch.tensor(1.0))[1].max().item())
    assert p[0] < p[1] < p[2]  # a colder choice is a surer one


# The draw


def test_draws_are_one_hot_seeded_and_follow_the_scores():
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    many = gumbel_softmax(logits.expand(20_000, 4), 0.7, generator())
    assert torch.equal(many.sort(-1).values, torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(20_000, 4))
    torch.testing.assert_close(many.mean(0), logits.softmax(-1), atol=0.02, rtol=0)
    again = gumbel_softmax(logits.expand(20_000, 4), 0.7, generator())
    other = gumbel_softmax(logits.expand(20_000, 4), 0.7, generator(1))
    assert torch.equal(many, again) and not torch.equal(many, other)


def test_a_draws_gradient_is_that_of_the_soft_choice():
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 5.0, -2.0], dtype=torch.float64)
    (gumbel_softmax(logits, 0.5, generator(3)) * weights).sum().backward()
    found, logits.grad = logits.grad, None
    uniform = torch.rand(3, generator=generator(3)).double()
    soft = ((logits - torch.log(-torch.log(uniform))) / 0.5).softmax(-1)
    (soft * weights).sum().backward()
    assert found.abs().min() > 1e-3
    torch.testing.assert_close(found, logits.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("form", ["paper", "calibrated"])
def test_gradients_reach_w_through_the_draw(form):
    s = selector(form=form, n=3)
    s.observe(torch.tensor(1.4))
    columns = s.draw(10, generator())
    (columns * torch.linspace(1, 2, 16)).sum().backward()
    assert s.theta.grad.shape == s.theta.shape
    assert (s.theta.grad.abs() > 1e-6).all()


def test_a_draw_uses_the_running_mean_of_the_losses():
    """Detached, in units of ln K; before the first loss H is 1. A new task starts anew."""
    s = selector(n=200, cost=0.6)
    seen = []

    def recorded(H):
        seen.append(H)
        return type(s).scores(s, H)

    s.scores = recorded
    s.draw(10, generator())
    loss = torch.tensor(4.0, requires_grad=True)
    s.observe(loss)
    s.observe(torch.tensor(1.0))
    s.draw(10, generator())
    s.begin_task()
    s.draw(10, generator())
    assert [H.item() for H in seen] == pytest.approx([1.0, 2.5 / math.log(10), 1.0])
    assert not seen[1].requires_grad


def test_a_drawn_rank_uses_exactly_its_first_columns():
    """s_j = Σ_{r ≥ j} g_r: ones up to the drawn rank, zeros beyond; every rank is drawn."""
    s = selector(n=300, cost=0.5)
    s.observe(torch.tensor(0.8))
    columns = s.draw(10, generator()).detach()
    assert columns.shape == (300, 16)
    used = columns.sum(-1)
    prefix = (torch.arange(16) < used[:, None]).float()
    torch.testing.assert_close(columns, prefix, atol=1e-5, rtol=0)
    assert set(used.round().tolist()) == {2.0, 4.0, 8.0, 16.0}


def test_w_can_be_held_fixed():
    assert not selector(learn_w=False).theta.requires_grad
    assert selector().theta.requires_grad


@pytest.mark.parametrize(
    "wrong", [(), (0, 2), (4, 2), (2, 2), (-1,), (2, 4, 4), ("many",)], ids=str
)
def test_wrong_candidates_are_refused(wrong):
    with pytest.raises(ValidationError, match="candidates"):
        DRSSettings(candidates=wrong)
    with pytest.raises(BadInput, match=r"method\.drs\.candidates"):
        configure("fm-lora", overrides={"method.drs.candidates": list(wrong)})


@pytest.mark.parametrize(
    ("field", "value"), [("tau", 0), ("tau_decay", 1.5), ("cost", -1), ("hold_out", 1)]
)
def test_other_wrong_settings_are_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        RunConfig(method={"name": "fm-lora", "drs": {field: value}})


# Inside FM-LoRA, in real training


def fm_lora(**drs) -> dict:
    return {
        "name": "fm-lora",
        "basis_rank": 16,
        "lr": 0.01,
        "bases": {"from": "random"},
        "prompt": {"tokens": 0},
        "drs": {"hold_out": 0.25, **drs},
    }


@pytest.fixture
def two_tasks(tiny_images, trainer, memory_keeper):
    """`two_tasks(second)`: task 1 is always the same; returns both tasks' records.

    The first has three classes; `second` are the images of later classes 3, 4, ….
    """

    def make(second: Images, seed: int = 0, **drs) -> list[dict]:
        first = tiny_images(range(3), 16, noise=60)
        tasks = []
        for index, (start, images) in enumerate(((0, first), (3, second))):
            classes = range(start, int(images.labels.max()) + 1)
            tasks.append(Task(index, f"task {index}", classes, images, images))
        names = tuple(f"class {k}" for k in range(tasks[1].classes.stop))
        stream = Stream("two", "class-incremental", names, tuple(tasks), "two")
        keeper = memory_keeper()
        trainer(fm_lora(**drs), stream, keeper=keeper, seed=seed, epochs=1, lr_head=0.02).run()
        return keeper.records

    return make


def relabelled(images: Images, share: float) -> Images:
    """The same pixels; that share of the labels is drawn anew from the same classes."""
    labels = images.labels.clone()
    chosen = torch.rand(len(labels), generator=generator(5)) < share
    drawn = torch.randint(int(labels.min()), int(labels.max()) + 1, labels.shape,
                          generator=generator(6))  # fmt: skip
    return Images(images.pixels, torch.where(chosen, drawn, labels))


@pytest.mark.parametrize("learn_w", [True, False])
@pytest.mark.parametrize("how", ["label noise", "pixel noise", "more classes"])
def test_a_harder_task_gets_no_smaller_rank(two_tasks, tiny_images, how, learn_w):
    """The first task, and so the cost and w before the second, is the same in both streams."""
    easy_images = tiny_images(range(3, 6), 16, noise=10)
    hard_images = {
        "label noise": relabelled(easy_images, 0.8),
        "pixel noise": tiny_images(range(3, 6), 16, noise=250),
        "more classes": tiny_images(range(3, 15), 4, noise=10),  # of as many images
    }[how]
    easy, hard = (two_tasks(part, learn_w=learn_w) for part in (easy_images, hard_images))
    assert torch.equal(easy[0]["cost"], hard[0]["cost"])
    assert torch.equal(easy[0]["w"], hard[0]["w"])
    assert hard[1]["H"] > easy[1]["H"]
    assert (hard[1]["rank"] >= easy[1]["rank"]).all()
    if how != "more classes":  # these are harder by far
        assert (hard[1]["rank"] > easy[1]["rank"]).all()


def test_the_record_holds_what_the_choice_was_made_from(two_tasks, tiny_images):
    records = two_tasks(tiny_images(range(3, 6), 16, noise=10), tau=2.0, tau_decay=0.5)
    assert [record["tau"] for record in records] == [2, 1]
    w = [record["w"] for record in records]
    assert not torch.equal(w[0], selector().w())  # learned in the first preliminary epoch
    assert not torch.equal(w[0], w[1])  # and kept for the next
    for record in records:
        assert record["candidates"].tolist() == [2, 4, 8, 16]
        assert record["cost"] == records[0]["cost"] > 0
        own = scores(record["H"], record["w"], record["candidates"], float(record["tau"]),
                     record["cost"])  # fmt: skip
        torch.testing.assert_close(record["probabilities"], own.softmax(-1))
        (chosen,) = set(record["rank"].tolist())
        of_it = record["probabilities"][..., record["candidates"] == chosen]
        assert of_it.item() == pytest.approx(record["probabilities"].max().item(), rel=1e-5)
        for part in ("M", "N"):
            assert record[part].shape == (8, 16, int(chosen))


def test_w_that_is_not_learned_stays(two_tasks, tiny_images):
    for record in two_tasks(tiny_images(range(3, 6), 16), learn_w=False):
        torch.testing.assert_close(record["w"], selector().w())


def test_one_choice_a_site(two_tasks, tiny_images):
    records = two_tasks(tiny_images(range(3, 6), 16), per_site=True, learn_w=True, lr=2.0)
    last = records[1]
    assert last["w"].shape == last["probabilities"].shape == (8, 4)
    assert len(set(last["rank"].tolist())) > 1  # sites did choose apart
    for n, r in enumerate(last["rank"].tolist()):
        assert r == last["candidates"][last["probabilities"][n].argmax()]
        for part in ("M", "N"):
            assert last[part][n, :, :r].abs().min() > 0
            assert not last[part][n, :, r:].any()


def test_keeping_the_warm_up_keeps_the_first_columns(tiny_vit):
    sites = ViT(tiny_vit()).adapt(("attn.proj",))
    f = FactorizedLoRA(sites, 16)
    f.begin_coefficients(torch.tensor([8, 8]), generator())
    with torch.no_grad():
        f.N.normal_(generator=generator(1))
    M, N = f.M.detach().clone(), f.N.detach().clone()
    f.keep_columns(torch.tensor([4, 2]))
    for now, then in ((f.M, M), (f.N, N)):
        assert now.shape == (2, 16, 4) and now.requires_grad
        assert torch.equal(now[0], then[0, :, :4])
        assert torch.equal(now[1, :, :2], then[1, :, :2])
        assert not now[1, :, 2:].any()


@pytest.mark.parametrize("keep", [True, False])
def test_after_the_preliminary_epoch_training_goes_on_or_starts_anew(
    trainer, tiny_stream, memory_keeper, keep
):
    """One step a task of almost no length shows where training started."""
    keeper = memory_keeper()
    settings = {**fm_lora(keep_warmup=keep), "prompt": {"tokens": 2}}
    run = trainer(settings, tiny_stream(), keeper=keeper, epochs=1)
    method, head = run.method, run.learner.head
    found = {}
    end_stage, begin_stage = method.end_stage, method.begin_stage

    def watch_end(stage, end):
        if stage.name == "preliminary":
            found["warm"] = (method.factorized.N.detach().clone(), method.P.detach().clone())
        end_stage(stage, end)

    def watch_begin(stage, noise):
        begin_stage(stage, noise)
        if stage.name == "train":
            found["start"] = (method.factorized.N.detach().clone(), method.P.detach().clone())
            found["head"] = head.rows.detach().abs().max().item()
            r = int(method.chosen.max())
            N, P = found["warm"]
            assert N[..., :r].abs().max() > 0  # the preliminary epoch did learn
            assert found["start"][0].shape[-1] == r
            if keep:
                assert torch.equal(found["start"][0], N[..., :r])
                assert torch.equal(found["start"][1], P)
            else:
                assert not found["start"][0].any()
                assert torch.equal(found["start"][1], method.P_before)
                assert not torch.equal(found["start"][1], P)

    method.end_stage, method.begin_stage = watch_end, watch_begin
    run.run()
    assert "head" in found


# One and the same probe for every task, also for a first one that makes the bases


FROM_TASK_1 = {
    "name": "fm-lora",
    "basis_rank": 8,
    "lr": 0.01,
    "bases": {"lr": 0.02},
    "prompt": {"tokens": 2, "lr": 0.01},
}
SHARED = {**FROM_TASK_1["bases"], "shared": True}


@pytest.mark.parametrize(
    "more",
    [{}, {"bases": SHARED}, {"drs": {"keep_warmup": True}}, {"directions": "own"}],
    ids=["default", "shared", "keep_warmup", "own"],
)
def test_the_probe_of_a_task_that_makes_the_bases_leaves_nothing_behind(
    trainer, tiny_stream, memory_keeper, more
):
    """To the bit: factors, prompt, head and answers are those of a run without a selector."""
    found = []
    for drs in ({**more.get("drs", {}), "candidates": [1, 2, 4]}, {"enabled": False}):
        keeper = memory_keeper()
        run = trainer({**FROM_TASK_1, **more, "drs": drs}, tiny_stream(tasks=1), keeper=keeper)
        found.append((run.run(), keeper.records[0], run.learner.state()))
    (probed, record, state), (plain, wanted, wanted_state) = found
    measured = {"H", "probabilities", "w", "cost", "rank", "candidates"}
    assert record["H"] > 0 and wanted["H"].isnan() and record["rank"].eq(8).all()
    for name in wanted.keys() - measured:
        assert torch.equal(record[name], wanted[name]), name
    for name in (n for n in wanted_state if n.startswith(("head.", "method.P", "method.latest"))):
        assert torch.equal(state[name], wanted_state[name]), name
    assert probed["correct"] == plain["correct"] and probed["trained"] == plain["trained"]


@pytest.mark.parametrize("freeze", [False, True])
def test_every_tasks_probe_begins_where_the_model_stood_and_trains_the_same(
    trainer, tiny_stream, memory_keeper, freeze
):
    """W0 and the first prompt in task 1, what the tasks before left in the later ones; new rows,
    coefficients as wide as the largest candidate, the same rates."""
    prompt = {**FROM_TASK_1["prompt"], "freeze_after_first": freeze}
    stream = tiny_stream(classes=6, tasks=3)
    run = trainer({**FROM_TASK_1, "prompt": prompt, "drs": {"candidates": [1, 4]}}, stream)
    method, learner, found = run.method, run.learner, []
    begin_task, on_step = method.begin_task, method.on_step
    before = {}

    def features(task):
        return learner.features(stream.tasks[task].test.pixels).detach()

    def watch_task(task):
        begin_task(task)
        before["features"] = features(task.index)
        before["fresh"] = True

    def watch_step(noise):
        on_step(noise)
        if method.stage == "preliminary" and before.pop("fresh", False):
            task = method.task.index
            torch.testing.assert_close(features(task), before["features"], rtol=1e-5, atol=1e-5)
            groups = [
                (group.lr, [tuple(p.shape) for p in group.parameters]) for group in method.groups()
            ]
            found.append((groups, learner.head.rows.std().item()))

    method.begin_task, method.on_step = watch_task, watch_step
    run.run()
    assert len(found) == 3
    for groups, spread in found:
        assert groups[0] == (0.01, [(8, 8, 4), (8, 8, 4)]) and 0.01 < spread < 0.03
    assert found[1][0] == found[2][0] == found[0][0]
    assert len(found[0][0]) == (2 if freeze else 3)  # coefficients, prompt, w


def test_the_first_tasks_H_is_of_images_that_its_probe_did_not_learn_from(trainer, tiny_stream):
    run = trainer({**FROM_TASK_1, "drs": {"hold_out": 0.25}}, tiny_stream(tasks=1))
    method, learner, seen, held_out = run.method, run.learner, [], []
    step, mean_loss = method.step, learner.mean_loss

    def watched_step(batch):
        if method.stage == "preliminary":
            seen.extend(image.numpy().tobytes() for image in batch.images.pixels)
        return step(batch)

    def watched_loss(images):
        held_out.extend(image.numpy().tobytes() for image in images.pixels)
        loss = mean_loss(images)
        held_out.append(loss)
        return loss

    method.step, learner.mean_loss = watched_step, watched_loss
    run.run()
    *images, loss = held_out
    assert len(images) == 8 and len(seen) == 24 and not {*images} & {*seen}
    assert method.H.item() == pytest.approx(loss / math.log(4))
    border = method.selector
    own = border.scores(method.H)[0]
    middle = (len(own) - 1) // 2  # λ is set by it
    assert own[middle].item() == pytest.approx(own[middle + 1].item(), abs=1e-5)


@pytest.mark.parametrize("lr", [0.002, 0.05])
def test_the_first_tasks_H_is_what_a_task_has_that_finds_these_bases(
    trainer, tiny_stream, memory_keeper, monkeypatch, lr
):
    """To the bit where both draw the same: a stage's generators are told by its number, too."""
    monkeypatch.setattr(
        StageRun, "_generator", lambda run, *purpose: seeds.generator(0, *purpose, run.task.index)
    )
    monkeypatch.setattr(loop, "generator", lambda seed, *of: seeds.generator(seed, *of[:2]))
    keepers = memory_keeper(), memory_keeper()
    stream, made = tiny_stream(tasks=1, each=24, noise=60), {**FROM_TASK_1, "bases": {"lr": lr}}
    trainer(made, stream, keeper=keepers[0], lr_head=0.02).run()
    first = keepers[0].records[0]

    def bases_found(site, R, noise):
        return first[f"A.{site.name}"], torch.zeros(R, R), first[f"B.{site.name}"]

    monkeypatch.setattr(fm_lora_module, "from_random", bases_found)
    found = {**FROM_TASK_1, "bases": {"from": "random"}}
    trainer(found, stream, keeper=keepers[1], lr_head=0.02).run()
    for name in ("H", "w", "cost"):
        assert torch.equal(first[name], keepers[1].records[0][name]), name
    assert 0.1 < first["H"] < 0.95


def test_on_the_border_that_a_task_sets_rounding_decides_nothing():
    """Its complexity lies on it exactly, so scores are level but for their last digits."""
    chosen = set()
    for H in torch.linspace(0.05, 1.5, 200):
        (rank,), _ = selector().choose(H)
        chosen.add(rank.item())
    assert chosen == {4}
