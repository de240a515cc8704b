"""The pages that `make explore` serves: pictures and controls, no code, at any size, for anyone."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe

from fmlora_lab.perf import browser
from fmlora_lab.plots.sheet import PAGE, SMALL

pytestmark = pytest.mark.browser

PICTURE = ".fml-stage:not(.fml-waits) img.fml-front"
LARGE = 24
"""Pixels that a label in a class-room has at least, on a screen of 1920 × 1080."""


@pytest.fixture
def opened(page, voila, name):
    """`opened(width, height)`: the page of an explorer in a window of that size."""

    def at(width: int, height: int, asked: str = ""):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(voila(f"voila/render/{name}.ipynb") + asked)
        page.wait_for_selector(PICTURE)
        page.wait_for_function("document.querySelector('img.fml-front').complete")
        return page

    return at


def box(page, selector: str) -> dict[str, float]:
    return page.locator(selector).first.bounding_box()


def across(page) -> bool:
    """Whether nothing is wider than the window."""
    root = "document.documentElement"
    return page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")


def test_the_first_page_asks_the_questions(page, errors, explorers, voila):
    page.goto(voila(""))
    assert page.locator("a img").count() == len(explorers)
    assert page.get_by_text(".ipynb").count() == 0
    assert violations(page) == []
    page.get_by_role("link", name="40 · Do the tasks write into the same directions?").click()
    page.wait_for_selector(PICTURE)
    errors.clear()  # the browser asks for an icon of the page


def test_an_explorer_without_code(opened, changes):
    page = opened(1280, 1000)
    assert page.locator(".jp-InputArea-editor, .jp-RenderedText").count() == 0
    assert page.get_by_role("heading", name="The picture to print").count() == 0
    with changes():
        browser.nudge(page.locator(".noUi-handle").first)
    assert across(page)


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
def test_all_of_it_is_seen_at_once(opened, width, height):
    page = opened(width, height)
    page.wait_for_function(f"document.querySelector('img.fml-front').height > {0.75 * height}")
    picture, words = box(page, "img.fml-front"), box(page, ".fml-words")
    for part in (picture, words, box(page, ".fml-bar")):
        assert part["x"] >= 0 and part["x"] + part["width"] <= width
        assert part["y"] >= 0 and part["y"] + part["height"] <= height
    assert picture["width"] > 0.6 * width
    assert picture["x"] + picture["width"] <= words["x"]
    assert across(page)


def test_at_twice_the_size_it_scrolls_and_nothing_is_cut(opened):
    page = opened(640, 400)
    assert across(page)
    inside = "e => e.scrollWidth <= e.clientWidth + 1 || getComputedStyle(e).overflowX == 'auto'"
    for part in page.locator(".fml-row, .fml-main, .fml-stage, .fml-words").all():
        assert part.evaluate(inside)
    for selector in ("img.fml-front", ".fml-words"):
        page.locator(selector).scroll_into_view_if_needed()
        part = box(page, selector)
        assert part["x"] >= 0 and part["x"] + part["width"] <= 640


def test_controls_stay_in_sight(opened):
    page = opened(1000, 620)
    page.evaluate("""document.querySelector('.fml-words').insertAdjacentHTML(
        'afterend', '<div style="height: 3000px"></div>')""")
    page.mouse.move(400, 400)
    page.mouse.wheel(0, 900)
    page.wait_for_function(
        "document.querySelector('.fml-front').getBoundingClientRect().top < -200"
    )
    assert 0 <= box(page, ".fml-bar")["y"] < 5


def test_what_it_is_about_is_folded_behind_a_question_mark(opened):
    page = opened(1280, 800)
    hint, about = page.locator(".fml-hint"), page.locator("details.fml-about section")
    assert not hint.is_visible() and not about.is_visible()
    page.get_by_role("button", name="?").click()
    hint.get_by_text("What to look for").wait_for()
    about.wait_for()
    page.get_by_role("button", name="?").click()
    about.wait_for(state="hidden")
    assert not hint.is_visible()


def test_a_class_room_can_read_it(opened):
    page = opened(1920, 1080)
    page.get_by_role("button", name="Projector").click()
    page.wait_for_function("document.querySelector('img.fml-front').width > 1700")
    page.wait_for_function(
        "document.querySelector('img.fml-front').getBoundingClientRect().bottom <= innerHeight"
    )
    assert SMALL / 72 * box(page, "img.fml-front")["width"] / PAGE >= LARGE
    sizes = """all => all.filter(e => e.checkVisibility() && e.textContent.trim())
        .map(e => parseFloat(getComputedStyle(e).fontSize))"""
    said = ".fml-row .widget-label, .fml-row button, .fml-row select, .fml-row .widget-readout, h1"
    said += ", .fml-words th, .fml-words td, .fml-words small, .fml-words p"
    found = page.eval_on_selector_all(said, sizes)
    assert len(found) > 8 and min(found) >= LARGE
    assert across(page)


def test_no_control_is_empty(opened, changes):
    page = opened(1280, 800)
    choices = page.locator(".widget-dropdown select")
    first = choices.first
    for k in range(first.locator("option").count()):
        if k != first.evaluate("choice => choice.selectedIndex"):
            with changes():
                first.select_option(index=k)
        for choice in choices.all():
            assert choice.evaluate("choice => choice.selectedOptions[0]?.text.trim()")


def test_the_address_has_the_state(opened, changes, errors):
    page = opened(1280, 800)
    slider = page.locator(".noUi-handle").first
    with changes():
        browser.nudge(slider)
    said, now = slider.get_attribute("aria-label"), browser.place(slider)[1]
    state = re.search(r"&(run|left)=.*", page.url)
    other = opened(1280, 800, state.group())
    errors.clear()  # Voilà refuses what a page says when it is left
    again = other.get_by_role("slider", name=said, exact=True)
    assert browser.place(again)[1] == now


def violations(page) -> list[str]:
    """What axe-core finds wrong, a line each."""
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]]


def test_it_is_there_for_everyone(opened):
    page = opened(1280, 800)
    page.get_by_role("button", name="?").click()
    page.locator("details.fml-about section").wait_for()
    assert violations(page) == []
    alt = page.locator("img.fml-front").get_attribute("alt")
    assert "In numbers: " in alt and re.search(r"\d", alt.split("In numbers: ")[1])
    for kind in ("slider", "button", "combobox"):
        for control in page.get_by_role(kind).all():
            assert control.get_attribute("aria-label") or control.inner_text().strip()


def test_a_press_on_the_map_of_confusion_shows_its_images(page, changes, voila):
    page.goto(voila("voila/render/44_forgotten.ipynb"))
    page.wait_for_selector(PICTURE)
    before = page.get_by_role("combobox", name="class").input_value()
    map_ = box(page, "img.fml-front")
    with changes():
        page.mouse.click(map_["x"] + 0.3 * map_["width"], map_["y"] + 0.45 * map_["height"])
    page.wait_for_function(
        "before => document.querySelector('select[aria-label=class]').value != before", arg=before
    )
    # in one look: the images are set anew while the notebook answers
    said = page.eval_on_selector_all(".fml-images figure img", "images => images.map(i => i.alt)")
    assert said and all(said)


def test_a_point_that_is_pointed_at_shows_its_image(page, voila):
    page.goto(voila("voila/render/45_features.ipynb"))
    page.wait_for_selector(PICTURE)
    plane, tip = box(page, "img.fml-front"), page.locator(".fml-tip")
    for share in range(15, 60):  # across the middle of the plane
        page.mouse.move(plane["x"] + share / 100 * plane["width"], plane["y"] + plane["height"] / 2)
        if tip.is_visible():
            break
    assert tip.inner_text().strip()
    assert tip.locator("img").get_attribute("src").startswith("data:image/png")
    page.mouse.move(5, 5)
    tip.wait_for(state="hidden")
