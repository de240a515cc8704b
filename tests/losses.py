"""Golden losses of every method, to the last bit: those of today, and whether a change moved any.

    python tests/losses.py NAME [NAME ...]            print them, for tests/methods/golden.json
    python tests/losses.py --base REV [--head REV]    compare two revisions (head: working tree)

Each revision's own golden test is run, from a git worktree of its own, with this file as a plugin
of pytest: it notes what every run of it lost.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = "FMLORA_LOSSES"
"""Names the file that the plugin writes."""

Losses = dict[str, list[str]]
"""Of each method, hexadecimal, an epoch each."""

noted: Losses = {}


def pytest_collection_finish() -> None:
    """Have the trainer, wherever this revision keeps it, note what it logged."""
    ours = [m for name, m in sys.modules.items() if name.startswith("fmlora_lab")]
    (trainer,) = {m.Trainer for m in ours if hasattr(m, "Trainer")}
    run = trainer.run

    def noting(self):
        result = run(self)
        losses = [line["loss"] for line in self.keeper.lines]
        noted[self.config.method.name] = [loss.hex() for loss in losses if loss is not None]
        return result

    trainer.run = noting


def pytest_sessionfinish() -> None:
    Path(os.environ[OUT]).write_text(json.dumps(noted))


def losses_of(root: Path, only: Sequence[str] = ()) -> Losses:
    """What the golden test of the tree at `root` loses, of `only` these methods if any."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(__file__, folder)  # the tree may have another, or none
        out = Path(folder) / "losses.json"
        path = os.pathsep.join([str(root), folder])
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", OUT: str(out)}
        chosen = "golden_losses"
        if only:
            chosen += f" and ({' or '.join(f'[{name}]' for name in only)})"
        words = ["-m", "pytest", "-q", "-p", Path(__file__).stem, "-k", chosen, "tests/methods"]
        done = subprocess.run(
            [sys.executable, *words], cwd=root, env=env, capture_output=True, text=True
        )
        found = json.loads(out.read_text()) if out.exists() else {}
    if not found:
        sys.exit(f"the golden test of {root} ran no method:\n{done.stdout[-2000:]}{done.stderr}")
    return found


def losses_at(revision: str | None) -> Losses:
    """Those of a git revision; None is the working tree."""
    if revision is None:
        return losses_of(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        added = subprocess.run(
            [*git, "add", "--detach", str(tree), revision], capture_output=True, text=True
        )
        if added.returncode:
            sys.exit(f"there is no revision {revision!r} ({added.stderr.strip()})")
        try:
            return losses_of(tree)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def compared(base: Losses, head: Losses) -> tuple[list[str], bool]:
    """A line for each method that both have, and whether all are equal to the last bit."""
    lines, equal = [], True
    for name in sorted(base.keys() & head.keys()):
        was, now = base[name], head[name]
        said = f"{len(was)} epochs equal to the last bit"
        if was != now:
            equal, same = False, zip(was, now, strict=False)
            first = next((n for n, (a, b) in enumerate(same) if a != b), None)
            said = f"{len(was)} epochs before, {len(now)} now"
            if first is not None:
                a, b = (float.fromhex(losses[first]) for losses in (was, now))
                said = f"epoch {first + 1} lost {a!r}, loses {b!r}"
        lines.append(f"{name:<14} {said}")
    return lines, equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="methods whose losses are printed")
    parser.add_argument("--base", help="the revision to compare with")
    parser.add_argument("--head", help="the revision that is compared; by default the working tree")
    asked = parser.parse_args()
    if asked.base:
        base, head = losses_at(asked.base), losses_at(asked.head)
        lines, equal = compared(base, head)
        print("\n".join(lines))
        sys.exit(not equal)
    for name, found in losses_of(ROOT, asked.names).items():
        print(f'"{name}": [{", ".join(f"{float.fromhex(loss):.10f}" for loss in found)}]')


if __name__ == "__main__":
    main()
