"""The one operation against the dense form, in value, gradients, rounding and memory."""

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks

from fmlora_lab.backbone.low_rank import Factors, adapted_linear, low_rank_linear

pytestmark = pytest.mark.unit

BF16 = 2.0**-8
"""Unit roundoff of bfloat16: one rounding moves a number by at most this share of it."""


def draw(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def inputs(lead=(5,), o=7, i=6, k=3, core=True, bias=True, dtype=torch.float64) -> dict:
    return {
        "x": draw(*lead, i, seed=1, dtype=dtype),
        "weight": draw(o, i, seed=2, dtype=dtype),
        "bias": draw(o, seed=3, dtype=dtype) if bias else None,
        "U": draw(o, k, seed=4, dtype=dtype),
        "C": draw(k, k, seed=5, dtype=dtype) if core else None,
        "V": draw(i, k, seed=6, dtype=dtype),
    }


def dense(x, weight, bias, U, C, V) -> torch.Tensor:
    """The defining formula, ΔW by einsum."""
    C = torch.eye(U.shape[1], dtype=U.dtype) if C is None else C
    y = torch.einsum("...i,oi->...o", x, weight + torch.einsum("oa,ab,ib->oi", U, C, V))
    return y if bias is None else y + bias


@given(
    lead=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    o=st.integers(1, 9),
    i=st.integers(1, 9),
    k=st.integers(1, 10),
    core=st.booleans(),
    bias=st.booleans(),
)
@settings(max_examples=60)
def test_forward_equals_the_dense_einsum(lead, o, i, k, core, bias):
    given_ = inputs(lead, o, i, k, core, bias)
    y = low_rank_linear(**given_)
    assert y.shape == (*lead, o)
    torch.testing.assert_close(y, dense(**given_), rtol=1e-10, atol=1e-10)


def subsets(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [s for size in range(len(names) + 1) for s in combinations(names, size)]


CASES = [(s, True) for s in subsets(("x", "U", "C", "V"))]
CASES += [(s, False) for s in subsets(("x", "U", "V"))]


@pytest.mark.parametrize("lead", [(5,), (3, 4)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(
    ("learned", "core"), CASES, ids=["".join(s) + ("" if c else "-no-C") for s, c in CASES]
)
def test_gradients_equal_autograds_of_the_dense_form(learned, core, bias, lead):
    found, expected = inputs(lead, core=core, bias=bias), inputs(lead, core=core, bias=bias)
    for tensors in (found, expected):
        for name in learned:
            tensors[name].requires_grad_()
    y = low_rank_linear(**found)
    assert y.requires_grad == bool(learned)
    if not learned:
        return
    g = draw(*y.shape, seed=9)
    y.backward(g)
    dense(**expected).backward(g)
    for name in ("x", "U", "C", "V"):
        if name in learned:
            torch.testing.assert_close(
                found[name].grad, expected[name].grad, rtol=1e-10, atol=1e-10
            )
        elif found[name] is not None:
            assert found[name].grad is None


@pytest.mark.parametrize("k", [2, 5], ids=["skinny", "wide"])
@pytest.mark.parametrize("fixed", [0, 1])
@pytest.mark.parametrize("diagonal", [True, False])
def test_a_diagonal_core_and_fixed_columns(diagonal, fixed, k):
    """Both ways to the gradients; the fixed columns' are zero, the diagonal's are of all."""
    found = inputs((3, 4), k=k, core=False)
    names = ["x", "U", "V"]
    if diagonal:
        found["C"] = draw(k, seed=5)
        names.append("C")
    expected = {n: None if t is None else t.clone() for n, t in found.items()}
    for tensors in (found, expected):
        for name in names:
            tensors[name].requires_grad_()
    y = low_rank_linear(**found, fixed=fixed)
    full = {**expected, "C": torch.diag(expected["C"]) if diagonal else None}
    g = draw(*y.shape, seed=9)
    torch.testing.assert_close(y, dense(**full), rtol=1e-10, atol=1e-10)
    y.backward(g)
    dense(**full).backward(g)
    for name in names:
        wanted = expected[name].grad
        if name in "UV":
            wanted[:, :fixed] = 0
        torch.testing.assert_close(found[name].grad, wanted, rtol=1e-10, atol=1e-10)


def test_fixed_columns_need_a_diagonal_core():
    with pytest.raises(ValueError, match="diagonal or None"):
        low_rank_linear(**inputs(), fixed=1)


@pytest.mark.parametrize("core", [True, False])
def test_gradcheck(core):
    t = inputs((2, 3), o=4, i=3, k=2, core=core)
    names = [n for n in ("x", "U", "C", "V") if t[n] is not None]

    def of(*tensors):
        return low_rank_linear(**{**t, **dict(zip(names, tensors, strict=True))})

    assert torch.autograd.gradcheck(of, [t[n].requires_grad_() for n in names])


@pytest.mark.parametrize("merged", [False, True], ids=["pre-trained", "merged"])
@pytest.mark.parametrize("k", [5, 30], ids=["skinny", "wide"])
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_bfloat16_input_stays_within_its_rounding(autocast, k, merged):
    """Each bound counts the roundings on the way, as multiples of bfloat16's unit roundoff.

    y: W0, y. gx: W0, gx. gU: V, x V, the product. gC: U, V, g U, x V (summed in float32).
    gV: U, g U, the product.
    """
    t = inputs((4, 32), o=48, i=40, k=k, dtype=torch.float32)
    t["U"], t["V"] = t["U"] / 7, t["V"] / 6  # an update about as large as an adapter's
    t["x"] = t["x"].bfloat16()
    g = draw(4, 32, 48, seed=9).bfloat16()
    exact = {name: tensor.double() for name, tensor in t.items()}
    for tensors in (t, exact):
        for name in ("x", "U", "C", "V"):
            tensors[name].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = low_rank_linear(**t, merged=merged)
    y.backward(g)
    reference = dense(**exact)
    reference.backward(g.double())
    assert y.dtype == torch.bfloat16

    def error(found, wanted):
        return ((found.double() - wanted).norm() / wanted.norm()).item()

    assert error(y, reference) < 2 * BF16
    for name, roundings in (("x", 2), ("U", 3), ("C", 4), ("V", 3)):
        assert error(t[name].grad, exact[name].grad) < roundings * BF16, name


# What a 16-bit type leaves of a small update: docs/method.md, "The one operation".

ROWS = 200_000
SMALL = 0.002
"""‖ΔW‖ / ‖W0‖ of the later tasks of a real run."""
CORES = {
    "no-C": lambda k: None,
    "diagonal": lambda k: 1 + torch.arange(k) / k,
    "C": lambda k: draw(k, k, seed=5, dtype=torch.float32),
}


def small_update(core="no-C", k=2, o=24, i=16) -> tuple[torch.Tensor, Factors]:
    """A weight, and factors of an update of 0.2% of it."""
    weight = draw(o, i, seed=2, dtype=torch.float32) / i**0.5
    U, V = draw(o, k, seed=4, dtype=torch.float32), draw(i, k, seed=6, dtype=torch.float32)
    factors = Factors(U, CORES[core](k), V)
    return weight, factors._replace(U=U * SMALL * weight.norm() / factors.dense().norm())


def fitted(rows: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """D (b, a) of the least squares rows Dᵀ = changes, in float64; rows (n, a), changes (n, b)."""
    rows, changes = rows.double(), changes.double()
    return torch.linalg.solve(rows.T @ rows, rows.T @ changes).T


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖"""
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


@pytest.fixture(scope="module")
def rows():
    """Rows of x (n, 16) and of g (n, 24) in bfloat16."""
    generator = torch.Generator().manual_seed(7)
    return tuple(torch.randn(ROWS, w, generator=generator).bfloat16() for w in (16, 24))


@pytest.mark.parametrize(
    ("core", "k", "merged"),
    [
        ("no-C", 2, False),
        ("diagonal", 2, False),
        ("C", 2, False),
        ("C", 2, True),
        ("no-C", 12, False),
        ("C", 12, True),
    ],
)
def test_a_small_update_is_in_the_output_and_in_the_inputs_gradient(rows, core, k, merged):
    """Rounding y is another error in every row and averages out; rounding the weight would not."""
    weight, update = small_update(core, k)
    x, g = rows

    def through(factors):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = low_rank_linear(leaf, weight, None, *factors[:3], merged=merged)
        y.backward(g)
        return y.detach().double(), leaf.grad.double()

    before, after = through(update._replace(U=0 * update.U)), through(update)
    assert off(fitted(x, after[0] - before[0]), update.dense()) < 0.05
    assert off(fitted(g, after[1] - before[1]), update.dense().T) < 0.05


def test_an_update_for_each_image_is_in_the_output_and_in_the_inputs_gradient(rows):
    weight, update = small_update()
    x, g = (t.view(2, ROWS // 2, -1) for t in rows)

    def through(columns):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = adapted_linear(leaf, weight, None, update._replace(columns=columns))
        y.backward(g)
        return y.detach().double(), leaf.grad.double()

    before, after = through(torch.zeros(2, 2)), through(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    for b in (0, 1):
        wanted = torch.outer(update.U[:, b], update.V[:, b])
        assert off(fitted(x[b], after[0][b] - before[0][b]), wanted) < 0.05
        assert off(fitted(g[b], after[1][b] - before[1][b]), wanted.T) < 0.05


@pytest.mark.parametrize("factors", [True, False], ids=["with-factors", "without"])
def test_a_merged_update_is_in_the_output(rows, factors):
    weight, update = small_update()
    x, _ = rows
    none = update._replace(U=0 * update.U) if factors else None
    with torch.autocast("cpu", torch.bfloat16):
        before = adapted_linear(x, weight, None, none, merged=True).double()
        after = adapted_linear(x, weight + update.dense(), None, none, merged=True).double()
    assert off(fitted(x, after - before), update.dense()) < 0.05


@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("learned", ["C", "U", "UC", "V", "CV", "UV"])
def test_x_is_kept_for_backward_only_where_V_learns(learned, narrow):
    t = inputs((64, 16), o=12, i=40, k=3, dtype=torch.float32)
    t["x"] = t["x"].bfloat16() if narrow else t["x"]
    t["x"].requires_grad_()
    for name in learned:
        t[name].requires_grad_()
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = low_rank_linear(**t)
    n, parts = 64 * 16, sum(t[name].numel() for name in "UCV")
    numbers = t["weight"].numel()  # Wₑ or W0 in the type of x, whatever the batch
    if "V" in learned:
        numbers += n * 40
    if "U" in learned or "C" in learned:
        numbers += n * 3
    size = sum(tensor.numel() * tensor.element_size() for tensor in saved)
    assert size == t["x"].element_size() * numbers + 4 * parts
    holds_x = any(tensor.data_ptr() == t["x"].data_ptr() for tensor in saved)
    assert holds_x == ("V" in learned)
    y.sum().backward()  # what was kept is enough
    assert all(t[name].grad is not None for name in learned)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_frozen_layer_that_asks_for_gradients_is_refused(name):
    t = inputs()
    t[name].requires_grad_()
    with pytest.raises(ValueError, match="frozen"):
        low_rank_linear(**t)


@pytest.mark.parametrize("core", [True, False])
def test_dense_is_the_einsum(core):
    t = inputs(core=core)
    factors = Factors(t["U"], t["C"], t["V"])
    C = torch.eye(3, dtype=torch.float64) if t["C"] is None else t["C"]
    wanted = torch.einsum("oa,ab,ib->oi", t["U"], C, t["V"])
    torch.testing.assert_close(factors.dense(), wanted, rtol=1e-12, atol=1e-12)


# Columns in use


def for_the_batch(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return (x.mean((0, 1)) @ gate).sigmoid()


def for_each_image(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return (x.mean(1) @ gate).sigmoid()


def by_the_first_token(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return (x[:, 0] @ gate).tanh()


CHOICES = [for_the_batch, for_each_image, by_the_first_token]
FORMS = [("none", 0), ("none", 1), ("diagonal", 0), ("diagonal", 1), ("core", 0)]


@pytest.mark.parametrize("given", ["tensor", "function"])
@pytest.mark.parametrize(("form", "fixed"), FORMS, ids=lambda value: str(value))
@pytest.mark.parametrize("choose", CHOICES, ids=lambda choose: choose.__name__)
def test_columns_in_use_are_those_of_a_dense_weight_for_each_image(choose, form, fixed, given):
    """ΔW_b = U C diag(c_b) Vᵀ, formed image by image: outputs, and gradients of all that learns,
    of what chooses the columns too; the fixed columns of U and V get none."""
    found = inputs((3, 4), core=form == "core") | {"gate": draw(6, 3, seed=7)}
    if form == "diagonal":
        found["C"] = draw(3, seed=5)
    wanted = {name: None if t is None else t.clone() for name, t in found.items()}
    learned = [name for name in ("x", "U", "C", "V", "gate") if found[name] is not None]
    for tensors in (found, wanted):
        for name in learned:
            tensors[name].requires_grad_()

    def of_input(x: torch.Tensor) -> torch.Tensor:
        return choose(x, found["gate"])

    columns = of_input if given == "function" else of_input(found["x"])
    factors = Factors(found["U"], found["C"], found["V"], fixed, columns)
    y = adapted_linear(found["x"], found["weight"], found["bias"], factors)

    x, C = wanted["x"], wanted["C"]
    C = torch.eye(3).double() if C is None else torch.diag(C) if C.ndim == 1 else C
    chosen = choose(x, wanted["gate"]).expand(3, 3)
    whole = torch.stack(
        [dense(x[b], wanted["weight"], wanted["bias"], wanted["U"], C @ torch.diag(chosen[b]),
               wanted["V"]) for b in range(3)]
    )  # fmt: skip
    torch.testing.assert_close(y, whole, rtol=1e-10, atol=1e-10)
    plain = F.linear(x, wanted["weight"], wanted["bias"])
    assert (whole - plain).abs().max() > 0.1

    g = draw(*y.shape, seed=9)
    y.backward(g)
    whole.backward(g)
    for name in learned:
        expected = wanted[name].grad
        if name in "UV":
            expected[:, :fixed] = 0
        torch.testing.assert_close(found[name].grad, expected, rtol=1e-9, atol=1e-9)
        assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("choose", CHOICES, ids=lambda choose: choose.__name__)
def test_columns_are_chosen_under_autocast_by_the_rounded_input(choose):
    """Output in bfloat16, near that of float32."""
    t = inputs((3, 4), k=3, core=False, dtype=torch.float32)
    gate, seen = draw(6, 3, seed=7, dtype=torch.float32), []

    def of_input(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.dtype)
        return choose(x.float(), gate)

    factors = Factors(t["U"] / 4, None, t["V"] / 4, columns=of_input)
    exact = adapted_linear(t["x"], t["weight"], t["bias"], factors)
    with torch.autocast("cpu", torch.bfloat16):
        y = adapted_linear(t["x"].bfloat16(), t["weight"], t["bias"], factors)
    assert seen == [torch.float32, torch.bfloat16] and y.dtype == torch.bfloat16
    assert (y.float() - exact).norm() < 5 * BF16 * exact.norm()


def test_columns_for_the_batch_are_in_the_dense_update():
    t, columns = inputs(core=False), draw(3, seed=7)
    factors = Factors(t["U"], None, t["V"], columns=columns)
    wanted = torch.einsum("ok,k,ik->oi", t["U"], columns, t["V"])
    torch.testing.assert_close(factors.dense(), wanted, rtol=1e-12, atol=1e-12)
    assert not factors.by_input
    assert factors._replace(columns=columns.expand(5, 3)).by_input
    assert factors._replace(columns=lambda x: columns).by_input
