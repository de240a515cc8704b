"""Stored runs of the expert pool on two towers, of drawn numbers: a few files and no training."""

from pathlib import Path

import numpy as np

from fmlora_lab.runs.folder import RunFolder, task_file
from fmlora_lab.runs.stored import Run

NAMES = ["latin", "greek", "cyrillic"]
KINDS = ("attn.qkv.q", "attn.qkv.k", "attn.qkv.v", "attn.proj", "mlp.fc1", "mlp.fc2")
SITES = [
    f"{start}.{block}.{kind}"
    for start, blocks in (("visual.blocks", 2), ("text", 2))
    for block in range(blocks)
    for kind in KINDS
]
RANK, TOP, MERGED, IMAGES, WIDTH = 5, 3, 2, 40, 8


def pool_run(root: Path, run_id: str = "abc123", sites=SITES, router="published", seed=0) -> Run:
    """A run of three domains: votes of `IMAGES` images, and factors, of every site."""
    draw = np.random.default_rng(seed)
    folder, n = RunFolder(root, run_id), len(NAMES)
    method = {"name": "rank1-pool", "rank": RANK, "top": TOP, "merged": MERGED, "router": router}
    config = {
        "method": method,
        "benchmark": {"name": "glyph-scripts", "data": None},
        "backbone": {"name": "glyphs-clip", "weights": None},
        "training": {},
        "seed": 0,
    }
    known, given = draw.uniform(20, 50, (2, n, n)).round(2)
    head = {"accuracy_matrix": known.tolist(), "within_task_matrix": given.tolist(), "acc": 1.0}
    result = {
        **head,
        "ranked_by": "trained",
        "heads": {"trained": head},
        "by_texts": {
            "given": {"zero_shot": [40.0, 30.0, 20.0]},
            "unknown": {"zero_shot": [4.0, 3.0, 2.0]},
        },
        "test_images": [20] * n,
        "task_files": n,
        **dict.fromkeys(("trainable_parameters", "kept_parameters", "inference_flops"), 1),
        "seconds": 1.0,
    }
    folder.write_json("config.json", config)
    environment = {"tasks": NAMES, "class_names": ["a"] * 3 * n, "device": "cpu"}
    folder.write_json("environment.json", environment)
    for t in range(n):
        votes = draw.random((len(sites), IMAGES, RANK)).argsort(-1) < TOP
        counts = votes.sum(1) * (router != "fixed")
        record = {"counts": counts.astype(np.int64), "said.trained": np.zeros(60, np.int16)}
        for site in sites:
            shapes = {"U": WIDTH, "V": WIDTH}
            shapes["V" if site.endswith("fc2") else "U"] *= 1 + 3 * ("fc" in site)
            record |= {
                f"{f}.{site}": draw.standard_normal((d, MERGED), np.float32)
                for f, d in shapes.items()
            }
        folder.write_arrays(task_file(t), record, {})
    folder.write_json("result.json", result)
    return Run(folder)
