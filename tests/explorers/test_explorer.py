"""What all explorers share: redrawing keeps up, sentences stand in for pictures, no torch."""

import io
import subprocess
import sys
from threading import Event

import numpy as np
import pytest
from ipywidgets import IntSlider
from PIL import Image

from fmlora_lab.config import BadInput
from fmlora_lab.explorers.explorer import Explorer, table
from fmlora_lab.plots.screen import SCREEN_DPI, Screen

pytestmark = pytest.mark.unit


class Level(Screen):
    """One line at a height that moves."""

    def __init__(self):
        super().__init__(1.5)
        axis = self.place(0.5, 0.5, 5, 0.8)
        axis.set_ylim(0, 10)
        self.line = self.moves(axis.axhline(0))
        self.said = self.headline(axis)

    def show(self, x: int) -> None:
        self.line.set_ydata([x, x])
        self.said.set_text(f"level {x}")


def explorer(draw) -> tuple[Explorer, IntSlider]:
    slider = IntSlider(1, 0, 10, description="x")
    return Explorer({"x": slider}, draw, [(slider,)], "the level"), slider


@pytest.fixture
def level():
    """A kept figure, and a draw function over it that notes what it drew."""
    picture, drawn = Level(), []

    def draw(x: int):
        drawn.append(x)
        if x == 7:
            raise BadInput("seven has no picture")
        picture.show(x)
        return picture, f"<b>{x}</b>"

    return picture, draw, drawn


def test_a_move_changes_the_picture_and_the_words(level):
    picture, draw, drawn = level
    page, slider = explorer(draw)
    before = page.image.value
    slider.value = 4
    page.wait()
    assert drawn == [1, 4] and page.words.value == "<b>4</b>"
    assert page.image.value != before
    assert list(picture.line.get_ydata()) == [4, 4]
    slider.value = 1
    page.wait()
    assert page.image.value == before


def test_while_a_picture_is_drawn_only_the_last_move_waits(level):
    _, draw, drawn = level
    begun, go_on = Event(), Event()
    go_on.set()

    def slow(x: int):
        begun.set()
        assert go_on.wait(60)
        return draw(x)

    page, slider = explorer(slow)
    go_on.clear()
    begun.clear()
    slider.value = 2
    assert begun.wait(60)
    for x in (3, 4, 5, 6):
        slider.value = x
    go_on.set()
    page.wait()
    assert drawn == [1, 2, 6] and page.words.value == "<b>6</b>"


def test_what_cannot_be_shown_is_a_sentence_until_something_can(level):
    _, draw, _ = level
    page, slider = explorer(draw)
    slider.value = 7
    page.wait()
    assert page.words.value == "seven has no picture" and page.image.layout.display == "none"
    slider.value = 8
    page.wait()
    assert page.words.value == "<b>8</b>" and page.image.layout.display is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_after_an_error_the_next_move_draws_again(level):
    _, draw, drawn = level

    def broken(x: int):
        return draw(x) if x != 3 else 1 / 0

    page, slider = explorer(broken)
    for x in (3, 4):
        slider.value = x
        page.wait()
    assert drawn == [1, 4]


def test_controls_that_are_adjusted_are_part_of_the_move_that_caused_it(level):
    _, draw, drawn = level
    slider, other = IntSlider(1, 0, 10), IntSlider(0, 0, 10)

    def adjust():
        other.value = slider.value

    page = Explorer(
        {"x": slider, "y": other}, lambda x, y: draw(10 * x + y), [(slider, other)], "", adjust
    )
    slider.value = 2
    page.wait()
    assert drawn == [11, 22]


def test_static_is_the_figure_or_the_sentence(level):
    picture, draw, _ = level
    page, _ = explorer(draw)
    assert page.shown(True) is picture.figure and page.shown(False) is page.widget

    def nothing(x: int):
        raise BadInput("there is nothing")

    with pytest.raises(BadInput, match="there is nothing"):
        explorer(nothing)[0].shown(True)


def test_the_page_says_what_to_look_for_and_stays_within_its_width(level):
    _, draw, _ = level
    page, slider = explorer(draw)
    row, look, beside = page.widget.children
    assert row.children == (slider,) and "What to look for:</b> the level" in look.value
    assert beside.children == (page.image, page.words)
    assert page.image.layout.flex == "1 1 700px" and beside.layout.flex_flow == "row wrap"


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_figure_that_was_moved_is_as_one_drawn_anew():
    moved, anew = Level(), Level()
    for x in (2, 9, 5):
        moved.show(x)
        moved.png()
    anew.show(5)
    np.testing.assert_array_equal(pixels(moved.png()), pixels(anew.png()))
    assert pixels(moved.png()).shape[1] == round(7.2 * SCREEN_DPI)


def test_a_kept_figure_that_is_saved_has_what_moves():
    picture = Level()

    def saved() -> np.ndarray:
        data = io.BytesIO()
        picture.figure.savefig(data, format="png", dpi=50)
        return pixels(data.getvalue())

    empty = saved()
    picture.show(5)
    assert (saved() != empty).any()


def test_a_table_has_its_heading_columns_and_cells():
    found = table("Tasks", ["left", "right"], {"overlap": ["+0.10", "−0.20"]})
    assert found.index("Tasks") < found.index(">left<") < found.index(">right<")
    assert found.index("overlap") < found.index("+0.10") < found.index("−0.20")


def test_explorers_need_neither_torch_nor_pandas():
    code = "import sys, fmlora_lab.explorers; sys.exit(bool({'torch', 'pandas'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
