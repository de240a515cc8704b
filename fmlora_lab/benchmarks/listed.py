"""A CSV of paths and labels: the way for images that no layout of folders fits."""

import csv
import os
from pathlib import Path
from typing import NamedTuple

from fmlora_lab.benchmarks.layout import ALL, ROLES, Layout, Part, Seen, check_alike, in_roles, nfc
from fmlora_lab.config import BadInput

EXPECTED = (
    "a first line that names the columns path and label, and split (train, test, val) and domain "
    "where there are such"
)


class Row(NamedTuple):
    """One image."""

    line: int
    path: str
    label: str
    split: str
    domain: str


def of_list(file: Path, by_domain: bool, with_validation: bool) -> Layout:
    """The images of a CSV; its paths are relative to its folder. BadInput names the line."""
    found: dict[tuple[str, ...], dict[str, dict[str, list[str]]]] = {}
    seen = Seen(sources=[file])
    rows = _rows(file, by_domain, seen)
    split = any(row.split for row in rows)
    for row in rows:
        role = ROLES.get(row.split.lower()) if split else ALL
        if role is None:
            raise BadInput(
                f"line {row.line} of {file} has the split {row.split!r}; allowed: "
                f"{', '.join(ROLES)}"
            )
        of_role = found.setdefault((row.domain,) if by_domain else (), {}).setdefault(role, {})
        of_role.setdefault(row.label, []).append(row.path)
    parts = {}
    for at in sorted(found):
        place = f"{file}, domain {at[0]}" if by_domain else str(file)
        roles = {
            role: Part(f"{place}, {role}" if split else place, of_role, "labels")
            for role, of_role in found[at].items()
        }
        none_is = f"{place} has no line with the split {{}}"
        parts[at] = in_roles(roles, with_validation, none_is, EXPECTED, seen) if split else roles
    check_alike(parts, EXPECTED)
    return Layout(file.parent, parts, EXPECTED, seen)


def _rows(file: Path, by_domain: bool, seen: Seen) -> list[Row]:
    """A row an image, in order; empty where there is no such column."""
    (_, header), *lines = _fields(file)
    columns = [name.strip().lower() for name in header]
    needed = ["path", "label", *(["domain"] if by_domain else [])]
    if not {*needed} <= {*columns} or len({*columns}) < len(columns):
        raise BadInput(f"the first line of {file} is {','.join(header)!r}; expected is {EXPECTED}")
    if ignored := [name for name in columns if name not in (*needed, "split")]:
        seen.notes.append(f"{file}: left out are the columns {', '.join(ignored)}")
    rows: list[Row] = []
    lines_of: dict[str, int] = {}
    for number, fields in lines:
        if len(fields) != len(columns):
            raise BadInput(
                f"line {number} of {file} has {len(fields)} fields, its first {len(columns)}"
            )
        value = dict(zip(columns, fields, strict=True))
        for name in needed:
            if not value[name].strip():
                raise BadInput(f"line {number} of {file} has no {name}")
        path = os.path.normpath(os.path.join(file.parent, value["path"]))
        if (earlier := lines_of.setdefault(path, number)) != number:
            raise BadInput(f"lines {earlier} and {number} of {file} both name {path}")
        domain = value["domain"] if by_domain else ""
        said = (value["label"], value.get("split", ""), domain)
        rows.append(Row(number, path, *(nfc(text.strip()) for text in said)))
    if not rows:
        raise BadInput(f"{file} has no line after its first; expected is one for each image")
    return rows


def _fields(file: Path) -> list[tuple[int, list[str]]]:
    """Every line that is not empty with its number, cut at commas, semicolons or tabs."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            delimiter = max(",;\t", key=text.readline().count)
            text.seek(0)
            reader = csv.reader(text, delimiter=delimiter, skipinitialspace=True, strict=True)
            found = [(reader.line_num, fields) for fields in reader if any(fields)]
    except (OSError, UnicodeError, csv.Error) as error:
        raise BadInput(f"{file} cannot be read as CSV in UTF-8 ({error})") from error
    if not found:
        raise BadInput(f"{file} is empty; expected is {EXPECTED}")
    if any("\0" in field for _, fields in found for field in fields):
        raise BadInput(f"{file} holds null characters, so it is no CSV in UTF-8")
    return found
