"""An archive is a runs folder in one file: the same to read, never the same with another byte."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fmlora_lab import RunConfig, grid, identity
from fmlora_lab.analysis.experts import of_two_towers
from fmlora_lab.analysis.overlap import related
from fmlora_lab.config import BadInput
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.runs import archive
from fmlora_lab.runs.archive import archived, collections, prepared, ship, shipped, use_shipped
from fmlora_lab.runs.folder import RECORDS, DamagedFile, RunFolder
from fmlora_lab.runs.frame import frame
from fmlora_lab.runs.stored import Run, delete, find_run, load_runs, run_folder, stored_run
from fmlora_lab.runs.triangles import UPPER

pytestmark = pytest.mark.unit

READ = {"fm-lora": METHODS["fm-lora"].record.ships}


@pytest.fixture
def folder(tmp_path):
    """A runs folder of two runs, of which one has something that was derived."""
    with zipfile.ZipFile(Path(__file__).parent / "data" / "of_version_0_1.zip") as content:
        content.extractall(tmp_path / "old", [n for n in content.namelist() if n[:5] == "runs/"])
    for stored in load_runs(tmp_path / "old" / "runs"):
        if stored.method_name == "fm-lora":
            stored.derived("few", lambda: {"of": [1, 2.5]})
            stored.derived_arrays("more", lambda: {"x": np.arange(6.0).reshape(2, 3)})
    return tmp_path / "old" / "runs"


@pytest.fixture
def path(folder, tmp_path):
    """The same runs in an archive."""
    return ship(load_runs(folder), tmp_path / "few.zip", READ)


# --- what is written ------------------------------------------------------------------------------


def test_the_same_runs_give_the_same_bytes_in_whatever_order_and_steps(folder, path, tmp_path):
    one, other = load_runs(folder)
    for file in folder.rglob("*"):
        os.utime(file, (1, 1))
    turned = ship([other, one], tmp_path / "turned.zip", READ)
    ship([other], tmp_path / "steps.zip", READ)
    steps = ship([one], tmp_path / "steps.zip", READ)
    again = ship(load_runs(steps), tmp_path / "again.zip", {})
    for same in (turned, steps, again):
        assert same.read_bytes() == path.read_bytes()
        assert same.with_suffix(".csv").read_bytes() == path.with_suffix(".csv").read_bytes()


def test_the_table_beside_it_has_a_row_a_run(folder, path):
    table = pd.read_csv(path.with_suffix(".csv"), index_col="run")
    runs = {stored.id: stored for stored in load_runs(folder)}
    assert list(table.index) == sorted(runs)
    for name, row in table.iterrows():
        result = runs[name].result
        assert row["method.name"] == runs[name].method_name and row["training.epochs"] == 2
        assert row["acc by trained"] == pytest.approx(result["heads"]["trained"]["acc"], abs=1e-3)
        assert row["acc by means"] == pytest.approx(result["heads"]["means"]["acc"], abs=1e-3)
        assert row["kept_parameters"] == result["kept_parameters"]


def test_of_a_methods_records_goes_what_its_readers_open(folder, tmp_path):
    """By method: another's array of the same name stays."""
    for stored in load_runs(folder):
        arrays = {"prompts": np.linspace(0, 1, 512), "H": np.full(1, 1 / 3), "U": np.ones(4)}
        for task in range(2):
            stored.folder.write_arrays(f"tasks/{task:02d}.safetensors", arrays, {})
    path = ship(load_runs(folder), tmp_path / "few.zip", {"fm-lora": ("prompts", "H")})
    found = {stored.method_name: stored for stored in load_runs(path)}
    assert found["lora"].task(0) == {} and set(found["fm-lora"].task(1)) == {"prompts", "H"}
    assert found["fm-lora"].task(1)["prompts"].dtype == np.float16  # large ones at half their size
    np.testing.assert_array_equal(found["fm-lora"].task(1)["H"], np.full(1, 1 / 3))
    with zipfile.ZipFile(path) as content:
        assert not [name for name in content.namelist() if "checkpoint" in name or "tasks" in name]


