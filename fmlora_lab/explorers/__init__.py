"""Sliders over stored runs; importing it brings no torch."""

from fmlora_lab.explorers.experts import experts
from fmlora_lab.explorers.features import features
from fmlora_lab.explorers.forgotten import forgotten
from fmlora_lab.explorers.overlap import subspace_overlap
from fmlora_lab.explorers.prompt_drift import prompt_drift
from fmlora_lab.explorers.rank_choice import rank_choice

__all__ = [
    "experts",
    "features",
    "forgotten",
    "prompt_drift",
    "rank_choice",
    "subspace_overlap",
]
