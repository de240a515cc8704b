"""What a method is called, for readers and in tables; without pandas, which is slow to import."""

from fmlora_lab.runs.store import Run

TITLES = {
    "fm-lora": "FM-LoRA",
    "sd-lora": "SD-LoRA",
    "inflora": "InfLoRA",
    "lora": "sequential LoRA",
    "hide-prompt": "HiDe-Prompt",
    "coda-prompt": "CODA-Prompt",
    "dualprompt": "DualPrompt",
    "l2p": "L2P",
    "full": "full fine-tuning",
    "linear-probe": "linear probe",
    "prototypes": "nearest class mean",
    "joint": "joint training",
}
"""A method's name for readers, in the order of a table's rows; a method that is not here goes by
its own name."""


def method_of(run: Run) -> str:
    """The name of a run's method, the usual label of a row."""
    return run.config["method"]["name"]
