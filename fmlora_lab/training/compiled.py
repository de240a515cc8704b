"""What lies between a tower's products as few kernels, by torch.compile.

Each block's forward pass is compiled from site to site: a residual sum, the normalisation after it
and the cast to the compute type are one kernel, and their gradients another. A site itself is
called as it is, outside of all graphs. So nothing that a method sets at a site is part of a graph,
and no rank, task, merge or watched input is a reason to compile again.
"""

from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from fmlora_lab.backbone.sites import Site
from fmlora_lab.backbone.tower import Tower
from fmlora_lab.config import BadInput

VARIANTS = 64
"""Graphs of one place at most, counted over all towers of a process: with and without gradients, of
one image, of other widths, of blocks with and without sites. Beyond it nothing is compiled."""


class OutsideSite(Site):
    """A site where graphs end. Its input is cast before, so that the cast is part of a kernel."""

    def __call__(self, x: Tensor) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        return _called(self, x)


# With its hooks: a method may watch what enters.
_called: Any = torch.compiler.disable(nn.Module.__call__)


def compile_blocks(model: Tower, backend: Any = "inductor") -> None:
    """Have the forward passes of a tower's blocks compiled when they are first needed; its sites
    are there already.

    Numbers of images and of tokens are symbols in the graphs. BadInput for a tower that has
    nothing to compile, and where there is nothing to compile it with.
    """
    if not model.compilable:
        raise BadInput(
            f"compile: a {type(model).__name__} has nothing to compile; allowed: backbones of one "
            "tower that timm has"
        )
    if not hasattr(torch._dynamo.config, "nested_graph_breaks"):
        raise BadInput(f"compile: it needs a newer torch than {torch.__version__}")
    if backend == "inductor" and next(model.parameters()).device.type == "cpu":
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise BadInput(
                "compile: no C++ compiler is there; install g++, or name it in CXX"
            ) from error
    torch._dynamo.config.nested_graph_breaks = True  # what surrounds a site stays one graph
    torch._dynamo.config.specialize_float = True  # a norm's epsilon is a constant
    torch._dynamo.config.skip_nnmodule_hook_guards = False  # whoever watches a module is heard
    torch._dynamo.config.recompile_limit = VARIANTS
    for site in model.sites:
        site.__class__ = OutsideSite  # the same parameters, called in another way
    for block in model.compilable:
        block.forward = torch.compile(block.forward, backend=backend, dynamic=True)