def test_a_shipped_configuration_names_no_folder_of_its_machine(folder, tmp_path):
    (stored, _) = load_runs(folder)
    stored.config["benchmark"]["data"] = "/home/someone/images"
    stored.config["backbone"]["weights"] = "/home/someone/vit.safetensors"
    (there,) = load_runs(ship([stored], tmp_path / "few.zip", READ))
    assert there.config["benchmark"]["data"] == "images"
    assert there.config["backbone"]["weights"] == "vit.safetensors"
    assert "someone" not in json.dumps([there.config, there.environment])
    assert "someone" not in (tmp_path / "few.csv").read_text()


# --- what is read ---------------------------------------------------------------------------------


def test_it_reads_as_the_folder_does(folder, path):
    for here, there in zip(load_runs(folder), load_runs(path), strict=True):
        there.check()
        assert there.id == here.id and there.config == here.config and there.result == here.result
        assert there.label == here.label and there.method_name == here.method_name
        assert there.environment == here.environment | {"method": here.label._asdict()}
        np.testing.assert_array_equal(there.accuracy_matrix, here.accuracy_matrix)
        for task in range(2):
            whole = here.task(task)
            kept = there.task(task)
            assert set(kept) == set(READ.get(here.method_name, ())) & set(whole)
            for name, array in kept.items():
                np.testing.assert_allclose(array, whole[name], rtol=1e-3, atol=1e-4)
        assert there.folder.derived_files() == here.folder.derived_files()
        assert there.progress() == []
        assert there.shipped and not here.shipped and there != here and there == Run(there.folder)
    tables = [
        frame([({"method": r.method_name}, r) for r in load_runs(where)]).drop(columns="run")
        for where in (folder, path)
    ]
    pd.testing.assert_frame_equal(*tables)


def test_what_was_derived_is_there_and_more_is_refused(path):
    (run,) = (stored for stored in load_runs(path) if stored.method_name == "fm-lora")
    assert run.derived("few", lambda: 1 / 0) == {"of": [1, 2.5]}
    np.testing.assert_array_equal(
        run.derived_arrays("more", lambda: 1 / 0)["x"], np.arange(6.0).reshape(2, 3)
    )
    for derive in (run.derived, run.derived_arrays):
        with pytest.raises(BadInput, match="'other' needs; compute it anew with --fresh"):
            derive("other", lambda: {})


def test_what_was_derived_goes_in_fewer_digits_but_for_what_explorers_draw(folder, tmp_path):
    (run,) = (stored for stored in load_runs(folder) if stored.method_name == "fm-lora")
    run.derived("thirds", lambda: {"of": [1 / 3, 12345678], "name": "a third"})
    thirds = np.full(2, 1 / 3, np.float32)
    for name in ("thirds", "relations"):
        run.derived_arrays(name, lambda: {"of": thirds, "counted": np.full(2, 123456)})
    (there,) = load_runs(ship([run], tmp_path / "few.zip", READ))
    assert there.derived("thirds", dict) == {"of": [0.33333, 12345678], "name": "a third"}
    for name, size in {"thirds": 2, "relations": 4}.items():
        assert there.derived_arrays(name, dict)["of"].dtype.itemsize == size
        np.testing.assert_allclose(there.derived_arrays(name, dict)["of"], thirds, rtol=3e-4)
        np.testing.assert_array_equal(there.derived_arrays(name, dict)["counted"], 123456)
    again = ship(load_runs(tmp_path / "few.zip"), tmp_path / "again.zip", READ)
    assert again.read_bytes() == (tmp_path / "few.zip").read_bytes()


def test_symmetric_tables_go_by_half_and_are_read_whole(folder, tmp_path):
    (run,) = (stored for stored in load_runs(folder) if stored.method_name == "fm-lora")
    table = np.add.outer(np.arange(40.0), np.arange(40.0))
    run.derived("pairs", lambda: {"of": table.tolist()})
    run.derived_arrays("pairs", lambda: {"of": table})
    written = ship([run], tmp_path / "pairs.zip", READ)
    with zipfile.ZipFile(written) as content:
        assert content.getinfo(f"{run.id}/derived/pairs.safetensors").file_size < table.size * 2
        assert UPPER.encode() in content.read(f"{run.id}/derived/pairs.json")
    (there,) = load_runs(written)
    assert there.derived("pairs", dict) == {"of": table.tolist()}
    np.testing.assert_array_equal(there.derived_arrays("pairs", dict)["of"], table)


