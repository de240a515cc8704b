"""Settings with which a method learns in a few steps; the defaults do for all others."""

QUICK = {
    "fm-lora": {"basis_rank": 8, "lr": 0.01, "bases": {"lr": 0.01}, "prompt": {"tokens": 2}},
    "lora": {"rank": 4, "lr": 0.01},
    "full": {"lr": 0.003},
    "joint": {"lr": 0.003, "epochs": 3},
    "sd-lora": {"rank": 4, "lr": 0.01, "lr_magnitudes": 0.01},
    "inflora": {"rank": 4, "lr": 0.03, "threshold": 0.9},
    "c-lora": {"rank": 8, "lr": 0.02},
    "lilora": {"rank": 8, "own_rank": 2, "lr": 0.02},
    "o-lora": {"rank": 4, "lr": 0.01, "orthogonality": 0.05},
    "n-lora": {"rank": 4, "lr": 0.01, "sparsity": 1},
    "l2p": {"pool": 4, "length": 2, "top": 2, "lr": 0.03},
    "dualprompt": {
        "general_blocks": [0],
        "general_length": 2,
        "blocks": [1],
        "length": 4,
        "lr": 0.03,
    },
    "coda-prompt": {"components": 3, "length": 4, "blocks": [0, 1], "lr": 0.03},
    "hide-prompt": {
        "blocks": [0, 1],
        "length": 4,
        "lr": 0.03,
        "lr_inference": 0.01,
        "inference_epochs": 2,
        "contrast": 0.01,
    },
}
