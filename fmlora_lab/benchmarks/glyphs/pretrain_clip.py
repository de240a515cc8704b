"""Train `glyphs-clip`, the two towers that ship with the lab, on characters and their names.

    python -m fmlora_lab.benchmarks.glyphs.pretrain_clip --steps 4000 --seed 0 --out FILE

Every step draws fresh images of `scripts.training_characters`, in training typefaces only, and a
text of each: its Unicode name in a template. The loss is CLIP's, images that share a text being
each other's as well. Half of a batch is of one script (what names begin with), so that its texts
differ in what tells characters of a script apart. The image tower starts as glyphs-vit, which was
trained on other characters without names: of the stream's characters it saw none.

Beside the weights it leaves a log of JSON lines: step, loss, temperature, and every 500 steps the
zero-shot accuracy, in test typefaces and plain style, of seen characters, of the domains' ones, and
of the unseen scripts, each among its own kind.
"""

import argparse
import json
import math
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.layers.config import set_fused_attn
from torch import Tensor

from fmlora_lab import progress
from fmlora_lab.backbone.device import compute_type, keep_memory, pick_device
from fmlora_lab.backbone.glyphs_clip import SCALE_LIMIT, GlyphsCLIP
from fmlora_lab.backbone.vit import GLYPHS_VIT
from fmlora_lab.benchmarks.glyphs.renditions import render
from fmlora_lab.benchmarks.glyphs.scripts import (
    SCRIPTS,
    TRAINING_TEMPLATES,
    text_of,
    training_characters,
    unseen_script,
    unseen_words,
)
from fmlora_lab.benchmarks.glyphs.styles import PRETRAINING, Style, blend
from fmlora_lab.benchmarks.glyphs.typefaces import TEST_FACES, TRAIN_FACES, rasters

BATCH = 192
LR = 1e-3
WARM_UP = 0.05
RAMP = (0.05, 0.4)
"""Shares of the schedule between which the augmentation grows from nothing to all of it."""
SEEN_PROBE = 120
"""How many seen characters are asked for, evenly from all."""