def test_a_run_is_found_by_the_beginning_of_its_name(folder, path):
    names = [stored.id for stored in load_runs(folder)]
    for name in names:
        assert stored_run(find_run(name[:4], path)).id == name
    with pytest.raises(BadInput, match=r"run 'zz' in .*few\.zip: no run's name begins so"):
        find_run("zz", path)
    with pytest.raises(BadInput, match=f"it could be {names[0]}, {names[1]}"):
        find_run("", path)
    assert run_folder(names[0], path).complete and not run_folder("0" * 16, path).complete


def test_nothing_is_written_or_deleted_in_it(path):
    before = path.read_bytes()
    (one, _) = load_runs(path)
    folder = find_run(one.id, ship([one], path.with_name("one.zip"), READ))
    for change in (
        lambda: delete(folder),
        lambda: folder.write_json("result.json", {}),
        lambda: folder.write_arrays("derived/x.safetensors", {}, {}),
    ):
        with pytest.raises(BadInput, match=r"one\.zip is an archive, in which no run is written"):
            change()
    assert path.read_bytes() == before and folder.complete


def test_it_is_opened_again_when_it_changes(folder, tmp_path):
    one, other = load_runs(folder)
    path = ship([one], tmp_path / "few.zip", READ)
    assert list(archived(path)) == [one.id]
    ship([other], path, READ)
    os.utime(path, (1, 1))  # a clock may be too coarse to tell
    assert list(archived(path)) == sorted([one.id, other.id])


# --- what is damaged ------------------------------------------------------------------------------


def contents(path):
    """Everything that can be read of an archive."""
    found = {}
    for stored in load_runs(path):
        stored.check()
        derived = {
            name: stored.folder.read_json(name)
            if name.endswith("json")
            else {k: v.tobytes() for k, v in stored.folder.read_arrays(name)[0].items()}
            for name in stored.folder.derived_files()
        }
        tasks = [{k: v.tobytes() for k, v in stored.task(t).items()} for t in range(2)]
        found[stored.id] = stored.config, stored.environment, stored.result, derived, tasks
    return found


def test_an_archive_that_is_not_there_or_is_none_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"there is no archive .*none\.zip"):
        load_runs(tmp_path / "none.zip")
    (tmp_path / "words.zip").write_text("these are words")
    with pytest.raises(DamagedFile, match=r"words\.zip is damaged \(.*\); restore it$"):
        load_runs(tmp_path / "words.zip")


def test_wherever_it_is_cut_it_is_named(path, tmp_path):
    whole, cut = path.read_bytes(), tmp_path / "cut.zip"
    for number, size in enumerate(np.linspace(0, len(whole) - 1, 40).astype(int)):
        cut.write_bytes(whole[:size])
        os.utime(cut, (number, number))
        with pytest.raises(DamagedFile, match=r"cut\.zip"):
            contents(cut)


