"""How well a CUDA device is used: steps of every kind, their share of the device's own matrix
product, and a stream of ImageNet-R's size from its first image to its last answer.

Weights and images are random, since speed does not depend on them. Where there is no CUDA device
the same is measured on the CPU, to rehearse it with a small backbone.
"""

import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from fmlora_lab import progress
from fmlora_lab.backbone.device import compute_type, pick_device, resolved
from fmlora_lab.backbone.vit import check_timm, load_tower
from fmlora_lab.benchmarks.stream import Images, Stream, Task
from fmlora_lab.config import Backbone, BadInput, RunConfig
from fmlora_lab.files import check_writable, write_atomically
from fmlora_lab.perf import steps
from fmlora_lab.runs.estimate import said, timed
from fmlora_lab.runs.folder import runs_root
from fmlora_lab.training.loop import Nowhere, Trainer

BACKBONE = "vit_base_patch16_224"
IMAGENET_R = {"train": 24_000, "test": 6_000, "classes": 200, "tasks": 10}
EPOCHS = 30
"""Of the run that the stream of one epoch is an estimate of."""
SOURCE = 500
"""Different images of the stream; more would cost memory and change nothing."""
LATE = ("fm-lora-20", "sd-lora-20")
KINDS = [name for name in steps.ROWS if name in LATE or not name.endswith("-20")]
"""Rows of every kind, and late tasks of one whose step stays and one whose step grows."""
QUICKEST = "fm-lora-2" + steps.COMPILED
AIMS = {
    "fm-lora-2 / floor": 1.10,
    QUICKEST + " / floor" + steps.COMPILED: 1.10,
    "fm-lora-2 / peft-lora": 0.50,
    QUICKEST + " / peft-lora": 0.50,
    "fm-lora-20 / fm-lora-2": 1.02,
    "share": 0.50,
    "minutes": 15,
}
"""At most, but for `share` of the measured matrix product, at least: an H100's or H200's."""


def bench(
    batch_size: int, repeats: int, backbone: str = BACKBONE, sizes: dict[str, int] = IMAGENET_R
) -> dict[str, Any]:
    """All of it; returns the object that `--json` prints, and stores it beside the runs under the
    device's name. BadInput for what is no timm ViT, and for the default one without a GPU."""
    device = pick_device()
    if device.type != "cuda" and backbone == BACKBONE:
        raise BadInput(
            f"there is no CUDA device, and a {BACKBONE} takes hours without; to rehearse on the "
            "CPU give --backbone, such as vit_tiny_patch16_224, and --batch-size"
        )
    check_timm(Backbone(name=backbone))
    check_writable(runs_root())
    with TemporaryDirectory() as folder:
        weights = Path(folder, "random.safetensors")
        vit: Any = timm.create_model(backbone, pretrained=False, num_classes=0)
        save_file(vit.state_dict(), weights)
        asked = Backbone(name=backbone, weights=weights)
        found = steps.bench(asked, batch_size, repeats, device.type == "cuda", KINDS)
        rate, flops = matmul_rate(device), flops_an_image(asked, device)
        for row in found["rows"]:
            row["share"] = row["train_images_per_second"] * 2 * flops / rate
        progress.say("a stream of ImageNet-R's size, one epoch a task")
        found = {
            **found,
            "torch": torch.__version__,
            "matmul_flops_per_second": rate,
            "forward_flops": flops,
            "stream": one_epoch(asked, batch_size, sizes),
            "aims": AIMS,
        }
    name = found["device"].lower().replace(" ", "-")
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(runs_root() / f"gpu-{name}.json", lambda file: file.write(text.encode()))
    return found


def matmul_rate(device: torch.device) -> float:
    """Operations a second of a large product in the compute type: the median of ten."""
    side = 8192 if device.type == "cuda" else 1024
    kind = torch.bfloat16 if resolved("auto", device) == "bfloat16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    took = [timed(lambda: a @ b, device) for _ in range(13)][3:]
    return 2 * side**3 / statistics.median(took)


