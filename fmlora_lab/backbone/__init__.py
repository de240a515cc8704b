"""A pre-trained timm ViT, adapted from outside: low-rank sites, prompts, a head."""
