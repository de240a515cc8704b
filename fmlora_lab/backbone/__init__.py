"""Pre-trained networks, adapted from outside: low-rank sites, prompts, never a forked line."""
