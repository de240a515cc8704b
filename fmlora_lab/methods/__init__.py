"""One page a method. Importing this package registers them all."""

from fmlora_lab.methods import (
    coda_prompt,
    dualprompt,
    fm_lora,
    full,
    hide_prompt,
    inflora,
    joint,
    l2p,
    linear_probe,
    lora,
    prototypes,
    sd_lora,
)
from fmlora_lab.methods.method import METHODS, Method, build, register

__all__ = [
    "METHODS",
    "Method",
    "build",
    "coda_prompt",
    "dualprompt",
    "fm_lora",
    "full",
    "hide_prompt",
    "inflora",
    "joint",
    "l2p",
    "linear_probe",
    "lora",
    "prototypes",
    "register",
    "sd_lora",
]
