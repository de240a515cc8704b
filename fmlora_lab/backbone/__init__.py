"""Pre-trained networks, adapted from outside: low-rank sites, prompts, never a forked line.

Importing this package registers every tower.
"""

from fmlora_lab.backbone import two_towers

__all__ = ["two_towers"]
