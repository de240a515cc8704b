"""Where images that took work to make are kept."""

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """The cache's root: `$FMLORA_CACHE`, else the user's cache folder. Not created here."""
    return Path(os.environ.get("FMLORA_CACHE") or platformdirs.user_cache_dir("fmlora-lab"))
