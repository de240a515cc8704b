"""What all explorers share: redrawing keeps up, sentences stand in for pictures, no torch."""

import io
import re
import subprocess
import sys
from threading import Event

import numpy as np
import pytest
from ipywidgets import Dropdown, IntSlider
from matplotlib.lines import Line2D
from PIL import Image

from fmlora_lab.config import BadInput
from fmlora_lab.explorers.explorer import Explorer, in_words, table
from fmlora_lab.plots.screen import HIGHEST, LOWEST, Marks, Screen
from fmlora_lab.plots.sheet import EDGE

pytestmark = pytest.mark.unit


class Level(Screen):
    """One line at a height that moves."""

    def __init__(self):
        super().__init__(1.5)
        axis = self.place(0.5, 0.5, 5, 0.8)
        axis.set_ylim(0, 10)
        self.line = self.moves(axis.axhline(0))
        self.headline(axis)

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


def test_a_move_changes_the_picture_and_the_words(level, seen):
    picture, draw, drawn = level
    page, slider = explorer(draw)
    before = seen(page)
    slider.value = 4
    page.wait()
    assert drawn == [1, 4] and page.words.value == "<b>4</b>"
    assert seen(page) != before
    assert list(picture.line.get_ydata()) == [4, 4]
    slider.value = 1
    page.wait()
    assert seen(page) == before


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
    assert page.words.value == "seven has no picture" and page.picture.layout.display == "none"
    slider.value = 8
    page.wait()
    assert page.words.value == "<b>8</b>" and page.picture.layout.display is None


def test_what_takes_long_is_announced(level):
    _, draw, _ = level
    slider, shown = IntSlider(1, 0, 10), []
    page = Explorer({"x": slider}, draw, [(slider,)], "", waiting=lambda x: "soon" * (x == 2))
    page.words.observe(lambda change: shown.append(change["new"]), "value")
    for x in (2, 3):
        slider.value = x
        page.wait()
    assert shown == ["soon", "<b>2</b>", "<b>3</b>"]


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


def test_the_picture_is_told_in_words(level):
    page, slider = explorer(level[1])
    slider.value = 4
    page.wait()
    assert page.picture.alt == "level 4. In numbers: 4."


def test_a_table_is_read_row_by_row():
    found = table("Tasks", ["left"], {"over&lt;lap": ["+0.10"], "angle": ["3°"]})
    assert in_words(found) == "Tasks, left; over<lap, +0.10; angle, 3°"


def test_what_to_look_for_is_folded_behind_a_question_mark(level):
    page, _ = explorer(level[1])
    help_on, projector = buttons(page)
    assert page.look.value.endswith("the level") and page.look.layout.display == "none"
    help_on.value = True
    assert page.look.layout.display is None and page.picture.helped
    assert [button.description for button in (help_on, projector)] == ["?", "Projector"]


def test_the_projector_is_a_look_of_the_page(level):
    page, _ = explorer(level[1])
    _, projector = buttons(page)
    projector.value = True
    assert "fml-projector" in page.widget._dom_classes
    projector.value = False
    assert "fml-projector" not in page.widget._dom_classes


def buttons(page):
    bar, _ = page.widget.children
    return bar.children[0].children[-1].children


def test_hints_can_follow_the_controls(level):
    slider = IntSlider(1, 0, 10)
    page = Explorer({"x": slider}, level[1], [(slider,)], lambda x: f"at {x}")
    assert page.look.value.endswith("at 1")
    slider.value = 3
    page.wait()
    assert page.look.value.endswith("at 3")


def test_the_picture_follows_the_room_that_the_page_has(level, seen):
    picture, draw, _ = level
    page, _ = explorer(draw)
    before = seen(page)
    page.picture.room = [0.8, 1]
    page.wait()
    assert picture.height == pytest.approx(7.2 * 0.8, abs=0.03) and seen(page) != before
    assert 'height="414' in page.picture.back and 'height="414' in page.picture.front
    explorer(draw)  # of another page, which has not said yet
    assert picture.height == 1.5 and seen(page) != before


def test_a_press_is_told_in_the_pictures_data(level):
    picture, draw, _ = level
    slider, told = IntSlider(1, 0, 10), []
    page = Explorer({"x": slider}, draw, [(slider,)], "", press=lambda *at: told.append(at))
    assert page.picture.pressable
    axis = picture.line.axes
    x, y = picture.figure.transFigure.inverted().transform(axis.transData.transform((0.5, 7)))
    page.picture.pressed = [x, 1 - y, 1]
    page.picture.pressed = [0.0, 0.0, 2]  # beside all axes
    ((where, *at),) = told
    assert where is axis and at == pytest.approx([0.5, 7])


