"""Pre-train the backbone that ships with the lab, on characters that no benchmark shows.

    python -m fmlora_lab.benchmarks.glyphs.pretrain --steps 6000 --seed 0 --out FILE

Every step draws fresh images of characters that are neither a benchmark character nor a
look-alike of one, in the training typefaces only. Plain white on black comes first and the
augmentation grows from 15% to 55% of the schedule: with all of it from the first step the
model stays at chance for thousands of steps. Took 22 minutes on two CPU cores with bfloat16 in
hardware, which other work shared.

Beside the weights it leaves a log of JSON lines: step, loss, accuracy on the fresh images.
"""

import argparse
import json
import math
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers.config import set_fused_attn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fmlora_lab import progress
from fmlora_lab.backbone.device import compute_type, keep_memory, pick_device
from fmlora_lab.benchmarks.glyphs.renditions import SIDE, render
from fmlora_lab.benchmarks.glyphs.streams import CHARACTERS, LOOKALIKE, relatives
from fmlora_lab.benchmarks.glyphs.styles import PRETRAINING, Style, blend
from fmlora_lab.benchmarks.glyphs.typefaces import (
    TRAIN_FACES,
    characters_of,
    rasters,
    similarity,
)

BATCH = 128
LR = 1e-3
WARM_UP = 0.05
RAMP = (0.15, 0.55)
"""Shares of the schedule between which the augmentation grows from nothing to all of it."""
RESEMBLANCE = 0.7
"""Similarity to a benchmark character from which a character is kept out. Lower than what
parts the benchmark's own classes: ∑ and Σ, in which one may see one character, are at 0.80."""
ENOUGH_FACES = 4
"""A character must stand in so many training typefaces."""


def pretraining_characters() -> list[str]:
    """Letters, digits and symbols of any script that are no look-alike of a benchmark
    character, share no part or case with one, and are no look-alikes of each other."""
    faces = Counter(character for face in TRAIN_FACES for character in characters_of(face))
    forbidden = set().union(*map(relatives, CHARACTERS))
    candidates = [
        character
        for character, count in sorted(faces.items())
        if count >= ENOUGH_FACES
        and unicodedata.category(character)[0] in "LNPS"
        and not unicodedata.name(character, "").startswith("BRAILLE")
        and not relatives(character) & forbidden
    ]
    sheet = rasters(candidates, TRAIN_FACES)
    nearest = similarity(sheet, rasters(CHARACTERS, TRAIN_FACES)).amax(1)
    alike = similarity(sheet, sheet) >= LOOKALIKE
    drawn = sheet.flatten(1).any(1)
    chosen: list[int] = []
    for c in range(len(candidates)):
        if drawn[c] and nearest[c] < RESEMBLANCE and not alike[c, chosen].any():
            chosen.append(c)
    return [candidates[c] for c in chosen]


class Drawings:
    """Endless labelled images of the pre-training characters."""

    def __init__(self, characters: list[str], device: torch.device):
        sheet = rasters(characters, TRAIN_FACES)
        # Pairs of a character and a typeface that has it.
        self.pairs = sheet.flatten(2).any(2).nonzero().to(device)
        self.sheet = sheet.to(device)

    def batch(self, style: Style, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images float32 (BATCH, 3, SIDE, SIDE) in [-1, 1] and labels (BATCH,)."""
        picks = torch.randint(
            len(self.pairs), (BATCH,), generator=generator, device=generator.device
        )
        labels, faces = self.pairs[picks].unbind(1)
        pixels = render(self.sheet[labels, faces], style, generator)
        return pixels.float() / 127.5 - 1, labels


def pretrain(steps: int, seed: int, out: Path) -> None:
    """Train, and write the weights to `out` and the log beside it.

    Every 1000 steps the state goes to the folder for temporary files; the same command goes
    on from there, with the same images as if it had never stopped.
    """
    device = pick_device()
    if device.type == "cpu":
        set_fused_attn(False)
        keep_memory()
    characters = pretraining_characters()
    drawings = Drawings(characters, device)
    torch.manual_seed(seed)  # timm takes initial values from global state
    classes = len(characters)
    model = VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=128, depth=6, num_heads=2, num_classes=classes
    ).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.05)
    state = Path(tempfile.gettempdir()) / f"{out.stem}-{steps}-{seed}.checkpoint"
    first, records = 0, []
    if state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        first, records = saved["step"], saved["records"]
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])

    generator = torch.Generator(device)
    loss_sum = right = 0.0
    for step in progress.bar(range(first, steps), initial=first, total=steps, unit="step"):
        done = step / steps
        for group in optimiser.param_groups:
            group["lr"] = LR * min(done / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * done))
        generator.manual_seed(seed * 1_000_003 + step)
        start, end = RAMP
        share = min(max((done - start) / (end - start), 0.0), 1.0)
        images, labels = drawings.batch(blend(Style(), PRETRAINING, share), generator)
        with compute_type(device, "auto"):
            scores = model(images).float()
        loss = F.cross_entropy(scores, labels)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        loss_sum += loss.item()
        right += (scores.argmax(1) == labels).float().mean().item()
        if (step + 1) % 100 == 0:
            record = {"step": step + 1, "augmentation": share}
            record |= {"loss": loss_sum / 100, "accuracy": right / 100}
            records.append({key: round(value, 4) for key, value in record.items()})
            progress.write(json.dumps(records[-1]))
            loss_sum = right = 0.0
        if (step + 1) % 1000 == 0:
            kept = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save(kept | {"step": step + 1, "records": records}, state)

    weights = {
        name: tensor.cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("head.")
    }
    about = {"seed": str(seed), "steps": str(steps), "characters": "".join(characters)}
    save_file(weights, out, about | {"mean": "0.5", "std": "0.5"})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    out.with_suffix(".log.jsonl").write_text(lines)
    state.unlink(missing_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pre-train the backbone that ships with the lab.")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    pretrain(**vars(parser.parse_args()))
