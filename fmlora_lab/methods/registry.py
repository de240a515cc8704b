"""Every method of the lab, registered: importing this module imports each page of this package."""

import pkgutil
from importlib import import_module

from fmlora_lab import methods
from fmlora_lab.config import FAMILIES
from fmlora_lab.methods.method import METHODS, Method, Record, build, register

__all__ = ["METHODS", "Method", "Record", "build", "in_order", "register"]

for page in pkgutil.walk_packages(methods.__path__, f"{methods.__name__}."):
    import_module(page.name)


def in_order() -> list[str]:
    """Names of all registered methods as tables list them: by family, the newest first, what sees
    the whole stream at once at the end."""

    def place(name: str) -> tuple:
        record = METHODS[name].record
        family = FAMILIES.index(record.family) if record.family in FAMILIES else len(FAMILIES)
        newest_first = -int(record.since.replace("-", "") or 0)
        return family, record.family, record.one_task, newest_first, name

    return sorted(METHODS, key=place)
