"""What a backbone must offer so that every method can adapt it: a second one is a file, not a fork.

A tower names its linear layers as sites, turns images into features with the update and prompts
that are set, and hands its weights out again as a plain state dict.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from fmlora_lab.backbone.low_rank import Factors
from fmlora_lab.backbone.sites import Prompts, Site
from fmlora_lab.config import Backbone, BadInput


class Tower(nn.Module):
    """A frozen network whose sites and prompts a method sets before each forward pass.

    A subclass says `width`, `image_size`, `adapt`, `pixels_in` and `features`, and where prompts
    enter (`prompts_enter`); where it takes no prefixes, `set_prompts` should refuse them.
    `fingerprint` is the hash of the weights that the network was loaded with.

    One that `reads_text` says `tokens`, `text_features` and `scale` too: its classes are told by
    their texts instead of by a head that is trained.
    """

    reads_text = False

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.requires_grad_(False).eval()  # no dropout: features are all alike
        self.fingerprint = ""
        self.sites: list[Site] = []
        self.prompts: Prompts | None = None
        self.prompt_outputs: Tensor | None = None

    @property
    def width(self) -> int:
        """d, of the features."""
        raise NotImplementedError

    @property
    def token_width(self) -> int:
        """Of a token between blocks, and so of a prompt's; d but where features are projected."""
        return self.width

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

    def tokens(self, texts: Sequence[str]) -> Int64[Tensor, "n L"]:
        """Texts as the text tower takes them."""
        raise NotImplementedError

    def text_features(self, tokens: Int64[Tensor, "n L"]) -> Float[Tensor, "n d"]:
        """Of texts, unit vectors as those of images are, with the update that is set; float32."""
        raise NotImplementedError

    @property
    def scale(self) -> Float[Tensor, ""]:
        """By which cosines of images and texts are multiplied: the learned 1/temperature."""
        raise NotImplementedError

    def use_fused_attention(self, fused: bool) -> None:
        """Choose the attention kernel, where there is a choice."""

    @property
    def compilable(self) -> Sequence[nn.Module]:
        """Blocks whose forward passes `training.compiled` may compile, none by default. What is
        set for a step must reach them by their sites and their modules' attributes alone."""
        return ()

    def prompts_enter(self, first: nn.Module, last: nn.Module, at: int) -> None:
        """Have the prompts' tokens enter before the block `first` as tokens `at` and following, and
        leave after the block `last`."""
        self.prompts_at = at
        first.register_forward_pre_hook(self._insert_prompts)
        last.register_forward_hook(self._remove_prompts)

    # z_0 = [CLS ; P ; registers ; patches], after the position embedding: docs/method.md,
    # section 4.
    def _insert_prompts(self, block: nn.Module, args: tuple) -> tuple | None:
        if self.prompts is None or self.prompts.tokens is None:
            return None
        x, *rest = args
        P = self.prompts.tokens.to(x.dtype).expand(len(x), -1, -1)
        at = self.prompts_at
        return (torch.cat([x[:, :at], P, x[:, at:]], dim=1), *rest)

    # Taken out again after the last block, so that pooling and shapes are those of the network.
    def _remove_prompts(self, block: nn.Module, args: tuple, x: Tensor) -> Tensor:
        if self.prompts is None or self.prompts.tokens is None:
            return x
        at, end = self.prompts_at, self.prompts_at + self.prompts.tokens.shape[-2]
        self.prompt_outputs = x[:, at:end]
        return torch.cat([x[:, :at], x[:, end:]], dim=1)

    def set_prompts(self, prompts: Prompts | None) -> None:
        """Give the input its tokens, and the blocks' attention its prefixes."""
        self.prompts = prompts

    def set_update(self, factors: Sequence[Factors | None], prompts: Prompts | None) -> None:
        """Give every site its factors for this step, and set the prompts."""
        if len(factors) != len(self.sites):
            raise BadInput(f"there are {len(factors)} factors for {len(self.sites)} sites")
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
"""Backbones by `backbone.name`, or by what stands before its colon; any other name is the tag of a
timm ViT."""


def tower(name: str, weights: Path | None = None) -> Callable:
    """Make a function from a `Backbone` to a Tower known by `backbone.name`."""

    def enter(load: Callable[[Backbone], Tower]) -> Callable[[Backbone], Tower]:
        TOWERS[name] = Loader(load, weights)
        return load

    return enter


def loader_of(backbone: Backbone) -> Loader | None:
    """Who loads it, None of timm's."""
    return TOWERS.get(backbone.name.partition(":")[0])


def weight_file(backbone: Backbone) -> Path | None:
    """The weight file of a configured backbone, None where it comes from a hub."""
    loader = loader_of(backbone)
    return backbone.weights if loader is None or backbone.weights else loader.weights
