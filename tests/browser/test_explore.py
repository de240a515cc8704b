"""The pages that `make explore` serves: pictures and controls, no code."""

import pytest

from fmlora_lab.perf import browser

pytestmark = pytest.mark.browser


def test_the_first_page_lists_the_explorers(page, errors, explorers, voila):
    page.goto(voila(""))
    assert len(explorers) == 4
    for name in explorers:
        page.get_by_text(f"{name}.ipynb").wait_for()
    errors.clear()  # on this page of its own Voilà starts plugins that want a kernel


def test_an_explorer_without_code(page, changes, voila, name):
    page.goto(voila(f"voila/render/{name}.ipynb"))
    page.wait_for_selector("img.widget-image")
    assert page.locator(".jp-InputArea-editor, .jp-RenderedText").count() == 0
    assert page.get_by_role("heading", name="The picture to print").count() == 0
    with changes():
        browser.nudge(page.locator(".noUi-handle").first)
    across = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.evaluate(across)