class Pairs:
    """Endless images and texts of the training characters."""

    def __init__(self, characters: Sequence[str]):
        self.texts = [text_of(character) for character in characters]
        self.sheet = rasters(characters, TRAIN_FACES, in_proportion=True)
        there = self.sheet.flatten(2).any(2)
        self.faces = [row.nonzero().flatten() for row in there]
        scripts: dict[str, list[int]] = defaultdict(list)
        for number, character in enumerate(characters):
            if len(self.faces[number]):
                scripts[unicodedata.name(character).split()[0]].append(number)
        self.scripts = [torch.tensor(own) for own in scripts.values() if len(own) >= 16]
        self.drawn = torch.cat([torch.tensor(own) for own in scripts.values()])

    def batch(self, style: Style, generator: torch.Generator) -> tuple[Tensor, list[str], Tensor]:
        """Images float32 (BATCH, 3, 32, 32) in [-1, 1], their texts, and who they are (BATCH,)."""

        def drawn(among: Tensor, count: int) -> Tensor:
            return among[torch.randint(len(among), (count,), generator=generator)]

        sizes = torch.tensor([len(own) for own in self.scripts], dtype=torch.float)
        script = self.scripts[torch.multinomial(sizes, 1, generator=generator)]
        who = torch.cat([drawn(self.drawn, BATCH - BATCH // 2), drawn(script, BATCH // 2)])
        faces = torch.stack([drawn(self.faces[c], 1)[0] for c in who.tolist()])
        pixels = render(self.sheet[who, faces], style, generator)
        said = torch.randint(len(TRAINING_TEMPLATES), (BATCH,), generator=generator).tolist()
        texts = [
            TRAINING_TEMPLATES[t].format(self.texts[c])
            for t, c in zip(said, who.tolist(), strict=True)
        ]
        return pixels.float() / 127.5 - 1, texts, who


@torch.no_grad()
def zero_shot(model: GlyphsCLIP, characters: Sequence[str], faces: Sequence[str]) -> float:
    """Accuracy in percent among these characters' own names, two plain drawings a typeface."""
    sheet = rasters(characters, faces, in_proportion=True).repeat_interleave(2, dim=1)
    who, face = sheet.flatten(2).any(2).nonzero().unbind(1)
    pixels = render(sheet[who, face], PRETRAINING, torch.Generator().manual_seed(1))
    images = [model.encode_image(part.float() / 127.5 - 1) for part in pixels.split(256)]
    texts = model.encode_text(model.words([text_of(character) for character in characters]))
    said = (torch.cat(images) @ F.normalize(texts).T).argmax(1)
    return 100 * (said == who).float().mean().item()


def probes(model: GlyphsCLIP) -> dict[str, float]:
    """Zero-shot accuracy of every kind of characters, each among its own."""
    seen = [c for c in training_characters() if rasters([c], TEST_FACES).any()]
    kinds = {"seen": seen[:: len(seen) // SEEN_PROBE][:SEEN_PROBE]}
    kinds |= {name: list(script.characters) for name, script in SCRIPTS.items()}
    kinds["unseen script"] = unseen_script()
    found = {name: zero_shot(model, own, TEST_FACES) for name, own in kinds.items()}
    found["unseen words"] = zero_shot(model, unseen_words(), TRAIN_FACES[:4])
    return {name: round(value, 1) for name, value in found.items()}


def loss_of(model: GlyphsCLIP, images: Tensor, texts: Tensor, who: Tensor) -> Tensor:
    """CLIP's loss, both ways; pairs of one character are each other's in equal shares."""
    shares = (who[:, None] == who).float()
    shares /= shares.sum(1, keepdim=True)
    cosines = F.normalize(images.float()) @ F.normalize(texts.float()).T
    logits = model.logit_scale.clamp(max=SCALE_LIMIT).exp() * cosines
    return (F.cross_entropy(logits, shares) + F.cross_entropy(logits.T, shares)) / 2


def pretrain(steps: int, seed: int, out: Path) -> None:
    """Train, and write the weights, in half precision, to `out` and the log beside it."""
    device = pick_device()
    if device.type == "cpu":
        set_fused_attn(False)
        keep_memory()
    characters = training_characters()
    vocabulary = sorted(
        {
            word
            for text in (*map(text_of, characters), *TRAINING_TEMPLATES)
            for word in text.replace("{}", "").split()
        }
    )
    pairs = Pairs(characters)
    torch.manual_seed(seed)  # initial values come from global state
    model = GlyphsCLIP(vocabulary)
    model.visual.load_state_dict(load_file(GLYPHS_VIT))
    model.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.05)
    generator, records, total = torch.Generator(), [], 0.0
    for step in progress.bar(range(steps), total=steps, unit="step"):
        done = step / steps
        for group in optimiser.param_groups:
            group["lr"] = LR * min(done / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * done))
        generator.manual_seed(seed * 1_000_003 + step)
        start, end = RAMP
        share = min(max((done - start) / (end - start), 0.0), 1.0)
        pixels, texts, who = pairs.batch(blend(Style(), PRETRAINING, share), generator)
        with compute_type(device, "auto"):
            images = model.encode_image(pixels.to(device))
            said = model.encode_text(model.words(texts).to(device))
        loss = loss_of(model, images, said, who.to(device))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        total += loss.item()
        if (step + 1) % 100 == 0:
            scale = model.logit_scale.exp().item()
            record = {"step": step + 1, "augmentation": share, "loss": total / 100, "scale": scale}
            total = 0.0
            if (step + 1) % 500 == 0:
                record |= probes(model.eval().cpu())
                model.train().to(device)
            records.append({key: round(value, 4) for key, value in record.items()})
            progress.write(json.dumps(records[-1]))
    weights = {
        name: tensor.cpu().half().contiguous() for name, tensor in model.state_dict().items()
    }
    about = {"seed": str(seed), "steps": str(steps), "characters": "".join(characters)}
    save_file(weights, out, about | {"vocabulary": " ".join(vocabulary)})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    out.with_suffix(".log.jsonl").write_text(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the two towers that ship with the lab.")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    pretrain(**vars(parser.parse_args()))
