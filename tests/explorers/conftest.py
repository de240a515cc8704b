"""Controls are moved as a person would, one after another, and the picture is waited for."""

import re

import pytest


def seen(page) -> str:
    """What a page shows, without the names that an SVG gives its parts anew each time."""
    return re.sub(r'(id="|#)[\w-]+', r"\1", page.picture.back + page.picture.front)


@pytest.fixture(name="seen")
def seen_fixture():
    return seen


@pytest.fixture
def move(page):
    """`move(task=3, ...)`: set controls and wait for the picture; gives it."""

    def set_controls(**values) -> str:
        for name, value in values.items():
            page.controls[name].value = value
        page.wait()
        return seen(page)

    return set_controls
