"""Augmentation in batch, on the device where the images live, from a seeded generator.

Random numbers are drawn on the CPU, so that every device sees the same ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fmlora_lab.backbone.device import onto


def augment(pixels: Tensor, kind: str, crop_scale: float, generator: torch.Generator) -> Tensor:
    """Augment uint8 images (B, 3, H, W); the result is uint8 of the same shape.

    `none`; `shift`: up to a sixteenth of the side in x and y, edges repeated; `crop`: a random crop
    of at least `crop_scale` of the area (aspect 3/4 to 4/3), resized; `crop-flip`: that, mirrored
    half the time.
    """
    if kind == "shift":
        return _shift(pixels, generator)
    if kind in ("crop", "crop-flip"):
        return _crop(pixels, crop_scale, generator, mirrored=kind == "crop-flip")
    return pixels


def _shift(pixels: Tensor, generator: torch.Generator) -> Tensor:
    B, _, H, W = pixels.shape
    most = max(H // 16, 1)
    dy, dx = onto(pixels.device, torch.randint(-most, most + 1, (2, B, 1), generator=generator))
    rows = (torch.arange(H, device=pixels.device) + dy).clamp(0, H - 1)
    columns = (torch.arange(W, device=pixels.device) + dx).clamp(0, W - 1)
    image = torch.arange(B, device=pixels.device)[:, None, None]
    return pixels.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def _crop(pixels: Tensor, crop_scale: float, generator: torch.Generator, mirrored: bool) -> Tensor:
    B = len(pixels)
    u = torch.rand(5, B, generator=generator)
    area = crop_scale + (1 - crop_scale) * u[0]
    aspect = torch.exp((2 * u[1] - 1) * torch.log(torch.tensor(4 / 3)))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    mirror = torch.where(u[4] < 0.5 * mirrored, -1.0, 1.0)
    theta = torch.zeros(B, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * mirror, height
    theta[:, 0, 2], theta[:, 1, 2] = (2 * u[2] - 1) * (1 - width), (2 * u[3] - 1) * (1 - height)
    grid = F.affine_grid(onto(pixels.device, theta), list(pixels.shape), align_corners=False)
    x = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    return x.round().clamp(0, 255).to(torch.uint8)
