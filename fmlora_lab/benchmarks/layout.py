"""Which files are of which class, in folders as they come: recognised by what is there.

What belongs to a class and cannot be used is refused; what lies beside the classes and belongs to
none is left out with a word. Hidden files and `SIDECARS` are left out without one.
"""

import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fmlora_lab.config import BadInput, some

SIDECARS = (".txt", ".json", ".csv", ".md", ".db", ".ini")
"""Files that lie beside images and are not meant as images. Any other must be one."""

HIDDEN = ("__MACOSX", "@eaDir")
"""What archivers and file servers leave, beside all that begins with a dot."""

ROLES = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
"""What a split's images are for, by its name in any case."""

ALL = "all"
"""The one role where nothing is split."""

ANNOTATIONS = "val_annotations.txt"
"""Tiny-ImageNet's labels of the images in `images` beside it."""


@dataclass(frozen=True)
class Part:
    """Images of one role, and of one domain where there are several."""

    place: str
    """Where they are, for messages."""
    classes: Mapping[str, Path | list[str]]
    """By the name of a class in NFC: its folder, or its files in any order."""
    what: str = "class folders"

    def spelled(self, name: str) -> str:
        """A class's name as it is written here."""
        of = self.classes[name]
        return of.name if isinstance(of, Path) else name

    def files(self, name: str, at_least: int) -> list[str]:
        """The image files of a class. BadInput where there are fewer than that."""
        of = self.classes[name]
        if isinstance(of, Path):
            return images_in(of, at_least)
        if len(of) < at_least:
            raise BadInput(
                f"{self.place} holds {len(of)} images of {name!r}; expected is at least {at_least}"
            )
        return sorted(of)


@dataclass(frozen=True)
class Seen:
    """What was found on the way to a layout."""

    notes: list[str] = field(default_factory=list)
    """What its user is to know, once nothing is refused."""
    sources: list[Path] = field(default_factory=list)
    """What it depends on beside the folders of its images."""

    def left_out(self, places: Iterable[str], why: str = "lie beside the class folders") -> None:
        if places := list(places):
            self.notes.append(f"left out: {some(places)}, which {why}")


@dataclass(frozen=True)
class Layout:
    """Where the images of a benchmark are."""

    root: Path
    parts: dict[tuple[str, ...], dict[str, Part]]
    """For every domain, `()` where there are none: "train", "test" and, where it was asked for,
    "validation"; or `ALL`."""
    expected: str
    seen: Seen

    def names(self) -> tuple[str, ...]:
        """The classes, which must be the same in every part. A name that is not written alike in
        all of them is in NFC."""
        parts = [part for roles in self.parts.values() for part in roles.values()]
        first = parts[0]
        if len(first.classes) < 2:
            found = f" ({', '.join(first.classes)})" if first.classes else ""
            raise BadInput(
                f"{first.place} has {len(first.classes)} {first.what}{found}, at least 2 are "
                f"needed; expected is {self.expected}"
            )
        for other in parts[1:]:
            for here, there in ((first, other), (other, first)):
                if lonely := sorted(here.classes.keys() - there.classes.keys()):
                    raise BadInput(
                        f"{here.place} and {there.place} must hold the same {here.what}, but only "
                        f"{here.place} has {some(lonely)}; expected is {self.expected}"
                    )
        written = {name: {part.spelled(name) for part in parts} for name in first.classes}
        return tuple(sorted(min(w) if len(w) == 1 else name for name, w in written.items()))


def of_folder(root: Path, with_validation: bool) -> Layout:
    """Of classes: `<root>/{train,test}/<class>`, or `<root>/<class>` where nothing is split."""
    expected = f"{root}/{{train,test}}/<class>/*, {root}/<class>/* or a .csv of paths and labels"
    if not os.path.isdir(root):
        raise BadInput(f"there is no folder {root}; expected is {expected}")
    seen = Seen()
    return Layout(root, {(): _roles(root, with_validation, expected, seen)}, expected, seen)


def of_domains(root: Path, with_validation: bool) -> Layout:
    """Of domains: `<root>/<domain>/<class>` or `<root>/<domain>/{train,test}/<class>`."""
    expected = f"{root}/<domain>/<class>/*, with or without {{train,test}} between the two, "
    expected += "or a .csv with a column domain"
    domains = by_name(root) if os.path.isdir(root) else {}
    if not domains:
        raise BadInput(f"there are no domain folders in {root}; expected is {expected}")
    seen = Seen()
    if all(name.lower() in ROLES for name in domains):
        seen.notes.append(
            f"{some(list(domains))} in {root} are taken for domains; the benchmark folder takes "
            "them for a split"
        )
    seen.left_out(_paths(root, _listed(root)[1]), "lie beside the domains")
    parts = {(d.name,): _roles(d, with_validation, expected, seen) for d in domains.values()}
    check_alike(parts, expected)
    return Layout(root, parts, expected, seen)


def check_alike(parts: dict[tuple[str, ...], dict[str, Part]], expected: str) -> None:
    """BadInput unless all domains are split into the same roles, or none is split."""
    (first, roles), *others = parts.items()
    for domain, found in others:
        if found.keys() != roles.keys():
            here, there = (
                "is not split" if ALL in of else f"has images for {', '.join(of)}"
                for of in (roles, found)
            )
            raise BadInput(
                f"domain {first[0]} {here}, but domain {domain[0]} {there}; expected is {expected}"
            )


