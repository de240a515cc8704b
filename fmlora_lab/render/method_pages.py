"""A method for readers: what its module says of it, its settings, the published ones."""

import inspect
import sys
from typing import Any

from fmlora_lab.config import MethodSettings, Settings
from fmlora_lab.methods.registry import METHODS, in_order

HEAD = """# The methods

A section a method, in the order of the tables: its equations, where they come from, what was
published, what is the lab's own. `fmlora-lab methods NAME` prints one. This file is made from the
code: `fmlora-lab methods all > docs/methods.md`.
"""


def page(name: str) -> str:
    """A method's section, in Markdown."""
    record, module = METHODS[name].record, sys.modules[METHODS[name].__module__]
    facts = [f"*{record.family}*: {record.what}", record.source]
    settings = rows(MethodSettings.known[name], "method")
    parts = [
        f"## {record.title} (`{name}`)",
        ". ".join(fact for fact in facts if fact) + ".",
        inspect.cleandoc(module.__doc__ or ""),
        "\n".join(["| setting | default | |", "|---|---|---|", *settings]) if settings else "",
        _published(record.paper),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def rows(settings: type[Settings], at: str) -> list[str]:
    """Lines of a table: every setting but the name, nested ones by their dotted names."""
    found = []
    for key, field in settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, Settings):
            found += rows(type(default), f"{at}.{key}")
        elif key != "name":
            said = " ".join((field.description or "").split()).replace("|", "\\|")
            found.append(f"| `{at}.{field.alias or key}` | {_shown(default)} | {said} |")
    return found


def every() -> str:
    """All sections as one document."""
    return "\n".join([HEAD, *map(page, in_order())])


def _published(paper: Any) -> str:
    said = ", ".join(f"`{key}={_shown(value)}`" for key, value in paper.items())
    return f"Published, as `--preset paper` takes them: {said}." if said else ""


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
