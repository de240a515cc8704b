"""FM-LoRA: `fm_lora.py` is its page, the others its parts."""
