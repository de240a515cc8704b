"""Augmentation in batch, on the device where the images live, from a seeded generator.

Random numbers are drawn on the CPU, so that every device sees the same ones, and for a whole batch,
so that whoever computes a part of it sees that part as it is in the whole.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fmlora_lab.backbone.device import onto
from fmlora_lab.benchmarks.stream import Images


def augment(pixels: Tensor, kind: str, crop_scale: float, generator: torch.Generator) -> Tensor:
    """Augment uint8 images (B, 3, H, W); the result is uint8 of the same shape.

    `none`; `shift`: up to a sixteenth of the side in x and y, edges repeated; `crop`: a random crop
    of at least `crop_scale` of the area (aspect 3/4 to 4/3, a side longer than the image cut to
    it), resized; `crop-flip`: that, mirrored half the time.
    """
    drawn = draw(len(pixels), pixels.shape[-2], kind, crop_scale, generator)
    return augmented(pixels, None if drawn is None else onto(pixels.device, drawn))


@dataclass(frozen=True, kw_only=True)
class Augmented(Images):
    """Images that are read and augmented when their pixels are asked for, on `device`, as was
    `drawn` for each; None leaves them as they are."""

    drawn: Tensor | None
    device: torch.device

    def __getitem__(self, index: Tensor | slice) -> Self:
        drawn = None if self.drawn is None else self.drawn[index]
        return replace(super().__getitem__(index), drawn=drawn)

    @cached_property
    def pixels(self) -> Tensor:
        """uint8 (n, 3, H, W)."""
        drawn = None if self.drawn is None else onto(self.device, self.drawn)
        return augmented(onto(self.device, super().pixels), drawn)


def draw(
    n: int, side: int, kind: str, crop_scale: float, generator: torch.Generator
) -> Tensor | None:
    """What becomes of each of n images of this height: shifts (n, 2), or crops as affine maps
    (n, 2, 3); None for nothing."""
    if kind == "shift":
        most = max(side // 16, 1)
        return torch.randint(-most, most + 1, (2, n), generator=generator).T.contiguous()
    if kind in ("crop", "crop-flip"):
        return _crops(n, crop_scale, generator, mirrored=kind == "crop-flip")
    return None


def augmented(pixels: Tensor, drawn: Tensor | None) -> Tensor:
    """uint8 images (B, 3, H, W) as was drawn for each."""
    if drawn is None:
        return pixels
    return _shift(pixels, drawn) if drawn.ndim == 2 else _crop_flip(pixels, drawn)


def _shift(pixels: Tensor, drawn: Tensor) -> Tensor:
    B, _, H, W = pixels.shape
    dy, dx = drawn.T[:, :, None]
    rows = (torch.arange(H, device=pixels.device) + dy).clamp(0, H - 1)
    columns = (torch.arange(W, device=pixels.device) + dx).clamp(0, W - 1)
    image = torch.arange(B, device=pixels.device)[:, None, None]
    return pixels.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def _crops(B: int, crop_scale: float, generator: torch.Generator, mirrored: bool) -> Tensor:
    u = torch.rand(5, B, generator=generator)
    area = crop_scale + (1 - crop_scale) * u[0]
    aspect = torch.exp((2 * u[1] - 1) * torch.log(torch.tensor(4 / 3)))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    mirror = torch.where(u[4] < 0.5 * mirrored, -1.0, 1.0)
    theta = torch.zeros(B, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * mirror, height
    theta[:, 0, 2], theta[:, 1, 2] = (2 * u[2] - 1) * (1 - width), (2 * u[3] - 1) * (1 - height)
    return theta


def _crop_flip(pixels: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    x = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    return x.round().clamp(0, 255).to(torch.uint8)