def in_roles(
    found: dict[str, Part], with_validation: bool, none_is: str, expected: str, seen: Seen
) -> dict[str, Part]:
    """The parts to train and to test on, and to validate on where that is asked for.

    Where none is for testing, the validation images are. `none_is` says of a role that it is not
    there.
    """
    for role in ("train", "test"):
        if role not in found and (role == "train" or "validation" not in found):
            raise BadInput(f"{none_is.format(role)}; expected is {expected}")
    if "test" not in found:
        place = found["validation"].place
        seen.notes.append(f"{place} is taken for testing, since no other labelled images are")
        return {"train": found["train"], "test": found["validation"]}
    if "validation" in found and not with_validation:
        place = found["validation"].place
        seen.notes.append(f"{place} is left out: it is read where evaluate_on is 'validation'")
    wanted = ("train", "test", *(["validation"] if with_validation else []))
    return {role: found[role] for role in wanted if role in found}


def by_name(folder: Path) -> dict[str, Path]:
    """The folders in a folder by their names in NFC. BadInput where two are one name."""
    found: dict[str, Path] = {}
    for name in _listed(folder)[0]:
        alike = found.setdefault(nfc(name), folder / name)
        if alike.name != name:
            raise BadInput(
                f"{folder} holds two folders whose names are one in Unicode's NFC: "
                f"{alike.name!a} and {name!a}; rename one, or make them one folder"
            )
    return found


def images_in(folder: Path, at_least: int) -> list[str]:
    """The image files of a class folder, or of `images` in it, sorted by name."""
    folders, names = _listed(folder)
    if folders == ["images"] and not names:
        return images_in(folder / "images", at_least)
    if folders:
        raise BadInput(
            f"{folder / folders[0]} is a folder; expected are image files directly in {folder} "
            f"or in {folder / 'images'}"
        )
    if len(names) < at_least:
        raise BadInput(f"{folder} holds {len(names)} images; expected is at least {at_least}")
    start = os.path.join(folder, "")
    return [start + name for name in names]


def nfc(name: str) -> str:
    """Unicode's composed form: file systems may write one name in two ways."""
    return unicodedata.normalize("NFC", name)


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files in a folder, without those that are left out."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in HIDDEN:
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif not entry.name.lower().endswith(SIDECARS):
                    files.append(entry.name)
    except OSError as error:
        raise BadInput(f"{error.filename or folder} cannot be read ({error.strerror})") from error
    return sorted(folders), sorted(files)


def _paths(folder: Path, names: list[str]) -> list[str]:
    return [os.path.join(folder, name) for name in names]


def _roles(folder: Path, with_validation: bool, expected: str, seen: Seen) -> dict[str, Part]:
    """The parts that a folder holds."""
    splits, (folders, files) = _splits(folder), _listed(folder)
    if not splits:
        seen.left_out(_paths(folder, files))
        return {ALL: _part(folder, seen)}
    bare = [path for path in splits.values() if _unlabelled(path)]
    found = {role: _part(path, seen) for role, path in splits.items() if path not in bare}
    if bare and ("train" not in found or len(found) == 1):
        raise BadInput(
            f"the images in {' and '.join(map(str, bare))} have no labels: there are neither class "
            f"folders nor {ANNOTATIONS}; expected is {expected}"
        )
    seen.left_out(map(str, bare), "has no class folders, so that its images have no labels")
    none_is = f"there is no folder {folder}/{{}}, only {some(folders)}"
    if found.keys() == {"train"}:
        none_is += f"; to hold out a share of its images give {splits['train']} itself"
    roles = in_roles(found, with_validation, none_is, expected, seen)
    beside = [name for name in folders if folder / name not in splits.values()]
    beside = _paths(folder, [*beside, *files])
    for part in roles.values():
        beside += _paths(Path(part.place), _listed(Path(part.place))[1])
    seen.left_out(beside)
    seen.sources.extend([*bare, *(path / ANNOTATIONS for path in splits.values())])
    return roles


def _splits(folder: Path) -> dict[str, Path]:
    """The folders of a folder that are its splits, by role; none where they are its classes.

    A class may be called "train": then no other split is there, and it holds images.
    """
    names, found = _listed(folder)[0], {}
    for split, role in ROLES.items():
        for name in sorted(names, key=lambda name: name != split):
            if name.lower() == split:
                found.setdefault(role, folder / name)
    nested = any({*_listed(path)[0]} - {"images"} for path in found.values())
    return found if nested or len(found) > 1 or len(found) == len(names) else {}


def _unlabelled(folder: Path) -> bool:
    folders = _listed(folder)[0]
    return not folders or (folders == ["images"] and not _has_annotations(folder))


def _has_annotations(folder: Path) -> bool:
    return _listed(folder)[0] == ["images"] and (folder / ANNOTATIONS).is_file()


def _part(folder: Path, seen: Seen) -> Part:
    """Of class folders, or of `images` and Tiny-ImageNet's annotations of them."""
    if not _has_annotations(folder):
        return Part(str(folder), by_name(folder))
    notes, images = folder / ANNOTATIONS, images_in(folder / "images", 1)
    there = {file.rpartition(os.sep)[2]: file for file in images}
    classes: dict[str, list[str]] = {}
    for number, line in enumerate(_lines(notes), 1):
        name, _, rest = line.partition("\t")
        label = nfc(rest.partition("\t")[0].strip())
        if not name or not label:
            raise BadInput(
                f"line {number} of {notes} is {line!r}; expected are the name of an image and its "
                "class, with a tab between them"
            )
        if name not in there:
            raise BadInput(
                f"line {number} of {notes} names {name!r}, which is not in {folder / 'images'} or "
                "stands in an earlier line too"
            )
        classes.setdefault(label, []).append(there.pop(name))
    seen.left_out(there.values(), f"have no line in {notes}")
    return Part(str(folder), classes)


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read ({error})") from error
    return text.rstrip("\n").split("\n")