def test_no_flipped_bit_is_read_as_something_else(path, tmp_path):
    whole, expected, flipped = path.read_bytes(), contents(path), tmp_path / "flipped.zip"
    rng, named = np.random.default_rng(0), 0
    central = whole.index(b"PK\x01\x02")  # the list of entries; before it stand their contents
    places = [*rng.integers(0, central, 100), *rng.integers(central, len(whole), 200)]
    for number, place in enumerate(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        flipped.write_bytes(damaged)
        os.utime(flipped, (number, number))
        try:
            found = contents(flipped)
        except DamagedFile as error:
            assert str(flipped) in str(error)
            named += 1
        else:  # a date, a right, a flag that nobody reads
            assert found == expected
    assert named > 150


def test_a_damaged_entry_is_named_by_run_and_file(path, tmp_path):
    name = load_runs(path)[0].id
    with zipfile.ZipFile(path) as content:
        entries = {entry: content.read(entry) for entry in content.namelist()}
    for file in ("config.json", "environment.json", "result.json", RECORDS):
        changed = tmp_path / f"{file}.zip"
        with zipfile.ZipFile(changed, "w") as out:
            for entry, text in entries.items():
                out.writestr(entry, text[:-3] if entry == f"{name}/{file}" else text)
        with pytest.raises(DamagedFile, match=f"{name}/{file} is damaged"):
            contents(changed)


@pytest.mark.parametrize("file", ["config.json", "environment.json", "result.json"])
def test_a_missing_entry_is_named(path, tmp_path, file):
    name, lacking = load_runs(path)[0].id, tmp_path / "lacking.zip"
    with zipfile.ZipFile(path) as content, zipfile.ZipFile(lacking, "w") as out:
        for entry in content.namelist():
            if entry != f"{name}/{file}":
                out.writestr(entry, content.read(entry))
    with pytest.raises(DamagedFile, match=rf"{name}/{file} is damaged \(it is missing\)"):
        contents(lacking)


# --- what came with the lab -----------------------------------------------------------------------


def test_collections_are_found_by_name_unless_all_is_to_be_fresh(path, tmp_path, monkeypatch):
    name = load_runs(path)[0].id
    monkeypatch.setattr(archive, "RESULTS", tmp_path / "results")
    assert collections() == {} and shipped(name) is None
    (tmp_path / "results").mkdir()
    shutil.copy(path, tmp_path / "results" / "mine.zip")
    assert list(collections()) == ["mine"]
    assert Run(shipped(name)).id == name and shipped("0" * 16) is None
    assert prepared() == []  # without what the explorers show of a run
    assert use_shipped()
    monkeypatch.setenv("FMLORA_FRESH", "1")
    assert not use_shipped()


def test_a_run_that_was_shipped_into_a_folder_is_read_as_such(folder):
    """As an older version shipped: a folder a run, records in the place of the tasks."""
    (stored, _) = load_runs(folder)
    shutil.rmtree(stored.folder.path / "tasks")
    stored.folder.write_arrays(RECORDS, {"00.H": np.ones(1), "01.H": np.zeros(1)}, {})
    there = Run(RunFolder(folder, stored.id))
    there.check()
    assert there.shipped and there.task(1)["H"] == [0]


@pytest.mark.parametrize("name", collections())
def test_every_run_that_came_with_the_lab_is_whole_and_stands_in_the_table(name):
    runs = load_runs(collections()[name])
    for stored in runs:
        stored.check()
        for file in stored.folder.derived_files():
            read = stored.folder.read_json if file.endswith(".json") else stored.folder.read_arrays
            read(file)
    table = pd.read_csv(collections()[name].with_suffix(".csv"))
    assert list(table.run) == [stored.id for stored in runs]
    assert list(table["method.name"]) == [stored.method_name for stored in runs]


@pytest.mark.parametrize("name", collections())
def test_shipping_it_again_changes_nothing(name, tmp_path):
    own = collections()[name]
    again = ship(load_runs(own), tmp_path / own.name, {})
    with zipfile.ZipFile(own) as before, zipfile.ZipFile(again) as after:
        assert after.namelist() == before.namelist()
        for entry in before.namelist():
            assert after.read(entry) == before.read(entry), entry
    assert again.with_suffix(".csv").read_text() == own.with_suffix(".csv").read_text()


def test_they_are_small_together():
    files = [file for path in collections().values() for file in (path, path.with_suffix(".csv"))]
    assert sum(file.stat().st_size for file in files) < 12_000_000


def test_their_names_are_those_of_todays_configurations():
    """Another default, image or weight would ask for them anew. The other collections are of an
    older version of the lab."""
    for stored in load_runs(collections()["demo"]):
        assert identity(RunConfig.model_validate(stored.config)) == stored.id


def test_the_quickstart_is_the_demo_profiles_of_today():
    """Another setting of the profile would ask for it anew."""
    methods = ["fm-lora", "lora", "ranpac", "full", "linear-probe", "prototypes", "joint"]
    asked = grid("demo", method=methods, order_seed=range(5))
    came = {stored.id for stored in load_runs(collections()["demo"])}
    assert {identity(one.config) for one in asked} <= came


def test_the_examples_are_of_every_kind_that_the_explorers_show():
    found = [run for run in map(Run, prepared()) if not of_two_towers(run)]
    assert all(related(example) for example in found)
    assert {example.method_name for example in found} == {"fm-lora", "inflora", "lora", "sd-lora"}
