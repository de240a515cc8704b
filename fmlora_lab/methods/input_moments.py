"""What enters the adapted layers: second moments of their inputs, in float64."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from fmlora_lab.backbone.sites import Site
from fmlora_lab.methods.method import alone


class InputMoments:
    """Second moments (1/n) Σ x xᵀ of every site's inputs x, gathered while images pass.

    In a 16-bit compute type a batch's sum is rounded to it, 0.2 to 0.4% of every number, unless
    `exact` asks for float32: rounded moments may have negative eigenvalues.
    """

    def __init__(self, sites: list[Site], exact: bool = False):
        self.exact = exact
        self.sums = [
            torch.zeros(s.d_in, s.d_in, dtype=torch.float64, device=s.weight.device) for s in sites
        ]
        self.counts = [0] * len(sites)
        self.hooks = [
            site.register_forward_pre_hook(partial(self._gather, number))
            for number, site in enumerate(sites)
        ]

    def _gather(self, number: int, site: Site, args: tuple) -> None:
        x = args[0].detach().reshape(-1, site.d_in).float()
        with torch.autocast(x.device.type, enabled=False) if self.exact else nullcontext():
            self.sums[number] += (x.T @ x).double()
        self.counts[number] += len(x)

    def take(
        self, add_up: Callable[[Sequence[Tensor]], None] = alone
    ) -> list[Float[Tensor, "d d"]]:
        """The moments of all sites' inputs; gathering ends. `add_up` is the method's."""
        for hook in self.hooks:
            hook.remove()
        counts = torch.tensor(self.counts)
        add_up([*self.sums, counts])
        self.counts = counts.tolist()
        return [total / count for total, count in zip(self.sums, self.counts, strict=True)]