def flops_an_image(backbone: Backbone, device: torch.device) -> int:
    """Of a forward pass through the frozen backbone; gradients of its activations cost as much."""
    model = load_tower(backbone).to(device)
    model.use_fused_attention(False)  # the same operations, all of which are counted
    pixels = torch.zeros(1, 3, model.image_size, model.image_size, device=device)
    with torch.no_grad(), compute_type(device, "auto"), FlopCounterMode(display=False) as counter:
        model.features(pixels)
    return counter.get_total_flops()


def one_epoch(backbone: Backbone, batch_size: int, sizes: dict[str, int]) -> dict[str, Any]:
    """FM-LoRA over random images, an epoch a task, with all heads: seconds, and an estimate for
    `EPOCHS` epochs. Its selector's preliminary epoch is one a task then too."""
    model = load_tower(backbone)
    config = RunConfig.model_validate(
        {
            "method": {"name": "fm-lora"},
            "backbone": backbone,
            "training": {"epochs": 1, "batch_size": batch_size, "augmentation": "crop-flip"},
        }
    )
    stream = random_stream(model.image_size, **sizes)
    measured = Trainer(config, stream, model, Nowhere()).run()
    whole = sum(sizes[part] for part in ("train", "test"))
    training, seconds = measured["training_seconds"], measured["seconds"]
    epoch = training * sizes["train"] / measured["images"]
    return {
        **sizes,
        "images": whole,
        "seconds": round(seconds, 1),
        "training_seconds": round(training, 1),
        "heads_seconds": round(measured["heads_seconds"], 1),
        "images_per_second": round(measured["images"] / training),
        "minutes_of_30_epochs": round((seconds + (EPOCHS - 1) * epoch) / 60, 1),
    }


def random_stream(side: int, train: int, test: int, classes: int, tasks: int) -> Stream:
    draw = torch.Generator().manual_seed(0)
    source = torch.randint(0, 256, (SOURCE, 3, side, side), dtype=torch.uint8, generator=draw)

    def images(own: range, count: int) -> Images:
        labels = torch.arange(own.start, own.stop).repeat(-(-count // len(own)))[:count]
        return Images(source, labels, torch.randint(0, SOURCE, (count,), generator=draw))

    each = classes // tasks
    cut = [range(t * each, (t + 1) * each) for t in range(tasks)]
    parts = [
        Task(t, f"task {t + 1}", own, images(own, train // tasks), images(own, test // tasks))
        for t, own in enumerate(cut)
    ]
    names = tuple(str(label) for label in range(classes))
    return Stream("random images", "class-incremental", names, tuple(parts), "random")


def to_text(found: dict[str, Any]) -> str:
    """The measurements as a table, each aim beside what it came to."""
    ratio = {row["name"]: row["train_ratio"] for row in found["rows"]}
    share = {row["name"]: row["share"] for row in found["rows"]}
    stream = found["stream"]
    reached = {
        name: ratio[name.split(" / ")[0]] / ratio[name.split(" / ")[1]]
        for name in found["aims"]
        if " / " in name and ratio.keys() >= {*name.split(" / ")}
    }
    quickest = QUICKEST if QUICKEST in share else "fm-lora-2"
    reached |= {"share": share[quickest], "minutes": stream["minutes_of_30_epochs"]}
    return "\n".join(
        [
            steps.to_text(found),
            "",
            f"matrix product {found['matmul_flops_per_second'] / 1e12:.0f} TFLOP/s; share of it in "
            "training: " + ", ".join(f"{name} {value:.2f}" for name, value in share.items()),
            f"{stream['train']:,} + {stream['test']:,} images in {stream['tasks']} tasks, one "
            f"epoch: {said(stream['seconds'])}, of which {said(stream['training_seconds'])} "
            f"training; {EPOCHS} epochs would take {stream['minutes_of_30_epochs']:.0f} min",
            "",
            f"{'':<36} {'measured':>8} {'aim':>6}",
            *(
                f"{name:<36} {_number(reached.get(name)):>8} {aim:>6.2f}"
                for name, aim in found["aims"].items()
            ),
        ]
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
