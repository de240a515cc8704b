"""A real server and a real browser: what `make lab` and `make explore` start, used as a person
would. Without a browser these tests are skipped and say so. Screenshots: build/screenshots/.
"""

import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from fmlora_lab import configure, run
from fmlora_lab.explorers.features import kept_of
from fmlora_lab.perf import browser

ROOT = Path(__file__).parents[2]
EXPLORERS = sorted(path.stem for path in (ROOT / "notebooks").glob("4?_*.ipynb"))
SHOTS = ROOT / "build" / "screenshots"
LEFT = 20
"""Seconds after which the process of a page that was left ends: each takes half a gigabyte."""


@pytest.fixture(scope="session", autouse=True)
def a_browser():
    if browser.found() is None:
        pytest.skip(f"no browser: none of {', '.join(browser.BROWSERS)} is on the PATH")


@pytest.fixture(scope="session")
def small_run(own_cache, tmp_path_factory):
    """A runs folder with one run, whose features are known."""
    runs = tmp_path_factory.mktemp("small") / "runs"
    more = {"benchmark.test_images": 5}
    kept_of(run(configure("fm-lora", "glyphs", "smoke", more), runs))
    return runs


@pytest.fixture(scope="session")
def project(tmp_path_factory, small_run):
    """A copy of what the two servers show, so that JupyterLab saves nothing into the original."""
    copy = tmp_path_factory.mktemp("project")
    shutil.copytree(small_run, copy / "runs")
    shutil.copy(ROOT / "Makefile", copy)
    for folder in ("notebooks", "figures/readme"):
        shutil.copytree(ROOT / folder, copy / folder)
    return copy


def make(project: Path, target: str, ready: str, *options: str):
    """`make TARGET` in the copy, with the Python that runs the tests."""
    arguments = " ".join(["--no-browser", *options])
    own = (f"BIN={Path(sys.executable).parent}", "READY=", f"ARGS={arguments}")
    own += (f"WITH_RUNS=FMLORA_RUNS={project / 'runs'}", f"LEFT={LEFT}")  # not the user's runs
    return browser.serving("make", "-C", str(project), target, *own, ready=ready)


@pytest.fixture(scope="session")
def lab(project):
    """The address of a path in the JupyterLab that `make lab` starts."""
    own = ("--allow-root", "--ServerApp.port={port}", "--IdentityProvider.token={token}")
    own += tuple(
        f"--MappingKernelManager.cull_{at}" for at in (f"idle_timeout={LEFT}", "interval=10")
    )
    with make(project, "lab", "api/status", *own) as address:
        yield address


@pytest.fixture(scope="session")
def voila(project):
    """The address of a path in what `make explore` starts."""
    with make(project, "explore", "", "--port={port}") as address:
        yield address


@pytest.fixture
def explorers():
    """The names of the explorers' notebooks."""
    return EXPLORERS


@pytest.fixture(params=EXPLORERS)
def name(request):
    """Each explorer's notebook in turn."""
    return request.param


@pytest.fixture
def errors():
    """What goes wrong on the page."""
    return []


@pytest.fixture
def page(request, errors):
    """An empty page; the test fails if anything on it goes wrong. Its last state is kept as a
    picture."""
    with browser.chromium(errors) as page:
        yield page
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{request.node.name}.png")
    # Voilà fetches MathJax where there is a network.
    unreached = "net::ERR_NAME_NOT_RESOLVED"
    assert [error for error in errors if unreached not in error] == []


@pytest.fixture
def changes(page):
    """`with changes(n):` what is done in the block brings n new pictures, one after another."""
    page.add_init_script(
        """window.pictures = 0;
        document.addEventListener("load", ({target}) => {
            if (target.matches("img.fml-lesson, img.fml-front")) window.pictures += 1;
        }, true);"""
    )

    @contextmanager
    def at_least(n: int = 1):
        before = page.evaluate("pictures")
        yield
        page.wait_for_function(f"pictures >= {before + n}")

    return at_least
