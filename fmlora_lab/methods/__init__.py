"""One page a method. Importing this package registers them all."""

from fmlora_lab.methods import fm_lora, full, joint, linear_probe, lora, prototypes
from fmlora_lab.methods.method import METHODS, Method, build, register

__all__ = [
    "METHODS",
    "Method",
    "build",
    "fm_lora",
    "full",
    "joint",
    "linear_probe",
    "lora",
    "prototypes",
    "register",
]
