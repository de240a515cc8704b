"""What a backbone must offer so that every method can adapt it: a second one is a file, not a fork.

A tower names its linear layers as sites, turns images into features with the update and prompts
that are set, and hands its weights out again as a plain state dict.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.sites import Prompts, Site
from fmlora_lab.config import Backbone


class Tower(nn.Module):
    """A frozen network whose sites and prompts a method sets before each forward pass.

    A subclass says `width`, `image_size`, `adapt`, `pixels_in` and `features`; where it takes no
    prompts, `set_prompts` should refuse them. `fingerprint` is the hash of the weights that the
    network was loaded with.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.requires_grad_(False).eval()  # no dropout: features are all alike
        self.fingerprint = ""
        self.sites: list[Site] = []
        self.prompts: Prompts | None = None

    @property
    def width(self) -> int:
        """d, of a token and of the features."""
        raise NotImplementedError

    @property
    def image_size(self) -> int:
        """Side of the input in pixels."""
        raise NotImplementedError

    def adapt(self, layers: Sequence[str], blocks: Sequence[int] | None = None) -> list[Site]:
        """Turn linear layers into sites and return them in the order of the network.

        `layers` are named by their part in a block, `attn.qkv` or `mlp.fc1`, whatever the network
        calls them; a site's name is its path in the network, by which `merge` finds its weight.
        BadInput where there is no such layer or block.
        """
        raise NotImplementedError

    def pixels_in(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
        """Images as the network takes them: resized and normalised."""
        raise NotImplementedError

    def features(self, pixels: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B d"]:
        """What a classifier would read, with the update and the prompts that are set; float32."""
        raise NotImplementedError

    def use_fused_attention(self, fused: bool) -> None:
        """Choose the attention kernel, where there is a choice."""

    def set_prompts(self, prompts: Prompts | None) -> None:
        """Give the input its tokens, and the blocks' attention its prefixes."""
        self.prompts = prompts

    def set_update(self, factors: Sequence[Factors | None], prompts: Prompts | None) -> None:
        """Give every site its factors for this step, and set the prompts."""
        self.set_prompts(prompts)
        for site, update in zip(self.sites, factors, strict=True):
            site.factors, site.folded = update, None

    @torch.no_grad()
    def frozen_features(self, pixels: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B d"]:
        """`features` of the backbone alone, without update and prompts, whatever is set."""
        kept, prompts = [(site.factors, site.folded) for site in self.sites], self.prompts
        self.set_update([None] * len(self.sites), None)
        found = self.features(pixels)
        for site, (factors, folded) in zip(self.sites, kept, strict=True):
            site.factors, site.folded = factors, folded
        self.set_prompts(prompts)
        return found

    @torch.no_grad()
    def fold(self) -> None:
        """For inference: form every effective weight once, until the next `set_update`.

        A site whose update depends on the images goes on as in training, and so do all in a
        16-bit compute type, which would round the update away.
        """
        for site in self.sites:
            by_input = site.factors is not None and site.factors.by_input
            if not by_input and not torch.is_autocast_enabled(site.weight.device.type):
                site.folded = site.effective_weight()

    @torch.no_grad()
    def merge(self) -> dict[str, Tensor]:
        """The network's plain state dict with the update summed in (in float64) at every site."""
        state = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        for site in self.sites:
            state[f"{site.name}.weight"] = site.effective_weight(torch.float64).clone()
        return state


class Loader(NamedTuple):
    load: Callable[[Backbone], Tower]
    weights: Path | None
    """The file that it reads where the configuration names none, so that its content can be
    remembered; None where there is no such file."""


TOWERS: dict[str, Loader] = {}
"""Backbones by `backbone.name`; any other name is the tag of a timm ViT."""


def tower(name: str, weights: Path | None = None) -> Callable:
    """Make a function from a `Backbone` to a Tower known by `backbone.name`."""

    def enter(load: Callable[[Backbone], Tower]) -> Callable[[Backbone], Tower]:
        TOWERS[name] = Loader(load, weights)
        return load

    return enter


def weight_file(backbone: Backbone) -> Path | None:
    """The weight file of a configured backbone, None where it comes from timm's hub."""
    if backbone.weights is not None or backbone.name not in TOWERS:
        return backbone.weights
    return TOWERS[backbone.name].weights
