"""JupyterLab as `make lab` starts it: where it begins, the explorers, a lesson."""

import re

import pytest

from fmlora_lab.perf import browser

pytestmark = pytest.mark.browser

WENT_WRONG = (
    '[data-mime-type="application/vnd.jupyter.error"], '
    '[data-mime-type="application/vnd.jupyter.stderr"]'
)


def run_to_the_end(page, address) -> None:
    browser.open_notebook(page, address)
    browser.run_all(page)
    page.wait_for_selector("img.widget-image")
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
    value = page.locator(".widget-toggle-buttons button:not(.mod-active)").first.inner_text()
    with changes(9):  # three tasks of three epochs, each drawn as it ends
        page.locator(f".widget-toggle-buttons button >> text='{value}'").click()
    page.locator(".widget-toggle-buttons button.mod-active:not([disabled])").wait_for()
    assert page.locator(".widget-toggle-buttons button.mod-active").inner_text() == value
    assert_sound(page)
