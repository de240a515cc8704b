"""Looks go by family, stand out from white, and are told apart by colour-blind readers too."""

import colorsys
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from reading import legend, names

from fmlora_lab import plots
from fmlora_lab.plots.style import FAMILY_LOOKS, OTHER_COLORS, styles

pytestmark = pytest.mark.unit

FAMILY_COLORS = [color for color, _ in FAMILY_LOOKS.values()]


def hue(color: str) -> float:
    return colorsys.rgb_to_hsv(*to_rgb(color))[0]


def linear(color: str) -> np.ndarray:
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(color: str) -> float:
    """With white, as the WCAG defines it."""
    return 1.05 / (linear(color) @ [0.2126, 0.7152, 0.0722] + 0.05)


def members(toys, family: str) -> list[str]:
    return [name for name, own in toys.items() if own == family]


@pytest.mark.parametrize("family", ["low-rank", "prompts", "references", "projection"])
def test_a_family_shares_hue_and_marker_and_its_methods_differ(toys, family):
    looks = styles(toys)
    own = [looks[name] for name in members(toys, family)]
    (marker,) = {look["marker"] for look in own}
    hues = [hue(look["color"]) for look in own]
    assert np.ptp(hues) < 0.02
    assert len({(look["color"], look["linestyle"]) for look in own}) == len(own)
    shades = sorted(contrast(look["color"]) for look in own)
    assert min(np.diff(shades)) > 0.1
    others = [look for name, look in looks.items() if toys[name] != family]
    assert marker not in {look["marker"] for look in others}
    if family != "references":  # which are grey
        assert min(abs(hue(look["color"]) - hues[0]) for look in others) > 0.02


def test_looks_do_not_depend_on_the_other_families(toys):
    prompts = members(toys, "prompts")
    alone, among = styles(prompts), styles(toys)
    assert all(alone[name] == among[name] for name in prompts)
    assert styles(prompts[:1])[prompts[0]]["color"] == FAMILY_LOOKS["prompts"][0]


def test_the_labs_own_family_stands_out(toys):
    looks = styles(toys)
    (own,) = (looks.pop(name) for name in members(toys, "FM-LoRA"))
    assert own["linewidth"] > 1.5 * max(look["linewidth"] for look in looks.values())


def test_every_colour_stands_out_from_white(toys):
    every = [look["color"] for look in styles(toys).values()]
    assert min(map(contrast, [*every, *FAMILY_COLORS, *OTHER_COLORS])) >= 3
    text = names(plots.accuracy_over_tasks({name: [2.0, 1] for name in toys}).axes[0])
    assert min(contrast(said.get_color()) for said in text.values()) >= 4.5


def test_names_that_are_no_methods_have_looks_of_their_own(toys):
    eight = list(styles("abcdefgh").values())
    assert [look["color"] for look in eight] == list(OTHER_COLORS)
    assert len({look["marker"] for look in eight}) == 8
    many = styles([*toys, *(f"name {i}" for i in range(40))]).values()
    assert len({(x["color"], x["marker"], x["linestyle"]) for x in many}) == len(many) == 65
    mixed = styles(["mine", *members(toys, "low-rank")])
    assert mixed["mine"]["color"] == OTHER_COLORS[0]
    assert mixed["toy low-rank 0"] == styles(toys)["toy low-rank 0"]
    assert styles(["FM-LoRA"])["FM-LoRA"]["color"] == FAMILY_LOOKS["FM-LoRA"][0]


SIGHT = {  # in linear RGB, after Machado, Oliveira and Fernandes (2009), severity 1
    "full": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def lab(color: str, sight) -> np.ndarray:
    """CIELAB of a colour as the eye of that `sight` sees it."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = to_xyz @ np.clip(np.array(sight) @ linear(color), 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(("colors", "apart"), [(FAMILY_COLORS, 15), (OTHER_COLORS, 27)])
def test_colours_stay_apart_for_colour_blind_readers(colors, apart, sight):
    seen = [lab(color, SIGHT[sight]) for color in colors]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > apart


def test_a_method_looks_the_same_in_every_figure():
    x, y = [1.0, 2, 3], [3.0, 1, 2]
    methods = ["mine", "inflora", "lora"]
    looks = styles(methods)
    colors = {name: look["color"] for name, look in looks.items()}
    own = {"InfLoRA": "inflora", "sequential LoRA": "lora", "mine": "mine"}
    joined = [
        plots.accuracy_over_tasks({m: y for m in methods}),
        plots.lines({m: (x, y) for m in methods}, "", "", ""),
        plots.frontier({m: (x, y, "abc") for m in methods}, 10, ""),
        plots.pareto({m: (i, 1.0) for i, m in enumerate(methods)}, ""),
        plots.trade_off({m: (1.0 + i, i) for i, m in enumerate(methods)}, 10),
    ]
    for figure in joined:
        drawn = figure.axes[0].get_lines()
        found = {(line.get_color(), line.get_marker()) for line in drawn}
        assert found >= {(look["color"], look["marker"]) for look in looks.values()}
    for figure in (
        plots.scatter({m: (x, y) for m in methods}, "", "", ""),
        plots.dots({"row": {m: 1.0 for m in methods}}, "", ""),
    ):
        said = {label.split("  ")[0]: look for label, look in legend(figure).items()}
        assert said == {t: (colors[m], looks[m]["marker"]) for t, m in own.items()}


def test_a_legend_names_families_of_which_there_are_several_methods(toys):
    def named(methods):
        figure = plots.accuracy_over_tasks({name: [2.0, 1] for name in methods})
        return legend(figure) if figure.legends else {}

    every = named([*toys, "mine"])
    assert list(every) == ["FM-LoRA", "low-rank", "prompts", "references", "projection"]
    assert every["prompts"] == FAMILY_LOOKS["prompts"]
    assert every["projection"][0] == OTHER_COLORS[0]
    one_each = ["toy FM-LoRA 0", "toy prompts 3", "mine"]
    assert named(one_each) == {} == named(members(toys, "prompts"))
