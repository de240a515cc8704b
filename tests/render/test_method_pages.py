"""Every method's page says what its code says, and the documentation has them all."""

from pathlib import Path

import pytest

from fmlora_lab.config import MethodSettings
from fmlora_lab.methods.registry import in_order
from fmlora_lab.render.method_pages import every, page, rows

pytestmark = pytest.mark.unit


def test_the_document_is_that_of_the_code():
    stored = Path(__file__).parents[2] / "docs" / "methods.md"
    assert stored.read_text("utf-8") == every(), "fmlora-lab methods all > docs/methods.md"


@pytest.mark.parametrize("name", in_order())
def test_a_page_has_the_method_s_title_and_every_setting(name):
    text = page(name)
    assert text.startswith("## ") and f"(`{name}`)" in text.splitlines()[0]
    settings = MethodSettings.known[name]
    for key, field in settings.model_fields.items():
        assert key == "name" or f"`method.{field.alias or key}" in text


def test_nested_settings_stand_by_their_dotted_names():
    assert any("`method.drs.tau`" in row for row in rows(MethodSettings.known["fm-lora"], "method"))


def test_the_command_line_prints_a_page(call):
    code, said, _ = call("methods", "inflora")
    assert code == 0 and said == page("inflora")


def test_an_unknown_method_is_one_sentence(call):
    code, _, said = call("methods", "inflor")
    assert code == 2
    assert "method is 'inflor'; allowed: all, " in said and "inflora" in said
