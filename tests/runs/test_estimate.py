"""How long runs will take: of the right size, by what is stored of their kind, else by a step."""

from types import SimpleNamespace

import pytest

from fmlora_lab import configure
from fmlora_lab.runs import estimate
from fmlora_lab.runs.estimate import seconds_of, speeds

pytestmark = pytest.mark.unit


@pytest.fixture
def stored(monkeypatch):
    """`stored(config, seconds)` is the one run that there is; a learned image takes a second
    where none is of a kind, and predictions nothing."""

    def one(config, seconds):
        speeds.cache_clear()
        run = SimpleNamespace(config=config.model_dump(mode="json"), numbers={"seconds": seconds})
        monkeypatch.setattr(estimate, "collections", dict)
        monkeypatch.setattr(estimate, "load_runs", lambda where: [run])

    monkeypatch.setattr(estimate, "seconds_an_image", lambda *backbone: (1.0, 0.0))
    monkeypatch.setattr(estimate, "stream_sizes", lambda benchmark: (50_000, 10_000, 10))
    yield one
    speeds.cache_clear()


def of(**settings):
    given = {"benchmark.data": "photos", "training.epochs": 2, **settings}
    return configure("lora", "folder", "smoke", given)


def test_a_run_of_a_kind_takes_so_much_longer_as_it_has_more_to_do(stored):
    stored(of(**{"benchmark.train_images": 20}), 100)
    assert seconds_of(of(**{"benchmark.train_images": 40, "training.epochs": 6})) == 600


def test_a_quick_try_says_nothing_of_all_images(stored):
    stored(of(**{"benchmark.train_images": 20}), 100)
    assert seconds_of(of()) == 100_000  # by the measured step
    stored(of(), 70)
    assert seconds_of(of(**{"training.epochs": 6})) == 210


def test_a_run_that_came_with_the_lab_knows_its_images_by_their_name_alone(stored):
    stored(of(), 70)
    assert seconds_of(of(**{"benchmark.data": "/data/photos"})) == 70


def test_other_images_are_another_kind(stored):
    stored(of(), 70)
    assert seconds_of(of(**{"benchmark.data": "drawings"})) == 100_000


def test_steps_count_where_they_are_what_is_granted(stored):
    stored(of(**{"training.iterations": 50}), 30)
    assert seconds_of(of(**{"training.iterations": 500, "training.epochs": 9})) == 300
    more = of(**{"training.iterations": 50, "benchmark.tasks": 20})  # steps are a task's
    assert seconds_of(more) != 30
    assert seconds_of(of()) == 100_000
    stored(of(), 70)
    assert seconds_of(of(**{"training.iterations": 5, "training.batch_size": 8})) == 400
