"""What a run says of the rank of each of its tasks."""

from types import SimpleNamespace

import numpy as np
import pytest

from fmlora_lab.analysis.rank_choice import (
    ESTIMATES,
    choices_of,
    ranks_by_site,
    tasks_of,
    within_task_error,
)
from fmlora_lab.config import BadInput
from fmlora_lab.runs.archive import RESULTS
from fmlora_lab.runs.stored import load_runs

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def found():
    """Runs that came with the lab, by whether their selector was on and estimates were measured."""
    by = {}
    for run in load_runs(RESULTS / "demo.zip"):
        drs = run.config["method"].get("drs")
        if drs and run.result["task_files"] == 10:
            by.setdefault((drs["enabled"], drs.get("estimates", False)), run)
    return by


def test_a_row_a_task_says_what_was_chosen_and_what_was_measured(found):
    run = found[True, True]
    tasks = tasks_of(run)
    assert list(tasks.columns) == ["rank", "H", *ESTIMATES]
    assert list(tasks.index) == list(range(1, 11)) and not tasks.isna().any(axis=None)
    candidates = run.task(0)["candidates"]
    assert set(tasks["rank"]) <= set(candidates) and tasks["rank"].nunique() > 1
    assert tasks["H"][4] == pytest.approx(run.task(3)["H"].item())
    assert tasks["means_error"].between(0, 1).all()


def test_what_was_not_measured_is_left_out(found):
    assert list(tasks_of(found[True, False]).columns) == ["rank", "H"]


def test_without_a_selector_every_later_task_has_the_fixed_rank(found):
    run = found[False, False]
    tasks = tasks_of(run)
    assert set(tasks["rank"].loc[2:]) == {run.config["method"]["rank"]}
    assert np.isnan(tasks["H"]).all()


def test_how_hard_a_task_was_does_not_follow_its_place_in_the_stream():
    """Of two tasks alike the second is harder among all classes seen, not with the task given."""
    result = {"accuracy_matrix": [[90.0, None], [60.0, 70.0]]}
    result["within_task_matrix"] = [[90.0, None], [88.0, 90.0]]
    assert within_task_error(SimpleNamespace(result=result)).tolist() == [10.0, 10.0]


def test_of_an_older_run_it_is_not_known():
    run = SimpleNamespace(id="abc", result={"accuracy_matrix": [[90.0]]})
    with pytest.raises(BadInput, match=r"^how hard the tasks of run abc were is not known: "):
        within_task_error(run)


def test_a_run_whose_first_task_alone_adapts_chose_nothing():
    method = {"name": "fm-lora", "drs": {"enabled": True}, "adapt": "first-task"}
    with pytest.raises(BadInput, match=r"^run abc chose no ranks for its tasks, .*=every-task`$"):
        choices_of(SimpleNamespace(id="abc", config={"method": method}))


def test_ranks_by_site_are_those_of_the_record(found):
    run = found[True, True]
    ranks = ranks_by_site(run)
    assert ranks.shape == (10, run.task(0)["rank"].size)
    np.testing.assert_array_equal(ranks[3], run.task(3)["rank"].ravel())
    np.testing.assert_allclose(ranks.mean(1), tasks_of(run)["rank"])


def test_a_run_that_gives_no_ranks_says_so():
    run = SimpleNamespace(
        id="abc", method_name="lora", result={"task_files": 1}, task=lambda t: {"U.x": np.ones(1)}
    )
    with pytest.raises(BadInput, match=r"^run abc is of lora, which gives tasks no rank$"):
        ranks_by_site(run)
