"""A study: the question of one notebook, the runs that answer it, and what is drawn of them.

A notebook makes its study with a profile, methods and seeds, asks it for the runs, and shows what
it says. `render` asks the same study which runs it will need before any of them is computed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fmlora_lab.analysis.names import TITLES
from fmlora_lab.analysis.published import known
from fmlora_lab.analysis.tidy import frame
from fmlora_lab.config import BadInput, RunConfig
from fmlora_lab.methods import METHODS
from fmlora_lab.profiles import configure, profiles, stream_of
from fmlora_lab.runs.store import Run, use_shipped
from fmlora_lab.runs.sweep import sweep

NEAREST = ("fm-lora", "sd-lora", "inflora", "lora", "full", "linear-probe", "prototypes")
"""FM-LoRA, its nearest rivals, and what every method must beat."""
SMOKE = ("fm-lora", "lora", "full", "prototypes")
"""What a smoke profile compares: enough to see every path work."""
LOW_RANK = ("fm-lora", "sd-lora", "inflora", "lora")


@dataclass(frozen=True)
class Cell:
    """One run of a study and what it stands for there, such as a method, N and a seed."""

    labels: dict[str, Any]
    config: RunConfig


class Found:
    """The runs of a study's cells."""

    def __init__(self, cells: Sequence[Cell], runs: Sequence[Run]):
        self.pairs = [(cell.labels, run) for cell, run in zip(cells, runs, strict=True)]
        self.frame: pd.DataFrame = frame(self.pairs)
        """One row a run: its labels, its metrics, its costs, its name."""

    @property
    def stream(self) -> str:
        """The first run's benchmark, by name."""
        benchmark = self.pairs[0][1].config["benchmark"]
        return benchmark.get("dataset") or benchmark["name"]

    @property
    def test_images(self) -> int:
        """How many test images the first run's accuracy counts."""
        return sum(self.pairs[0][1].result["test_images"])

    def runs(self, **labels: Any) -> list[Run]:
        """The runs that carry these labels."""
        return [run for own, run in self.pairs if labels.items() <= own.items()]

    def one(self, **labels: Any) -> Run | None:
        """The first run that carries these labels, None where there is none."""
        return next(iter(self.runs(**labels)), None)

    def grid(self, value: str, along: str, at: Sequence[Any], **labels: Any) -> NDArray[np.float64]:
        """`value` (seeds, len(at)) of the rows that carry `labels`, with the label `along` at each
        of `at`; NaN where there is no run."""
        own = self.rows(**labels)
        table = own.pivot(index="seed", columns=along, values=value)
        return table.reindex(columns=list(at)).to_numpy(float)

    def rows(self, **labels: Any) -> pd.DataFrame:
        """The frame's rows that carry these labels."""
        own = self.frame
        for name, value in labels.items():
            own = own[own[name] == value]
        return own


class Study:
    """Base of the studies; a page each. A subclass has a name, a question, cells, and views."""

    known: ClassVar[dict[str, type["Study"]]] = {}
    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    methods: ClassVar[tuple[str, ...]] = NEAREST
    """The methods compared unless others are asked for."""
    only: ClassVar[tuple[str, ...] | None] = None
    """The only methods that the question is about; None for any."""
    seeds: ClassVar[dict[str, int]] = {"paper": 3}
    """Number of seeds by profile; one where it is not here."""

    def __init_subclass__(cls) -> None:
        Study.known[cls.name] = cls

    def __init__(
        self,
        profile: str = "demo",
        methods: Sequence[str] | None = None,
        seeds: int | Sequence[int] | None = None,
    ):
        if profile not in profiles():
            raise BadInput(f"profile is {profile!r}; allowed: {', '.join(profiles())}")
        allowed = self.only or tuple(sorted(METHODS))
        for method in methods or ():
            if method not in allowed:
                raise BadInput(f"methods has {method!r}; allowed here: {', '.join(allowed)}")
        if seeds is None:
            seeds = self.seeds.get(profile, 1)
        own = [m for m in self.methods if m in SMOKE] if profile == "smoke" else self.methods
        self.profile, self.chosen = profile, tuple(methods or own)
        self.seed_list = tuple(range(seeds) if isinstance(seeds, int) else seeds)
        if not self.seed_list:
            raise BadInput("seeds is empty; give a number of seeds or a list of them")

    # What a page says.

    def cells(self) -> Iterator[Cell]:
        """The runs that are needed, each once."""
        raise NotImplementedError

    def figures(self, found: Found) -> dict[str, Figure]:
        """The study's figures by file name, the most telling first."""
        raise NotImplementedError

    def table(self, found: Found) -> pd.DataFrame:
        """The study's main table, ready to read."""
        raise NotImplementedError

    def answer(self, found: Found) -> str:
        """One paragraph that answers the question from the runs' own numbers."""
        raise NotImplementedError

    def headline(self, found: Found) -> dict[str, Any]:
        """The numbers that the notebook publishes, for a test or another program to read."""
        raise NotImplementedError

    def latex(self, found: Found) -> str:
        """The main table for a paper."""
        from fmlora_lab.analysis.latex import plain_latex

        return plain_latex(self.table(found), caption=self.question, label=f"tab:{self.name}")

    # What all pages share.

    def run(self, runs_dir: Path | str | None = None) -> Found:
        """Every run of the study: loaded where it is stored or came with the lab, else computed."""
        cells = list(self.cells())
        found = sweep([cell.config for cell in cells], runs_dir, use_shipped=use_shipped())
        return Found(cells, found)

    def cell(
        self,
        method: str,
        seed: int,
        overrides: dict[str, Any] | None = None,
        stream: str = "classes",
        **labels: Any,
    ) -> Cell:
        """A run of `method` under the study's profile, labelled with method, `labels` and seed."""
        name, where = stream_of(self.profile, stream)
        overrides = {**where, **(overrides or {}), "seed": seed}
        config = configure(method, name, self.profile, overrides)
        return Cell({"method": method, **labels, "seed": seed}, config)

    def tuned(self, method: str, setting: str) -> Any:
        """The value of a dotted setting of `method` under the profile, as tuned or by default."""
        config = self.cell(method, 0).config.model_dump(by_alias=True)
        for part in setting.split("."):
            config = config[part]
        return config

    @property
    def smoke(self) -> bool:
        return self.profile == "smoke"

    @property
    def seeds_said(self) -> str:
        """Which seeds the numbers are of, for the end of an answer."""
        if len(self.seed_list) > 1:
            return f"Means over {len(self.seed_list)} seeds of training"
        return "One seed of training, so differences within a few points may be chance"

    def has(self, stream: str) -> bool:
        """Whether the profile has a stream of that name."""
        return stream in profiles()[self.profile]["streams"]


def title_of(method: str) -> str:
    """A method's name for readers."""
    return TITLES.get(method, method)


def published_beside(
    measured: pd.DataFrame, tables: Mapping[str, pd.DataFrame], methods: Sequence[str]
) -> pd.DataFrame:
    """A readable table with a column of published Acc / AAA for each of `tables`.

    Published numbers are of ViT-B/16, another backbone than that of most measured ones.
    """
    table = measured.copy()
    titles = {title_of(m): m for m in methods}
    for heading, numbers in tables.items():
        table[f"published, {heading} (ViT-B/16: Acc / AAA)"] = [
            " / ".join(known(numbers[value].get(titles[row])) for value in ("acc", "aaa"))
            for row in table.index
        ]
    return table


def listed(words: Iterable[str]) -> str:
    """`a, b and c`."""
    *most, last = list(words) or ["none"]
    return f"{', '.join(most)} and {last}" if most else last
