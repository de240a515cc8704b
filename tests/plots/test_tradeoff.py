"""Points stand where their numbers put them, and what no other beats is found."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from reading import clouds, draws, intervals, legend, marks, names, surrounds, title

from fmlora_lab import plots
from fmlora_lab.metrics import t_interval
from fmlora_lab.plots.sheet import DRAWS
from fmlora_lab.plots.style import styles

pytestmark = pytest.mark.unit


def test_the_trade_off_marks_every_method_that_has_one():
    points = {
        "fm-lora": ([70.0, 74.0], [10.0, 12.0]),
        "full": (90.0, 50.0),
        "joint": (np.nan, np.nan),
    }
    figure = plots.trade_off(points, tasks=10)
    (axis,) = figure.axes
    looks = styles(["fm-lora", "full"])
    means = [line for line in axis.get_lines() if line.get_gid() != DRAWS]
    drawn = {line.get_color(): line.get_xydata().tolist() for line in means}
    assert draws(axis) == [[[10, 70], [12, 74]]]
    assert drawn[looks["fm-lora"]["color"]] == [[11, 72]]
    assert drawn[looks["full"]["color"]] == [[50, 90]]
    assert sorted(marks(axis)) == [[[11, 72]], [[50, 90]]]
    seeds = [[[11, 72], [10, 70]], [[11, 72], [12, 74]]]  # joined to the mean
    assert intervals(axis)[:2] == seeds
    assert surrounds(axis, [[10, 70], [50, 90]])
    assert axis.get_xlabel() == "forgetting (points)"
    assert axis.get_ylabel() == "learning accuracy (%)"
    assert {"FM-LoRA", "full fine-tuning"} < names(axis).keys()
    assert title(figure) == (  # of one order nothing is parted
        "Learning accuracy from 72 to 90% (full fine-tuning); forgetting from 50 to 11 points "
        "(FM-LoRA)"
    )


def draws_equal_acc(axis, share: float) -> None:
    lines = [line for line in axis.get_lines() if line.get_marker() == "None"]
    labels = [text for text in axis.texts if text.get_text().startswith("Acc ")]
    assert len(lines) > 3 and len(labels) > 3
    for line in lines:
        x, y = line.get_data()
        assert np.ptp(y - x * share) == pytest.approx(0, abs=1e-9)
    for label in labels:
        x, y = label.xy
        assert y - x * share == pytest.approx(float(label.get_text().split()[1]))


def test_along_a_line_of_the_trade_off_acc_is_equal():
    points = {"lora": (80.0, 20.0), "full": (90.0, 60.0)}
    draws_equal_acc(plots.trade_off(points, tasks=5).axes[0], 4 / 5)


def test_labels_of_lines_stand_outside_where_no_mark_can_lie():
    figure = plots.trade_off({"prototypes": (69.7, 9.7), "full": (74.2, 26.5)}, tasks=10)
    axis = figure.axes[0]
    labels = [t.get_window_extent() for t in axis.texts if t.get_text().startswith("Acc ")]
    inner = axis.get_window_extent()
    assert len(labels) > 3
    assert all(box.x0 >= inner.x1 or box.y0 >= inner.y1 for box in labels)
    assert min(box.x0 for box in labels) > inner.x0


def test_who_learns_most_is_said_where_the_intervals_part():
    points = {"lora": ([80.0, 82, 84], [5.0, 9, 7]), "full": ([70.0, 73, 73], [6.0, 7, 8])}
    assert title(plots.trade_off(points, tasks=5)) == (
        "Sequential LoRA learns most (82%); forgetting from 7 to 7 points (sequential LoRA)"
    )
    one = {name: (learned[:1], lost[:1]) for name, (learned, lost) in points.items()}
    assert title(plots.trade_off(one, tasks=5)) == (
        "Learning accuracy from 70 to 80% (sequential LoRA); forgetting from 6 to 5 points "
        "(sequential LoRA) (one seed)"
    )


def test_the_frontier_joins_points_in_order_and_names_each_beside_its_mark():
    curves = {
        "lora": ([5.0, 20, np.nan, 12], [60.0, 75, 70, 66], ["×¼", "×1", "×2", "×4"]),
        "full": ([6.0, 21], [61.0, 76], ["×¼", "×1"]),
    }
    figure = plots.frontier(curves, tasks=5, title="Ends")
    (axis,) = figure.axes
    assert marks(axis) == [[[5, 60], [20, 75], [12, 66]], [[6, 61], [21, 76]]]
    assert surrounds(axis, [[5, 60], [21, 76]])
    notes = [text for text in axis.texts if "×" in text.get_text()]
    assert [(text.get_text(), *text.xy) for text in notes] == [
        ("×¼", 5, 60), ("×1", 20, 75), ("sequential LoRA ×4", 12, 66),
        ("×¼", 6, 61), ("full fine-tuning ×1", 21, 76),
    ]  # fmt: skip
    spots = axis.transData.transform([pair for points in marks(axis) for pair in points])
    boxes = [note.get_window_extent() for note in notes]
    assert not any(box.padded(2).count_contains(spots) for box in boxes)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_along_a_line_of_the_frontier_acc_is_equal():
    curves = {"lora": ([5.0, 60], [60.0, 90], ["a", "b"])}
    draws_equal_acc(plots.frontier(curves, tasks=5, title="").axes[0], 4 / 5)


def test_a_curve_of_the_frontier_without_a_number_is_left_out():
    curves = {"lora": ([5.0, 60], [60.0, 90], "ab"), "full": ([np.nan], [np.nan], "a")}
    (axis,) = plots.frontier(curves, tasks=5, title="").axes
    assert marks(axis) == [[[5, 60], [60, 90]]]


def test_pareto_marks_every_method_and_names_those_that_none_beats():
    points = {"lora": ([70.0, 74.0], 1e6), "fm-lora": (60.0, 1e5), "full": (50.0, 2e6)}
    points |= {"prototypes": (55.0, 0.0), "linear-probe": (40.0, 0.0)}
    figure = plots.pareto(points, "numbers kept", log=True)
    (axis,) = figure.axes
    assert sorted(marks(axis)) == [
        [[0, 40]], [[0, 55]], [[1e5, 60]], [[1e6, 72]], [[2e6, 50]],
    ]  # fmt: skip
    assert intervals(axis) == [[[1e6, end] for end in t_interval([70, 74])]]  # of two orders
    assert surrounds(axis, [[0, 40], [2e6, 74]])
    assert axis.get_xlabel() == "numbers kept" and "(%)" in axis.get_ylabel()
    said = "Highest mean Acc up to each cost: nearest class mean, FM-LoRA, sequential LoRA"
    assert title(figure) == said
    assert draws(axis) == [[[1e6, 70], [1e6, 74]]]
    (stairs,) = (line for line in axis.get_lines() if line.get_color() == "#999999")
    assert stairs.get_xydata().tolist() == [[0, 55], [1e5, 55], [1e5, 60], [1e6, 60], [1e6, 72]]
    assert len(names(axis)) == len(points)


def test_the_title_says_which_methods_intervals_part_from_all_that_cost_no_more():
    points = {"lora": ([50.0, 52, 54], 1.0), "full": ([60.0, 62, 65], 2.0)}
    points["inflora"] = ([63.0, 62, 70], 3.0)
    said = title(plots.pareto(points, "cost"))
    assert said.endswith("by interval above all that cost no more: full fine-tuning")
    of_rows = {  # as columns of a frame have them, in rows of their own
        name: (pd.Series(acc, np.arange(3) + 10 * cost), cost)
        for name, (acc, cost) in points.items()
    }
    assert title(plots.pareto(of_rows, "cost")) == said


def test_no_third_of_the_axis_of_costs_is_empty():
    def emptiest(prices, **how):
        points = {f"m{price}": ([50.0, 51], price) for price in prices}
        (axis,) = plots.pareto(points, "cost", **how).axes
        places = axis.transData.transform([(price, 50) for price in prices])[:, 0]
        left, right = axis.get_window_extent().intervalx
        return max(places.min() - left, right - places.max()) / (right - left), axis

    for prices, how in (((42, 62, 92, 147), {}), ((0, 8e3, 1e5, 1e6), {"log": True})):
        empty, axis = emptiest(prices, **how)
        assert empty < 1 / 3
    assert axis.transData.transform((0, 50))[0] < axis.transData.transform((8e3, 50))[0]
    _, axis = emptiest((1, 2, 40, 1000))
    assert axis.get_xscale() == "log"


@pytest.mark.parametrize("seed", range(3))
def test_a_method_is_named_unless_another_is_as_good_in_both_and_better_in_one(seed):
    draw = np.random.default_rng(seed)
    points = {f"m{i}": (float(a), float(c)) for i, (a, c) in enumerate(draw.integers(0, 8, (9, 2)))}
    said = title(plots.pareto(points, "cost")).split(": ")[1].split(", ")
    unbeaten = {
        name
        for name, (acc, cost) in points.items()
        if not any(a >= acc and c <= cost and (a, c) != (acc, cost) for a, c in points.values())
    }
    assert set(said) == unbeaten and len(said) == len(unbeaten)
    assert [points[name][1] for name in said] == sorted(points[name][1] for name in said)


def test_a_scatter_draws_every_pair_and_orders_it_by_rank():
    points = {
        "lora": ([1.0, 2, 3, np.nan], [1.0, 8, 27, 5]),  # as the cube: not a line, yet in order
        "full": ([1.0, 2, 3, 4], [4.0, 3, 2, 1]),
        "l2p": ([2.0, 2], [1.0, 3]),
    }
    figure = plots.scatter(points, "drift", "lost (points)", "Says little")
    (axis,) = figure.axes
    assert list(clouds(axis).values()) == [
        [[1, 1], [2, 8], [3, 27]],
        [[1, 4], [2, 3], [3, 2], [4, 1]],
        [[2, 1], [2, 3]],
    ]
    assert surrounds(axis, [[1, 1], [4, 27]])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("drift", "lost (points)")
    assert list(legend(figure)) == [
        "sequential LoRA  +1.00 (n = 3)", "full fine-tuning  −1.00 (n = 4)", "L2P  – (n = 2)",
    ]  # fmt: skip
    x, y = np.transpose([pair for cloud in clouds(axis).values() for pair in cloud])
    places = [(v[:, None] > v).sum(1) + (v[:, None] == v).sum(1) / 2 for v in (x, y)]
    rho = np.corrcoef(*places)[0, 1]
    assert figure.legends[0].get_title().get_text() == f"Spearman's ρ (all points: −{-rho:.2f})"


def test_clouds_of_one_family_are_told_apart_and_chance_is_dotted():
    points = {name: ([1.0, 2], [3.0, 4]) for name in ("lora", "inflora", "full")}
    figure = plots.scatter(points, "overlap", "lost", "Says", chance=0.5)
    (axis,) = figure.axes
    faces = [key.get_markerfacecolor() for key in figure.legends[0].legend_handles]
    assert faces[1] == "white" and "white" not in (faces[0], faces[2])
    (line,) = axis.get_lines()
    assert set(line.get_xdata()) == {0.5} and list(names(axis)) == ["chance"]


def test_every_order_of_the_frontier_has_a_dot():
    curves = {"lora": ([[5.0, 20], [7, 24]], [[60.0, 70], [62, 72]], ["×1", "×2"])}
    (axis,) = plots.frontier(curves, tasks=5, title="").axes
    assert marks(axis) == [[[6, 61], [22, 71]]]
    assert draws(axis) == [[[5, 60], [20, 70], [7, 62], [24, 72]]]


def test_of_one_method_or_none_no_superlative_is_said():
    assert title(plots.trade_off({"lora": (80.0, 30.0)}, tasks=10)) == (
        "Sequential LoRA learns 80%, forgets 30 points"
    )
    nothing = plots.trade_off({"joint": (np.nan, np.nan)}, tasks=10)
    assert title(nothing) == "No method here sees one task at a time"


def test_an_order_that_a_method_lacks_shifts_no_pair():
    """LoRA learns 10 points more in each order that both have."""
    nan = np.nan
    points = {
        "lora": ([nan, 60.0, 80, 61], [nan, 5.0, 5, 6]),
        "full": ([75.0, 50, 70, nan], [9.0, 5, 6, nan]),
    }
    said = title(plots.trade_off(points, tasks=5))
    assert said.startswith("Sequential LoRA learns most (67%)")
