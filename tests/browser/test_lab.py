"""JupyterLab as `make lab` starts it: where it begins, the explorers, a lesson."""

import ast
import re
from pathlib import Path

import pytest

from fmlora_lab.lessons.exercises import EXERCISES
from fmlora_lab.perf import browser

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]

WENT_WRONG = (
    '[data-mime-type="application/vnd.jupyter.error"], '
    '[data-mime-type="application/vnd.jupyter.stderr"]'
)


def run_to_the_end(page, address) -> None:
    browser.open_notebook(page, address)
    browser.run_all(page)
    page.wait_for_selector("img.fml-lesson, img.fml-front")
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt")
    assert prompts.count()
    for k in range(prompts.count()):
        prompts.nth(k).filter(has_text=re.compile(r"\[\d+\]")).wait_for(state="attached")


def assert_sound(page) -> None:
    """No error or warning from any cell, and nothing wider than the page."""
    assert page.locator(WENT_WRONG).all_inner_texts() == []
    wide = """all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.className)"""
    assert page.eval_on_selector_all(".jp-OutputArea-output", wide) == []


def test_it_begins_with_a_page_that_says_where_to_go(page, lab):
    page.goto(lab(""))
    page.get_by_role("heading", name="FM-LoRA Lab: start here").wait_for()
    page.get_by_role("link", name="10_forgetting").first.click()
    page.get_by_role("heading", name="10 · Forgetting").wait_for()


def test_an_explorer_follows_its_controls(page, changes, lab, name):
    run_to_the_end(page, lab(f"lab/tree/notebooks/{name}.ipynb"))
    assert_sound(page)
    if (play := page.locator(".widget-play button").first).count():
        with changes(3):
            play.click()
        play.click()
    sliders = page.locator(".noUi-handle")
    assert sliders.count() >= 2
    for slider in sliders.all():
        with changes():
            browser.nudge(slider)
    for choice in page.locator(".widget-dropdown select:has(option:nth-of-type(2))").all():
        now = choice.evaluate("choice => choice.selectedIndex")
        for index in (1 if now == 0 else 0, now):
            with changes():
                choice.select_option(index=index)
    assert_sound(page)


def test_a_slider_that_is_dragged_ends_where_it_is_let_go(page, changes, lab):
    run_to_the_end(page, lab("lab/tree/notebooks/41_rank_choice.ipynb"))
    handle = page.locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    with changes():
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 60, y, steps=30)
        page.mouse.up()
    H = page.locator(".widget-slider .widget-readout").first.inner_text()
    assert float(H) > 0.5
    page.get_by_text(f"at H = {H}").wait_for()


def test_a_lesson_trains_again_when_its_control_is_moved(page, changes, lab):
    run_to_the_end(page, lab("lab/tree/notebooks/12_f_lora.ipynb"))
    others = page.locator(CHOICES).first.locator("button:not(.mod-active)")
    value = others.first.inner_text()
    with changes(9):  # three tasks of three epochs, each drawn as it ends
        others.first.click()
        page.get_by_role("status").get_by_text(f"basis rank R {value}: training").wait_for()
    page.get_by_role("status").get_by_text(f"basis rank R {value}: trained").wait_for()
    assert_sound(page)


CHOICES = ".widget-toggle-buttons"


@pytest.mark.parametrize(
    ("lesson", "after"),
    [("10_forgetting", "11 · LoRA"), ("17_heads", "25 · Which part does the work")],
)
def test_a_newcomer_goes_through_a_lesson(page, lab, lesson, after):
    """From its first cell, by its control and every exercise, to the link that leads on."""
    page.set_viewport_size({"width": 1280, "height": 800})
    run_to_the_end(page, lab(f"lab/tree/notebooks/{lesson}.ipynb"))
    assert_sound(page)
    buttons, status = page.locator(CHOICES).first.locator("button"), page.locator(STATUS)
    for k in (1, 0):  # the second is cancelled at once by the first
        buttons.nth(k).click()
    value = buttons.nth(0).inner_text()
    status.filter(has_text=re.compile(f" {value}: train")).wait_for()
    status.filter(has_text=re.compile(f" {value}: trained$")).wait_for()
    exercises = asked(lesson)
    for number, name in enumerate(exercises):
        cell = page.locator(".jp-CodeCell").filter(has_text=f'check("{name}"')
        assert verdict(cell) == "Not answered yet."
        if not number:
            answered(page, cell, f'check("{name}", lambda *arguments: "?")')
            assert verdict(cell).startswith("Not yet. ")
        answered(page, cell, f'{solution(lesson, name)}\n\n\ncheck("{name}", {name})')
        assert verdict(cell) == f"Right. {EXERCISES[name].praise}"
    assert_sound(page)
    page.set_viewport_size({"width": 700, "height": 800})
    assert_sound(page)
    page.get_by_role("link", name=after).click()
    page.get_by_role("heading", name=after).first.wait_for()


STATUS = ".widget-html [role=status]"


def asked(lesson: str) -> list[str]:
    source = (ROOT / "notebooks" / f"{lesson}.ipynb").read_text()
    return re.findall(r'check\(\\"(\w+)', source)


def solution(lesson: str, name: str) -> str:
    """The lines of a lesson's solutions that define this answer."""
    source = (ROOT / "notebooks" / "solutions" / f"{lesson}.py").read_text()
    (found,) = [
        ast.get_source_segment(source, node)
        for node in ast.parse(source).body
        if getattr(node, "name", getattr(getattr(node, "targets", [None])[0], "id", None)) == name
    ]
    return found


def answered(page, cell, code: str) -> None:
    """Type over what stands in a cell, and run it."""
    ran = cell.locator(".jp-InputPrompt").inner_text()
    cell.locator(".cm-content").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(code)
    page.keyboard.press("ControlOrMeta+Enter")
    prompt = cell.locator(".jp-InputPrompt").filter(has_text=re.compile(r"\[\d+\]"))
    prompt.filter(has_not_text=ran).wait_for()


def verdict(cell) -> str:
    said = cell.locator(".jp-OutputArea-output [role=status]")
    said.scroll_into_view_if_needed()
    return said.text_content().strip()
