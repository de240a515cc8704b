"""Hub datasets, read by the real code from parquet files in the hub's own layout."""

import dataclasses
import io
import sys

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from fmlora_lab import configure, run
from fmlora_lab.benchmarks import cache, fingerprint, hub, known, load
from fmlora_lab.config import BadInput, Hub

pytestmark = pytest.mark.unit

NAMES = {
    "cifar100": ["apple", "bee"],
    "imagenet-r": ["n01443537", "n01484850"],
    "cub-200": ["001.Albatross", "002.Auklet"],
    "domainnet": ["axe", "bat"],
}
DOMAINS = ["clipart", "sketch"]


def png(value: int) -> dict:
    buffer = io.BytesIO()
    pixels = np.full((8, 8, 3), value, np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{value}.png"}


def write(folder, name, split, rows):
    """`<folder>/data/<split>-00000-of-00001.parquet` as the hub lays it out."""
    source = hub.DATASETS[name]
    names = datasets.ClassLabel(names=NAMES[name])
    label = datasets.Value("string") if name == "imagenet-r" else names
    features = {source.image: datasets.Image(), source.label: label}
    if source.domain:
        features[source.domain] = datasets.ClassLabel(names=DOMAINS)
    columns = {key: [row[key] for row in rows] for key in features}
    (folder / "data").mkdir(parents=True, exist_ok=True)
    made = datasets.Dataset.from_dict(columns, datasets.Features(features))
    made.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def rows(name, split, each):
    """`each` images of each class (and domain); every image has a colour of its own."""
    source, found, start = hub.DATASETS[name], [], 0 if split != "test" else 100
    for d in range(len(DOMAINS) if source.domain else 1):
        for k, label in enumerate(NAMES[name]):
            for _ in range(each):
                start += 1
                own = label if name == "imagenet-r" else k
                row = {source.image: png(start), source.label: own}
                found.append(row | ({source.domain: d} if source.domain else {}))
    return found


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """`mirror(name)`: a folder of that dataset's parquet files, with counts to match."""
    monkeypatch.setenv("FMLORA_CACHE", str(tmp_path / "cache"))

    def make(name, folder=None):
        folder = folder or tmp_path / name
        domains = len(DOMAINS) if hub.DATASETS[name].domain else 1
        if name == "imagenet-r":
            write(folder, name, "test", rows(name, "test", 5))
            counts = {"train": 8, "test": 2}
        else:
            write(folder, name, "train", rows(name, "train", 4))
            write(folder, name, "test", rows(name, "test", 2))
            counts = {"train": 8 * domains, "test": 4 * domains}
        small = dataclasses.replace(hub.DATASETS[name], counts=counts, classes=2)
        monkeypatch.setitem(hub.DATASETS, name, small)
        return folder

    return make


def stream(name, folder, **settings):
    return load(Hub(dataset=name, data=folder, **{"tasks": 2, **settings}), 8, 0, 0)


def colours(images) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("name", list(hub.DATASETS))
def test_every_image_arrives_under_its_label(mirror, name):
    loaded = stream(name, mirror(name))
    assert sorted(loaded.class_names) == sorted(NAMES[name])
    assert loaded.scenario == "class-incremental" and len(loaded.tasks) == 2
    of = {}
    for split in ("train", "test"):
        for row in rows(name, split, 5 if name == "imagenet-r" else 4 if split == "train" else 2):
            own = row[hub.DATASETS[name].label]
            colour = np.array(Image.open(io.BytesIO(row[hub.DATASETS[name].image]["bytes"])))[
                0, 0, 0
            ]
            of[int(colour)] = own if isinstance(own, str) else NAMES[name][own]
    counts = hub.DATASETS[name].counts
    for role in ("train", "test"):
        parts = [getattr(task, role) for task in loaded.tasks]
        assert sum(map(len, parts)) == counts[role]
        for part in parts:
            said = [loaded.class_names[label] for label in part.labels]
            assert said == [of[colour] for colour in colours(part)]


@pytest.mark.parametrize("name", list(hub.DATASETS))
def test_what_is_known_without_reading_is_what_is_read(mirror, name, monkeypatch):
    folder = mirror(name)
    loaded, asked = stream(name, folder), Hub(dataset=name, data=folder, tasks=2)
    fingerprint._asked.clear()  # as in another process
    monkeypatch.setattr(cache, "decoded_once", None)  # reading would fail
    names = tuple(sorted(loaded.class_names))
    assert known(asked, 8, 0) == (loaded.fingerprint, names)
    with pytest.raises(BadInput, match="is 3; allowed for 2 classes"):
        known(asked.model_copy(update={"tasks": 3}), 8, 0)


def test_imagenet_r_is_split_by_content_whatever_the_order_of_rows(mirror, tmp_path):
    first = stream("imagenet-r", mirror("imagenet-r"))
    turned = tmp_path / "turned"
    write(turned, "imagenet-r", "test", rows("imagenet-r", "test", 5)[::-1])
    again = stream("imagenet-r", turned)
    for one, other in zip(first.tasks, again.tasks, strict=True):
        assert sorted(colours(one.test)) == sorted(colours(other.test))
    assert sum(len(task.test) for task in first.tasks) == 2


def test_domainnet_is_one_task_a_domain_where_asked(mirror):
    folder = mirror("domainnet")
    loaded = stream("domainnet", folder, scenario="domain-incremental")
    assert loaded.scenario == "domain-incremental"
    assert sorted(task.name for task in loaded.tasks) == DOMAINS
    assert all(set(task.train.labels.tolist()) == {0, 1} for task in loaded.tasks)
    with pytest.raises(BadInput, match="cub-200 has no domains"):
        stream("cub-200", mirror("cub-200"), scenario="domain-incremental")


def test_caps_draw_from_every_class_and_a_larger_cap_keeps_what_a_smaller_drew(mirror):
    folder = mirror("cifar100")
    two, three = (stream("cifar100", folder, train_images=n, test_images=1) for n in (2, 3))
    for small, large in zip(two.tasks, three.tasks, strict=True):
        assert (len(small.train), len(large.train), len(small.test)) == (2, 3, 1)
        assert set(colours(small.train)) < set(colours(large.train))


def test_a_streams_fingerprint_is_of_its_content_not_of_its_place(mirror, tmp_path):
    one = stream("cifar100", mirror("cifar100"))
    other = stream("cifar100", mirror("cifar100", tmp_path / "elsewhere"))
    assert one.fingerprint == other.fingerprint
    assert stream("cifar100", tmp_path / "elsewhere", train_images=2).fingerprint != one.fingerprint


def test_other_counts_are_refused_and_nothing_counts_as_here(mirror, monkeypatch):
    folder = mirror("cifar100")
    more = dataclasses.replace(hub.DATASETS["cifar100"], counts={"train": 9, "test": 4})
    monkeypatch.setitem(hub.DATASETS, "cifar100", more)
    with pytest.raises(BadInput, match="cifar100 has 8 images for train; expected are 9"):
        stream("cifar100", folder)
    assert hub.is_here("cifar100", folder) is None


def test_an_image_that_is_none_is_named(mirror, tmp_path):
    folder = mirror("cifar100")
    broken = rows("cifar100", "train", 4)
    broken[3]["img"] = {"bytes": b"no image", "path": "x.png"}
    write(folder, "cifar100", "train", broken)
    with pytest.raises(BadInput, match=r"1 of 12 images .*all/train/apple/train-0000003.png"):
        stream("cifar100", folder)


def test_without_a_hub_there_is_one_sentence(mirror, monkeypatch):
    def no_network(*args, **kwargs):
        raise ConnectionError("no route to host")

    mirror("cifar100")
    monkeypatch.setattr(datasets, "load_dataset", no_network)
    with pytest.raises(
        BadInput, match=r"cannot be had .*`fmlora-lab data get cifar100`.*--data DIR"
    ):
        stream("cifar100", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"pip install 'fmlora-lab\[hub\]'"):
        stream("cifar100", None)


def test_a_folder_without_parquet_files_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("FMLORA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BadInput, match="there are no parquet files in"):
        stream("cifar100", tmp_path)


def test_what_was_unpacked_before_an_interruption_is_kept(mirror, monkeypatch):
    folder = mirror("cifar100")
    written = []
    real = hub.write_atomically

    def stop_at_five(path, writer):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        real(path, writer)

    monkeypatch.setattr(hub, "write_atomically", stop_at_five)
    with pytest.raises(KeyboardInterrupt):
        stream("cifar100", folder)
    before = {path: path.stat().st_mtime_ns for path in written}
    monkeypatch.setattr(hub, "write_atomically", real)
    stream("cifar100", folder)
    assert before == {path: path.stat().st_mtime_ns for path in written}


def test_a_run_on_a_hub_dataset(mirror, tmp_path):
    given = {"benchmark.dataset": "cifar100", "benchmark.tasks": 2}
    config = configure(
        "prototypes", "hub", "smoke", {**given, "benchmark.data": mirror("cifar100")}
    )
    stored = run(config, tmp_path / "runs")
    assert stored.accuracy_matrix.shape == (2, 2)
    assert torch.tensor(stored.result["test_images"]).tolist() == [2, 2]


def test_the_command_line_lists_and_gets_them(mirror, monkeypatch, call, capsys):
    code, out, _ = call("data", "list")
    assert code == 0 and all(name in out for name in hub.DATASETS)
    assert "decoded at 224 px" in out and "decoded: 0 sets of decoded images, 0.0 GB" in out
    cache.decoded().mkdir(parents=True)
    (cache.decoded() / "some.npy").write_bytes(b"0" * 60_000_000)
    assert "decoded: 1 sets of decoded images, 0.1 GB" in call("data", "list")[1]
    code, _, err = call("data", "get", "mnist")
    assert code == 2 and "allowed: cifar100, imagenet-r, cub-200, domainnet" in err
    code, out, _ = call("data", "get", "cifar100", "--data", mirror("cifar100"), "--yes")
    assert code == 0 and "free:" in out and "8 + 4 images" in out
    anew = mirror("cifar100")  # another folder to the lab: its files are younger
    capsys.readouterr()
    code, out, err = call("data", "get", "cifar100", "--data", anew, "--yes", "--quiet")
    assert code == 0 and err == "" and "free:" not in out and "8 + 4 images" in out
    monkeypatch.setattr(hub, "free_gigabytes", lambda: 0.1)
    code, _, err = call("data", "get", "domainnet", "--yes")
    assert code == 2 and "needs about 37 GB" in err
