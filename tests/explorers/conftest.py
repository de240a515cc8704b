"""Controls are moved as a person would, one after another, and the picture is waited for."""

import pytest


@pytest.fixture
def move(page):
    """`move(task=3, ...)`: set controls and wait for the picture; gives its bytes."""

    def set_controls(**values) -> bytes:
        for name, value in values.items():
            page.controls[name].value = value
        page.wait()
        return page.image.value

    return set_controls
