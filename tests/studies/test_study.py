"""Studies: what is asked for is what runs; what is published is what the runs say."""

import json

import pandas as pd
import pytest

from fmlora_lab.analysis.names import TITLES
from fmlora_lab.config import BadInput
from fmlora_lab.profiles import profiles
from fmlora_lab.runs.run import find_stored
from fmlora_lab.runs.store import runs
from fmlora_lab.studies import Study, plan
from fmlora_lab.studies.publish import publish, rounded

TRAINED_LITTLE = ["linear-probe", "prototypes"]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The smoke profile's stream-length study of two quick methods, and where its runs are."""
    folder = tmp_path_factory.mktemp("runs")
    study = plan("stream_length", "smoke", TRAINED_LITTLE)
    return study, study.run(folder), folder


@pytest.mark.parametrize("name", list(Study.known))
def test_a_study_asks_for_each_run_under_labels_of_its_own(name):
    for profile in ("smoke", "demo"):
        study = plan(name, profile)
        cells = list(study.cells())
        labels = [json.dumps(cell.labels, sort_keys=True) for cell in cells]
        assert len(set(labels)) == len(labels) > 0
        assert {cell.labels["seed"] for cell in cells} == set(study.seed_list)
        for cell in cells:
            assert cell.config.seed == cell.labels["seed"]
            assert cell.config.method.name == cell.labels["method"]
            if "tasks" in cell.labels:
                assert cell.config.benchmark.tasks == cell.labels["tasks"]


@pytest.mark.parametrize("name", list(Study.known))
def test_the_paper_profile_asks_for_the_papers_backbone_and_benchmarks(name):
    for cell in plan(name, "paper").cells():
        assert cell.config.backbone.name == profiles()["paper"]["backbone"]["name"]
        assert cell.config.benchmark.name == "hub"


@pytest.mark.parametrize("name", list(Study.known))
def test_every_run_of_the_demo_profile_came_with_the_lab(name, tmp_path):
    """Name for name: a change of settings, defaults, images or weights asks for them anew."""
    for cell in plan(name, "demo").cells():
        assert find_stored(cell.config, tmp_path, use_shipped=True), cell.labels


def test_what_is_unknown_is_refused_with_what_is_known():
    with pytest.raises(BadInput, match="'nonsense'; known: all_methods, bases"):
        plan("nonsense")
    with pytest.raises(BadInput, match="profile is 'huge'; allowed: smoke, demo"):
        plan("frontier", "huge")
    with pytest.raises(BadInput, match="'ewc'; allowed here: coda-prompt"):
        plan("frontier", methods=["ewc"])
    with pytest.raises(BadInput, match=r"'l2p'; allowed here: fm-lora$"):
        plan("rank_selector", methods=["l2p"])
    with pytest.raises(BadInput, match="seeds is empty"):
        plan("frontier", seeds=[])


def test_seeds_are_a_number_or_a_list():
    assert plan("frontier", seeds=3).seed_list == (0, 1, 2)
    assert plan("frontier", seeds=[4, 7]).seed_list == (4, 7)


def test_a_profile_of_local_images_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.delenv("FMLORA_DATA", raising=False)
    with pytest.raises(BadInput, match=r"\$FMLORA_DATA/cifar100/\{train,test\}"):
        list(plan("frontier", "cifar100-tiny").cells())
    (tmp_path / "cifar100" / "train").mkdir(parents=True)
    weights = tmp_path / f"{profiles()['cifar100-tiny']['backbone']['name']}.safetensors"
    weights.write_bytes(b"")
    monkeypatch.setenv("FMLORA_DATA", str(tmp_path))
    cell = next(plan("frontier", "cifar100-tiny").cells())
    assert cell.config.benchmark.data == tmp_path / "cifar100"
    assert cell.config.backbone.weights == weights


def test_found_gives_runs_by_their_labels(few):
    study, found, _ = few
    assert len(found.frame) == len(list(study.cells())) == 4
    (run,) = found.runs(method="prototypes", tasks=5)
    assert run.config["benchmark"]["tasks"] == 5
    assert found.one(method="joint") is None
    grid = found.grid("acc", "tasks", (2, 5), method="linear-probe")
    assert grid.tolist() == [
        [found.one(method="linear-probe", tasks=n).result["acc"] for n in (2, 5)]
    ]


def test_publishing_twice_gives_the_same_bytes(few, tmp_path):
    study, found, folder = few
    first = publish(study, found, tmp_path / "a")
    again = publish(
        study, plan("stream_length", "smoke", TRAINED_LITTLE).run(folder), tmp_path / "b"
    )
    assert [p.name for p in first] == [p.name for p in again]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    kinds = {path.suffix for path in first}
    assert kinds == {".png", ".svg", ".csv", ".tex", ".md", ".json"}


def test_what_is_published_says_where_it_comes_from(few, tmp_path):
    study, found, folder = few
    publish(study, found, tmp_path)
    source = json.loads((tmp_path / "provenance.json").read_text())
    assert set(source["runs"]) == {run.id for run in runs(folder)}
    assert (source["profile"], source["methods"], source["seeds"]) == ("smoke", TRAINED_LITTLE, [0])
    assert {"torch", "timm", "fmlora-lab"} <= source["drawn_with"].keys()
    table = pd.read_csv(tmp_path / "runs.csv")
    assert list(table.acc) == [run.result["acc"] for run in found.runs()]
    assert r"\toprule" in (tmp_path / "stream_length.tex").read_text()
    for method in TRAINED_LITTLE:
        assert TITLES[method] in (tmp_path / "stream_length.csv").read_text()


def test_published_numbers_are_json():
    assert rounded({"a": float("nan"), 1: [0.123456789]}) == {"a": None, "1": [0.123457]}
