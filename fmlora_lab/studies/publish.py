"""What a study leaves in its folder: figures, tables, the answer, and where it all comes from."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from fmlora_lab import plots
from fmlora_lab.files import write_atomically
from fmlora_lab.runs.run import revision
from fmlora_lab.studies.study import Found, Study

PACKAGES = ("fmlora-lab", "torch", "timm", "numpy", "pandas", "matplotlib")


def publish(study: Study, found: Found, folder: Path | str) -> list[Path]:
    """Write a study's results into `folder`; returns their paths. The same runs, the same bytes.

    `<name>.csv` is the table as read, `runs.csv` every run with all its numbers unrounded;
    `provenance.json`, written last, says which runs they are of and what computed them.
    """
    folder = Path(folder)
    written = [
        path
        for name, figure in study.figures(found).items()
        for path in plots.save(figure, folder, name)
    ]
    texts = {
        f"{study.name}.csv": study.table(found).to_csv(),
        f"{study.name}.tex": study.latex(found),
        "runs.csv": found.frame.to_csv(index=False),
        "answer.md": f"# {study.title}\n\n**{study.question}**\n\n{study.answer(found)}\n",
        "results.json": as_json(study.headline(found)),
        "provenance.json": as_json(provenance(study, found)),
    }
    for name, text in texts.items():
        write_atomically(folder / name, lambda file, text=text: file.write(text.encode()))
        written.append(folder / name)
    return written


def provenance(study: Study, found: Found) -> dict[str, Any]:
    """What was asked for, which runs answered, and what they were computed with."""
    environments = {run.id: run.environment for _, run in found.pairs}
    return {
        "study": study.name,
        "profile": study.profile,
        "methods": list(study.chosen),
        "seeds": list(study.seed_list),
        "runs": {
            name: {
                "shipped": run.shipped,
                "packages": environments[name]["packages"],
                "device": environments[name]["device"],
                "bfloat16": environments[name]["bfloat16"],
                "revision": environments[name]["revision"],
            }
            for name, run in sorted({run.id: run for _, run in found.pairs}.items())
        },
        "drawn_with": {name: version(name) for name in PACKAGES},
        "revision": revision(),
    }


def as_json(content: dict[str, Any]) -> str:
    """Readable JSON; numbers to six digits, so that rounding noise between machines is not news."""
    return json.dumps(rounded(content), indent=1) + "\n"


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float):  # NumPy's float64 is one
        return None if pd.isna(value) else float(f"{value:.6g}")
    return value.item() if hasattr(value, "item") else value
