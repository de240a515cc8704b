"""Whatever befalls a stored run's files is named by file, or changes nothing that is read."""

import random
from pathlib import Path

import numpy as np
import pytest

from fmlora_lab import run
from fmlora_lab.config import BadInput
from fmlora_lab.runs import run as run_module
from fmlora_lab.runs.folder import DamagedFile, FolderKeeper, RunFolder, sealed, sealed_arrays
from fmlora_lab.runs.stored import Run, stored_run

pytestmark = pytest.mark.train

DAMAGES = 600


def everything(root: Path, names: list[str]) -> list:
    """All that can be read of runs."""
    found = []
    for name in names:
        stored = stored_run(RunFolder(root, name))
        stored.check()
        arrays = [stored.task(0), stored.task(1), *map(dict, map(enumerate, kept(stored)))]
        arrays += [stored.folder.read_arrays("checkpoint.safetensors")[0]]
        arrays += [stored.derived_arrays("more", lambda: MORE)]
        found += [stored.config, stored.environment, stored.result, stored.progress()]
        found += [stored.derived("few", lambda: FEW)]
        found += [{key: array.tobytes() for key, array in some.items()} for some in arrays]
    return found


FEW, MORE = {"of": [1, 2.5]}, {"x": np.arange(6.0)}


def kept(stored: Run) -> list[list[np.ndarray]]:
    return [stored.features(0), stored.features(1)]


def damaged(files: dict[str, bytes], draw: random.Random) -> tuple[dict[str, bytes | None], str]:
    """Other contents of a file or two (None where one is lost), and what was done."""
    one, other = draw.sample(sorted(files), 2)
    content = bytearray(files[one])
    place = draw.randrange(len(content))
    match draw.choice(["bit", "cut", "zeros", "added", "lost", "swapped", "copied", "line"]):
        case "bit":
            content[place] ^= 1 << draw.randrange(8)
        case "cut":
            del content[place:]
        case "zeros":
            end = min(len(content), place + draw.randrange(1, 4097))
            content[place:end] = bytes(end - place)
        case "added":
            place = draw.choice([place, len(content)])
            content[place:place] = draw.choice([b"\n", b" ", bytes(9), draw.randbytes(30)])
        case "lost":
            return {one: None}, f"{one} is lost"
        case "swapped":
            return {one: files[other], other: files[one]}, f"{one} and {other} are swapped"
        case "copied":
            return {one: files[other]}, f"{other} is at {one}"
        case "line":
            lines = bytes(content).splitlines(keepends=True)
            a, b = draw.randrange(len(lines)), draw.randrange(len(lines))
            changed = draw.choice([lines[:a], lines[a:], lines[:a] + lines[a + 1 :]])
            lines[a], lines[b] = lines[b], lines[a]
            content = b"".join(draw.choice([changed, lines]))
    return {one: bytes(content)}, f"{one} is changed at {place}"


@pytest.fixture
def two(tiny_config, tmp_path):
    """A runs folder with two runs that differ in their seed alone, all kinds of files in them."""
    root = tmp_path / "runs"
    runs = [run(tiny_config("lora", seed=seed), root, keep_features=True) for seed in (0, 1)]
    for stored in runs:
        stored.derived("few", lambda: FEW)
        stored.derived_arrays("more", lambda: MORE)
    return root, [stored.id for stored in runs]


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.glob("*/**/*") if p.is_file()}


def put(root: Path, files: dict[str, bytes | None]) -> None:
    for name, content in files.items():
        if content is None:
            (root / name).unlink()
        else:
            (root / name).write_bytes(content)


def test_whatever_is_damaged_is_named_or_harmless(two):
    root, names = two
    files, expected, draw = contents(root), everything(root, names), random.Random(0)
    assert len(files) == 2 * 11
    told = 0
    for _ in range(DAMAGES):
        changed, what = damaged(files, draw)
        put(root, changed)
        try:
            assert everything(root, names) == expected, what
        except DamagedFile as error:
            assert str(error.file.relative_to(root)) in changed, what
            told += 1
        except BadInput as error:
            assert "is not complete" in str(error) and "result.json is lost" in what, what
        put(root, {name: files[name] for name in changed})
    assert told > DAMAGES / 2
    assert everything(root, names) == expected


def of_the_content_alone(root: Path, names: list[str]) -> None:
    """Seal every file as older versions did."""
    for folder in (RunFolder(root, name) for name in names):
        for file in folder.path.rglob("*.json"):
            name = str(file.relative_to(folder.path))
            file.write_bytes(sealed(folder.read_json(name), None))
        for file in folder.path.rglob("*.safetensors"):
            name = str(file.relative_to(folder.path))
            file.write_bytes(sealed_arrays(*folder.read_arrays(name), None))
        lines = folder.read_progress()
        (folder.path / "progress.jsonl").write_bytes(
            b"".join(sealed(line, None, None) for line in lines)
        )


def test_seals_of_older_runs_are_checked_as_far_as_they_say(two):
    root, names = two
    expected = everything(root, names)
    of_the_content_alone(root, names)
    assert everything(root, names) == expected
    files = contents(root)
    first, second = (f"{name}/" for name in names)
    described = ["config.json", "environment.json", "result.json"]
    swaps = [(first + a, first + b) for a in described for b in described if a != b]
    swaps += [(first + "result.json", second + "result.json")]
    for one, other in swaps:
        put(root, {one: files[other], other: files[one]})
        with pytest.raises(DamagedFile, match="it is another file"):
            everything(root, names)
        put(root, files)
    for changed in ({first + "progress.jsonl": None}, {first + "progress.jsonl": b""}):
        put(root, changed)
        with pytest.raises(DamagedFile, match=r"progress\.jsonl is damaged \(4 of 4 epochs"):
            everything(root, names)
        put(root, files)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("file", ["checkpoint.safetensors", "progress.jsonl", "config.json",
                                  "environment.json", "tasks/00.safetensors"])  # fmt: skip
@pytest.mark.parametrize("kind", ["lost", "cut", "another's"])
def test_a_damaged_half_done_run_is_named_or_goes_on_to_the_same(
    tiny_config, tmp_path, monkeypatch, same_run, file, kind
):
    config = tiny_config("lora")
    whole = run(config, tmp_path / "whole")
    other = run(tiny_config("lora", seed=1), tmp_path / "whole")

    class Stopping(FolderKeeper):
        def log(self, line):
            super().log(line)
            if line["task"] == 1:
                raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(run_module, "FolderKeeper", Stopping)
        run(config, tmp_path / "half")
    place = tmp_path / "half" / whole.id / file
    changed = {
        "lost": None,
        "cut": place.read_bytes()[:-9],
        "another's": (other.folder.path / file).read_bytes(),
    }
    put(place.parent, {place.name: changed[kind]})
    try:
        same_run(run(config, tmp_path / "half"), whole)
    except DamagedFile as error:
        assert error.file == place
        assert not (tmp_path / "half" / whole.id / "result.json").exists()
    else:
        assert file in ("config.json", "environment.json") or (file, kind) == (
            "checkpoint.safetensors",
            "lost",
        )
