"""What is installed, which device computes, what is found and how to get what is missing."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from fmlora_lab.backbone.device import has_bfloat16, pick_device
from fmlora_lab.backbone.glyphs_clip import GLYPHS_CLIP
from fmlora_lab.backbone.vit import GLYPHS_VIT
from fmlora_lab.files import cache_dir
from fmlora_lab.methods.registry import METHODS
from fmlora_lab.profiles import profiles
from fmlora_lab.runs.archive import archived
from fmlora_lab.runs.folder import runs_root
from fmlora_lab.runs.stored import in_archive, names_in

PACKAGES = ("fmlora-lab", "torch", "torchvision", "timm", "papermill", "jupyterlab", "peft")


def report(runs_dir: Path | None = None) -> str:
    """The report as text, one finding a line."""
    device = pick_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    bfloat16 = "bfloat16" if has_bfloat16(device) else "float32 (no bfloat16 in hardware)"
    root = runs_root(runs_dir)
    stored = len(archived(root) if in_archive(root) else names_in(root, "result.json"))
    lines = [f"Python      {platform.python_version()}", *map(_package, PACKAGES)]
    lines += [
        f"device      {device.type}: {name}, {torch.get_num_threads()} threads, {bfloat16}",
        "benchmarks  glyphs, glyph-domains, glyph-scripts: embedded; folder, domains, mtil: your "
        "images (--data ROOT)",
        f"backbones   glyphs-vit: {_there(GLYPHS_VIT)}, glyphs-clip: {_there(GLYPHS_CLIP)}; "
        "any timm ViT, any CLIP of open_clip: from its hub, or a local file (--weights FILE)",
        f"methods     {', '.join(sorted(METHODS))}",
    ]
    lines += [f"profile     {p}: {_tuned(p)}" for p in profiles()]
    lines += [
        f"runs        {stored} complete in {root.resolve()} (FMLORA_RUNS or --runs-dir)",
        f"cache       {cache_dir()} (FMLORA_CACHE)",
    ]
    data = os.environ.get("FMLORA_TEST_DATA")
    lines.append(f"test data   {data or 'not set: tests on real images skip (FMLORA_TEST_DATA)'}")
    return "\n".join(lines)


def _there(file: Path) -> str:
    return "found" if file.is_file() else "missing: reinstall"


def _package(name: str) -> str:
    try:
        return f"{name:<11} {version(name)}"
    except PackageNotFoundError:
        return f"{name:<11} missing: pip install '.[test]'"


def _tuned(profile: str) -> str:
    methods = profiles()[profile].get("tuned")
    return f"settings tuned for {', '.join(methods)}" if methods else "methods' own defaults"