@pytest.fixture
def on_page(monkeypatch):
    """`on_page("x=3")`: as if Voilà had been asked for a page with that in its address."""

    def asked(query: str) -> None:
        monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5")
        monkeypatch.setenv("QUERY_STRING", query)

    return asked


def test_a_pages_address_has_its_state_and_begins_with_it(level, on_page):
    on_page("x=4&token=abc")
    page, slider = explorer(level[1])
    assert slider.value == 4 and page.picture.address == {"x": "4"}
    slider.value = 5
    page.wait()
    assert page.picture.address == {"x": "5"}


def test_no_other_address_is_touched(level, monkeypatch):
    monkeypatch.setenv("QUERY_STRING", "x=4")
    page, slider = explorer(level[1])
    assert slider.value == 1 and page.picture.address == {}


@pytest.mark.parametrize(
    ("query", "refused"),
    [
        ("x=11", "the address has x=11; allowed: 0 to 10"),
        ("x=<b>", "the address has x=&lt;b&gt;; allowed: 0 to 10"),
        ("y=c", "the address has y=c; allowed: a, b"),
    ],
)
def test_an_address_that_asks_for_what_is_not_there_is_told(level, on_page, query, refused):
    on_page(query)
    slider, choice = IntSlider(1, 0, 10), Dropdown(options=["a", "b"])
    draw = level[1]
    page = Explorer({"x": slider, "y": choice}, lambda x, y: draw(x), [(slider, choice)], "")
    assert (slider.value, choice.value) == (1, "a") and f"<p>{refused}</p>" in page.words.value


def test_later_controls_are_set_when_they_have_their_range(level, on_page):
    on_page("x=9&y=8")
    x, y = IntSlider(1, 0, 10), IntSlider(0, 0, 3)

    def adjust():
        y.max = x.value

    page = Explorer({"x": x, "y": y}, lambda x, y: level[1](y), [(x, y)], "", adjust)
    assert (x.value, y.value) == (9, 8) and "address" not in page.words.value


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def same_names(svg: str) -> str:
    return re.sub(r'(id="|#)[\w-]+', r"\1", svg)


def test_a_figure_that_was_moved_is_as_one_drawn_anew():
    moved, anew = Level(), Level()
    for x in (2, 9, 5):
        moved.show(x)
        moved.svg()
    anew.show(5)
    assert [same_names(s) for s in moved.svg()] == [same_names(s) for s in anew.svg()]


def test_what_stays_is_drawn_once():
    picture = Level()
    picture.show(1)
    (back, front), _ = picture.svg(), picture.show(2)
    assert picture.svg()[0] is back and picture.svg()[1] != front
    assert same_names(picture.svg()[1]) != same_names(front)


@pytest.mark.parametrize("mark", ["o", "s", "^", "P"])
def test_marks_in_one_shape_look_as_marks(mark):
    """As matplotlib draws them one by one, but for the edges of pixels."""
    look = {"linestyle": "none", "color": "red", "markeredgecolor": "blue", "markersize": 30}
    spots, drawn = ([0.1, 0.5, 0.8], [2, 8, 5]), []
    for kind, at in ((Line2D, ([], [])), (Line2D, spots), (Marks, spots)):
        picture, data = Level(), io.BytesIO()
        picture.line.axes.add_line(kind(*at, marker=mark, **look))
        picture.figure.savefig(data, format="png", dpi=100)
        drawn.append(pixels(data.getvalue()).astype(float))
    nothing, line, marks = drawn
    assert np.abs(line - marks).mean() < 0.3 * np.abs(line - nothing).mean()


class Two(Screen):
    """Axes over each other, and tall ones beside them."""

    def __init__(self):
        super().__init__(5)
        self.low, self.high = self.place(0.5, 0.5, 3, 1.5), self.place(0.5, 2.7, 3, 1.5)
        self.tall = self.place(4, 0.5, 3, 3.7)
        self.headline(self.tall)


@pytest.mark.parametrize("height", [3.5, 5, 6.2])
def test_axes_take_up_the_room_and_margins_stay(height):
    picture = Two()
    picture.fit(height)

    def spans(axis):
        box = axis.get_position()
        return box.y0 * height, box.y1 * height

    (low, middle), (above, high) = spans(picture.low), spans(picture.high)
    assert picture.figure.get_figheight() == pytest.approx(height)
    assert [low, above - middle, height - high] == pytest.approx([0.5, 0.7, 0.8])
    assert middle - low == pytest.approx(high - above)
    assert spans(picture.tall) == pytest.approx((low, high))
    assert picture.said.get_position()[1] * height == pytest.approx(height - EDGE)


def test_it_is_neither_too_flat_nor_too_high():
    picture = Two()
    for asked, wanted in ((1, LOWEST), (20, HIGHEST), (None, 5)):
        picture.fit(asked)
        assert picture.height == pytest.approx(wanted)


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
